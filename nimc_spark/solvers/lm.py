"""Levenberg-Marquardt on the assembled Gauss-Newton matrix, as a pure step function.

    (JᵀJ + Λ + μI) s = −∇f,  x₊ = x + s if f falls

A trial point costs one pass, which brings f, ∇f and JᵀJ there at once; with `trials` > 1 a pass also tries larger
dampings μν, μν·2ν, … in case the first fails. JᵀJ has p²/2 numbers, so this is for few parameters.
Source: Madsen, Nielsen and Tingleff, algorithm 3.16.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from nimc_spark.solvers.curvature import BlockDiagonal
from nimc_spark.solvers.damping import Damping
from nimc_spark.solvers.oracle import Answer, At, Evaluation, Query, Vector, Want, evaluation_of
from nimc_spark.solvers.progress import Progress
from nimc_spark.solvers.solver import Iterate
from nimc_spark.solvers.stopping import StopReason


class LmState(NamedTuple):
    """`trials` are the points that a pass evaluates, each with the damping that led there."""

    trials: tuple[tuple[Vector, Damping], ...]
    best: Iterate | None
    at_best: Evaluation | None
    stalls: int
    stopped: StopReason | None

    @property
    def queries(self) -> tuple[Query, ...]:
        return tuple(At(x, Want.MATRIX) for x, _ in self.trials)


@dataclass(frozen=True)
class Lm:
    """Levenberg-Marquardt; holds one p × p matrix a start."""

    progress: Progress
    trials: int = 1

    def start(self, x: Vector) -> LmState:
        return LmState(((x, Damping(0.0)),), None, None, 0, None)

    def step(self, state: LmState, answers: Sequence[Answer]) -> LmState:
        """The state after the trial points were evaluated."""
        found = [evaluation_of(answer) for answer in answers]
        if state.best is None or state.at_best is None:
            return self._first(state, found[0])
        for (x, damping), at_trial in zip(state.trials, found, strict=True):
            if at_trial.finite() and at_trial.value < state.best.value:
                return self._accept(state, state.best, Iterate(x, *at_trial[:2]), at_trial, damping)
        x, damping = state.trials[-1]
        if self.progress.hopeless(state.best, _foretold(state.best, x, damping)):
            return state._replace(stopped=StopReason.STALLED)
        damping = damping.failed()
        if damping.exhausted:
            return state._replace(stopped=StopReason.LINE_SEARCH)
        return state._replace(trials=self._trials(state.best, state.at_best, damping))

    def _first(self, state: LmState, at_start: Evaluation) -> LmState:
        best = Iterate(state.trials[0][0], *at_start[:2])
        if not at_start.finite():
            return state._replace(best=best, stopped=StopReason.NON_FINITE)
        stopped = StopReason.GRADIENT if self.progress.flat(best) else None
        damping = Damping.first(curvature(at_start).trace(), int((best.gradient != 0).sum()))
        trials = self._trials(best, at_start, damping)
        return state._replace(trials=trials, best=best, at_best=at_start, stopped=stopped)

    def _accept(
        self, state: LmState, before: Iterate, after: Iterate, at_trial: Evaluation, damping: Damping
    ) -> LmState:
        gain = (before.value - after.value) / _foretold(before, after.x, damping)
        stalls, stopped = self.progress.judge(before, after, state.stalls)
        trials = self._trials(after, at_trial, damping.held(gain))
        return state._replace(trials=trials, best=after, at_best=at_trial, stalls=stalls, stopped=stopped)

    def _trials(self, best: Iterate, at_best: Evaluation, damping: Damping) -> tuple[tuple[Vector, Damping], ...]:
        trials = []
        for _ in range(self.trials):
            damping, s = damped_step(at_best, damping)
            trials.append((best.x + s, damping))
            damping = damping.failed()
        return tuple(trials)


def _foretold(best: Iterate, x: Vector, damping: Damping) -> float:
    """The decrease that the quadratic model foretells of its damped step to x: ½ sᵀ(μs − ∇f)."""
    s = x - best.x
    return 0.5 * float(s @ (damping.value * s - best.gradient))


def damped_step(at: Evaluation, damping: Damping) -> tuple[Damping, Vector]:
    """−(B + μI)⁻¹ ∇f, with the damping raised until the matrix is not singular."""
    while True:
        try:
            return damping, -curvature(at).solve(at.gradient, damping.value)
        except np.linalg.LinAlgError:
            damping = Damping(max(10 * damping.value, np.finfo(float).tiny), damping.growth, damping.failures)


def curvature(at: Evaluation) -> BlockDiagonal:
    """The curvature that was asked for."""
    if at.curvature is None:
        raise TypeError("this evaluation has no curvature")
    return at.curvature
