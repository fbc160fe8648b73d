"""Limited-memory BFGS with a weak-Wolfe line search, as a pure step function.

    direction  −H ∇f, H from the last `memory` pairs s = x₊ − x, y = ∇f₊ − ∇f by the two-loop recursion
    a step t is accepted when f(x + t d) ≤ f + c₁ t ∇fᵀd and ∇f(x + t d)ᵀd ≥ c₂ ∇fᵀd, which makes sᵀy > 0

The step is bracketed by bisection and doubling (Lewis and Overton). Nearly every iteration takes its first trial, so
that an iteration is a pass. Source: Nocedal and Wright, Numerical Optimization, algorithm 7.4.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from nimc_spark.solvers.oracle import Answer, At, Evaluation, Query, Vector, evaluation_of
from nimc_spark.solvers.progress import Progress
from nimc_spark.solvers.solver import Iterate
from nimc_spark.solvers.stopping import StopReason

_SUFFICIENT_DECREASE = 1e-4
_CURVATURE = 0.9
_MAX_TRIALS = 30
_ROUNDING = 1e-15


class LbfgsState(NamedTuple):
    """`low`/`high` bracket the step t along `direction`; `pairs` are (s, y) oldest first."""

    trial: Vector
    best: Iterate | None
    direction: Vector
    step: float
    low: float
    high: float
    trials: int
    pairs: tuple[tuple[Vector, Vector], ...]
    stalls: int
    stopped: StopReason | None

    @property
    def queries(self) -> tuple[Query, ...]:
        return (At(self.trial),)


@dataclass(frozen=True)
class Lbfgs:
    """L-BFGS; holds 2·memory + 5 vectors of the parameters' size."""

    progress: Progress
    memory: int = 20

    def start(self, x: Vector) -> LbfgsState:
        return LbfgsState(x, None, np.zeros_like(x), 0.0, 0.0, np.inf, 0, (), 0, None)

    def step(self, state: LbfgsState, answers: Sequence[Answer]) -> LbfgsState:
        """The state after the trial point was evaluated."""
        (at_trial,) = map(evaluation_of, answers)
        if state.best is None:
            return self._first(state, at_trial)
        slope = float(state.best.gradient @ state.direction)
        t = state.step
        if not at_trial.finite() or at_trial.value > state.best.value + _SUFFICIENT_DECREASE * t * slope:
            return self._bracket(state, low=state.low, high=t)
        if float(at_trial.gradient @ state.direction) < _CURVATURE * slope:
            return self._bracket(state, low=t, high=state.high)
        return self._accept(state, Iterate(state.trial, *at_trial[:2]))

    def _first(self, state: LbfgsState, evaluation: Evaluation) -> LbfgsState:
        best = Iterate(state.trial, *evaluation[:2])
        if not evaluation.finite():
            return state._replace(best=best, stopped=StopReason.NON_FINITE)
        if self.progress.flat(best):
            return state._replace(best=best, stopped=StopReason.GRADIENT)
        # Nothing is known of the curvature yet, but that the variables are scaled for it to be about 1.
        return self._search(state._replace(best=best), -best.gradient, 1.0)

    def _accept(self, state: LbfgsState, after: Iterate) -> LbfgsState:
        before = state.best
        if before is None:
            raise ValueError("a step is accepted after a first evaluation only")
        s, y = after.x - before.x, after.gradient - before.gradient
        # At the rounding floor sᵀy may be lost; such a pair would spoil the direction.
        sound = float(s @ y) > _ROUNDING * _norm(s) * _norm(y)
        pairs = (*state.pairs, (s, y))[-self.memory :] if sound else state.pairs
        stalls, stopped = self.progress.judge(before, after, state.stalls)
        state = state._replace(best=after, pairs=pairs, stalls=stalls, stopped=stopped)
        if stopped is not None:
            return state
        return self._search(state, -_inverse_hessian_times(pairs, after.gradient), 1.0)

    def _search(self, state: LbfgsState, direction: Vector, step: float) -> LbfgsState:
        if state.best is None:
            raise ValueError("a search starts from an iterate")
        trial = state.best.x + step * direction
        return state._replace(trial=trial, direction=direction, step=step, low=0.0, high=np.inf, trials=1)

    def _bracket(self, state: LbfgsState, low: float, high: float) -> LbfgsState:
        if state.best is None:
            raise ValueError("a bracket belongs to an iterate")
        if state.trials >= _MAX_TRIALS:
            return state._replace(stopped=StopReason.LINE_SEARCH)
        step = 2.0 * low if np.isinf(high) else 0.5 * (low + high)
        trial = state.best.x + step * state.direction
        return state._replace(trial=trial, step=step, low=low, high=high, trials=state.trials + 1)


def _inverse_hessian_times(pairs: tuple[tuple[Vector, Vector], ...], gradient: Vector) -> Vector:
    """H ∇f by the two-loop recursion, H₀ = (sᵀy / yᵀy) I of the newest pair; H = I without pairs."""
    q = gradient.copy()
    if not pairs:
        return q
    weights = []
    for s, y in reversed(pairs):
        rho = 1.0 / float(s @ y)
        a = rho * float(s @ q)
        q -= a * y
        weights.append((rho, a))
    s, y = pairs[-1]
    q *= float(s @ y) / float(y @ y)
    for (s, y), (rho, a) in zip(pairs, reversed(weights), strict=True):
        q += (a - rho * float(y @ q)) * s
    return q


def _norm(x: Vector) -> float:
    return float(np.sqrt(x @ x))
