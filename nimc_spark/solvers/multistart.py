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
    states = [solver.start(x) for x in starts]
    for number in range(1, max_passes + 1):
        running = [i for i, state in enumerate(states) if state.stopped is None]
        if not running:
            break
        answers = iter(oracle.answer([query for i in running for query in states[i].queries]))
        for i in running:
            states[i] = solver.step(states[i], list(islice(answers, len(states[i].queries))))
        on_pass(PassRecord(number, tuple(state.best.value for state in states)))
    return [Outcome(state.best, state.stopped or StopReason.MAX_PASSES) for state in states]


def best_outcome(outcomes: Sequence[Outcome]) -> Outcome:
    """The smallest training loss among starts that did not fail; the first outcome if all failed."""
    sound = [o for o in outcomes if not o.reason.failed]
    return min(sound, key=lambda o: o.iterate.value) if sound else outcomes[0]
