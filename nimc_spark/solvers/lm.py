"""Levenberg-Marquardt on the assembled Gauss-Newton matrix, as a pure step function.

    (JᵀJ + Λ + μI) s = −∇f,  x₊ = x + s if f falls

A trial point costs one pass, which brings f, ∇f and JᵀJ there at once. JᵀJ has p²/2 numbers, so this is for few
parameters.
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
    """`trial` is the point that a pass evaluates, and `damping` what led there."""

    trial: Vector
    damping: Damping
    best: Iterate | None
    at_best: Evaluation | None
    stalls: int
    stopped: StopReason | None

    @property
    def queries(self) -> tuple[Query, ...]:
        return (At(self.trial, Want.MATRIX),)


@dataclass(frozen=True)
class Lm:
    """Levenberg-Marquardt; holds one p × p matrix a start."""

    progress: Progress

    def start(self, x: Vector) -> LmState:
        return LmState(x, Damping(0.0), None, None, 0, None)

    def step(self, state: LmState, answers: Sequence[Answer]) -> LmState:
        """The state after the trial point was evaluated."""
        (at_trial,) = map(evaluation_of, answers)
        after, damping = Iterate(state.trial, *at_trial[:2]), state.damping
        before, at_best = state.best, state.at_best
        if before is None or at_best is None:
            return self._first(state, after, at_trial)
        foretold = _foretold(before, after.x, damping)
        if at_trial.finite() and after.value < before.value:
            stalls, stopped = self.progress.judge(before, after, state.stalls)
            state = state._replace(best=after, at_best=at_trial, stalls=stalls, stopped=stopped)
            return _moved(state, after, at_trial, damping.held((before.value - after.value) / foretold))
        if self.progress.hopeless(before, foretold):
            return state._replace(stopped=StopReason.STALLED)
        damping = damping.failed()
        if damping.exhausted:
            return state._replace(stopped=StopReason.LINE_SEARCH)
        return _moved(state, before, at_best, damping)

    def _first(self, state: LmState, start: Iterate, at_start: Evaluation) -> LmState:
        if not at_start.finite():
            return state._replace(best=start, stopped=StopReason.NON_FINITE)
        stopped = StopReason.GRADIENT if self.progress.flat(start) else None
        damping = Damping.first(curvature(at_start).trace(), int((start.gradient != 0).sum()))
        return _moved(state._replace(best=start, at_best=at_start, stopped=stopped), start, at_start, damping)


def _moved(state: LmState, best: Iterate, at_best: Evaluation, damping: Damping) -> LmState:
    damping, s = damped_step(at_best, damping)
    return state._replace(trial=best.x + s, damping=damping)


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
