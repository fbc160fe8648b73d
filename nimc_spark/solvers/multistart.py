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
    """After a pass: its number from 1, and the loss at which each start would end."""

    number: int
    losses: tuple[float, ...]


@dataclass(frozen=True, eq=False)
class Course:
    """Where a minimization stands: the state of each start, and the losses after each pass so far."""

    states: tuple[Any, ...]
    losses: tuple[tuple[float, ...], ...] = ()


class Watch:
    """Sees a minimization's course; this one lets it run from beginning to end."""

    def begin(self, course: Course) -> Course:
        """Where to begin: the course given, or one that was kept."""
        return course

    def after(self, course: Course) -> StopReason | None:
        """Called after each pass; a reason ends the minimization there."""
        return None

    def interrupted(self, course: Course) -> None:
        """Called with the course after the last whole pass, when an exception ends the minimization."""


class Race:
    """Solver runs of several problems over one Ω, an oracle and a start each, in the same passes.

    A pass answers the queries of all runs that have not stopped; `run` is any of the oracles' pass.
    """

    def __init__(self, problems: Sequence[tuple[Oracle, Vector]], solver: Solver[Any]) -> None:
        self._oracles = [oracle for oracle, _ in problems]
        self.course = Course(tuple(solver.start(x) for _, x in problems))
        self._solver = solver
        self.left: set[int] = set()

    @property
    def passes(self) -> int:
        """Passes so far."""
        return len(self.course.losses)

    @property
    def running(self) -> list[int]:
        """Places of the runs that go on."""
        return [i for i, state in enumerate(self.course.states) if state.stopped is None and i not in self.left]

    def leave(self, place: int) -> None:
        """This run goes no further."""
        self.left.add(place)

    def advance(self, passes: int, on_pass: Callable[[PassRecord], None] = lambda record: None) -> None:
        """So many passes more, or until all have stopped."""
        for _ in range(passes):
            running = self.running
            if not running:
                return
            states = list(self.course.states)
            asked = [self._oracles[i].requests(states[i].queries) for i in running]
            results = iter(self._oracles[running[0]].run([request for requests in asked for request in requests]))
            for i, requests in zip(running, asked, strict=True):
                answers = self._oracles[i].answers(states[i].queries, list(islice(results, len(requests))))
                states[i] = self._solver.step(states[i], answers)
            losses = tuple(state.best.value for state in states)
            # At once, so that what interrupts a pass leaves the course after the one before.
            self.course = Course(tuple(states), (*self.course.losses, losses))
            on_pass(PassRecord(self.passes, losses))

    def outcomes(self, reason: StopReason = StopReason.MAX_PASSES) -> list[Outcome]:
        """Where each run is, in the order of the problems; `reason` is that of runs which could go on.

        A run that is above where it began has diverged, whatever else it says.
        """
        first = self.course.losses[0]
        return [
            Outcome(state.best, StopReason.DIVERGED if state.best.value > begun else state.stopped or reason)
            for state, begun in zip(self.course.states, first, strict=True)
        ]


def minimize(
    oracle: Oracle,
    solver: Solver[Any],
    starts: Sequence[Vector],
    max_passes: int,
    on_pass: Callable[[PassRecord], None] = lambda record: None,
    watch: Watch | None = None,
) -> list[Outcome]:
    """Run the solver from every start; a pass answers the queries of all starts still running.

    Stops when all have stopped, after `max_passes` ≥ 1 passes, or when `watch` says so. `on_pass` hears of every pass,
    first of those before the course that `watch` begins with. Outcomes are in the order of the starts.
    """
    watch = watch or Watch()
    race = Race([(oracle, start) for start in starts], solver)
    race.course = watch.begin(race.course)
    for number, losses in enumerate(race.course.losses, 1):
        on_pass(PassRecord(number, losses))
    reason: StopReason | None = None
    try:
        while reason is None and race.running and race.passes < max_passes:
            race.advance(1, on_pass)
            reason = watch.after(race.course)
    except BaseException:
        watch.interrupted(race.course)
        raise
    return race.outcomes(reason or StopReason.MAX_PASSES)


def best_outcome(outcomes: Sequence[Outcome]) -> Outcome:
    """The smallest training loss among starts that did not fail; the first outcome if all failed."""
    sound = [o for o in outcomes if not o.reason.failed]
    return min(sound, key=lambda o: o.iterate.value) if sound else outcomes[0]
