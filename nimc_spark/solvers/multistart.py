"""Minimize from several starts in the same passes, and keep the one with the smallest loss."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from nimc_spark.solvers.oracle import Oracle, Vector
from nimc_spark.solvers.solver import Iterate, Solver
from nimc_spark.solvers.stopping import StopReason


# Compared by identity: arrays have no single truth value.
@dataclass(frozen=True, eq=False)
class Outcome:
    """Where one start ended, and why."""

    iterate: Iterate
    reason: StopReason


@dataclass(frozen=True)
class PassRecord:
    """After a pass: its number from 1, and the best loss so far of each start."""

    number: int
    losses: tuple[float, ...]


class Race:
    """Solver runs of several problems over one Ω, an oracle and a start each, in the same passes.

    A pass answers the queries of all runs that have not stopped; `run` is any of the oracles' pass.
    """

    def __init__(self, problems: Sequence[tuple[Oracle, Vector]], solver: Solver[Any]) -> None:
        self._oracles = [oracle for oracle, _ in problems]
        self._states = [solver.start(x) for _, x in problems]
        self._solver = solver
        self.left: set[int] = set()
        self.passes = 0

    @property
    def running(self) -> list[int]:
        """Places of the runs that go on."""
        return [i for i, state in enumerate(self._states) if state.stopped is None and i not in self.left]

    def leave(self, place: int) -> None:
        """This run goes no further."""
        self.left.add(place)

    def advance(self, passes: int, on_pass: Callable[[PassRecord], None] = lambda record: None) -> None:
        """So many passes more, or until all have stopped."""
        for _ in range(passes):
            running = self.running
            if not running:
                return
            asked = [self._oracles[i].requests(self._states[i].queries) for i in running]
            results = iter(self._oracles[running[0]].run([request for requests in asked for request in requests]))
            for i, requests in zip(running, asked, strict=True):
                state = self._states[i]
                answers = self._oracles[i].answers(state.queries, list(islice(results, len(requests))))
                self._states[i] = self._solver.step(state, answers)
            self.passes += 1
            on_pass(PassRecord(self.passes, tuple(state.best.value for state in self._states)))

    def outcomes(self) -> list[Outcome]:
        """Where each run is, in the order of the problems."""
        return [Outcome(state.best, state.stopped or StopReason.MAX_PASSES) for state in self._states]


def minimize(
    oracle: Oracle,
    solver: Solver[Any],
    starts: Sequence[Vector],
    max_passes: int,
    on_pass: Callable[[PassRecord], None] = lambda record: None,
) -> list[Outcome]:
    """Run the solver from every start; a pass answers the queries of all starts still running.

    Stops when all have stopped or after `max_passes` ≥ 1 passes. Outcomes are in the order of the starts.
    """
    race = Race([(oracle, start) for start in starts], solver)
    race.advance(max_passes, on_pass)
    return race.outcomes()


def best_outcome(outcomes: Sequence[Outcome]) -> Outcome:
    """The smallest training loss among starts that did not fail; the first outcome if all failed."""
    sound = [o for o in outcomes if not o.reason.failed]
    return min(sound, key=lambda o: o.iterate.value) if sound else outcomes[0]
