"""Gauss-Newton conjugate gradients with damping, as a pure step function.

    (JᵀJ + Λ + μI) s = −∇f by conjugate gradients, preconditioned by diagonal blocks of it;  x₊ = x + s if f falls

A product with JᵀJ is a pass, and so is a trial point, which brings f, ∇f and the blocks there. The inner iteration ends
when its residual, in the preconditioner's norm, has fallen by min(½, √(‖∇f‖/‖∇f₀‖)), which keeps convergence
superlinear. For problems whose matrix is too large for `lm`. Source: Nocedal and Wright, Numerical Optimization,
algorithm 7.1, damped instead of line searches.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from nimc_spark.solvers.damping import Damping
from nimc_spark.solvers.lm import curvature, damped_step
from nimc_spark.solvers.oracle import Along, Answer, At, Evaluation, Query, Vector, Want, evaluation_of, product_of
from nimc_spark.solvers.progress import Progress
from nimc_spark.solvers.solver import Iterate
from nimc_spark.solvers.stopping import StopReason

_MOST_PRODUCTS = 100


class Inner(NamedTuple):
    """Conjugate gradients on the way: s, residual r = −∇f − (B + μI)s, direction d, rᵀz and its first value."""

    s: Vector
    residual: Vector
    direction: Vector
    rz: float
    first: float
    products: int


class GncgState(NamedTuple):
    """Either `inner` waits for a product along its direction, or `trial` for its evaluation."""

    trial: Vector
    best: Iterate | None
    at_best: Evaluation | None
    inner: Inner | None
    foretold: float
    damping: Damping
    steepest: float
    stalls: int
    stopped: StopReason | None

    @property
    def queries(self) -> tuple[Query, ...]:
        if self.inner is not None and self.best is not None:
            return (Along(self.best.x, self.inner.direction, exact=False),)
        return (At(self.trial, Want.BLOCKS),)


@dataclass(frozen=True)
class Gncg:
    """Gauss-Newton conjugate gradients; holds about ten vectors of the parameters' size, and the blocks."""

    progress: Progress

    def start(self, x: Vector) -> GncgState:
        return GncgState(x, None, None, None, 0.0, Damping(0.0), 0.0, 0, None)

    def step(self, state: GncgState, answers: Sequence[Answer]) -> GncgState:
        """The state after the product or the evaluation that it asked for."""
        if state.inner is not None:
            return self._product(state, state.inner, product_of(answers[0]))
        return self._evaluated(state, evaluation_of(answers[0]))

    def _evaluated(self, state: GncgState, at_trial: Evaluation) -> GncgState:
        after, before = Iterate(state.trial, *at_trial[:2]), state.best
        if before is None:
            if not at_trial.finite():
                return state._replace(best=after, stopped=StopReason.NON_FINITE)
            damping = Damping.first(curvature(at_trial).trace(), int((after.gradient != 0).sum()))
            stopped = StopReason.GRADIENT if self.progress.flat(after) else None
            steepest = float(np.linalg.norm(after.gradient))
            state = state._replace(best=after, at_best=at_trial, damping=damping, steepest=steepest, stopped=stopped)
            return self._begin(state, at_trial)
        if not at_trial.finite() or at_trial.value >= before.value:
            if self.progress.hopeless(before, state.foretold):
                return state._replace(stopped=StopReason.STALLED)
            damping = state.damping.failed()
            if damping.exhausted or state.at_best is None:
                return state._replace(stopped=StopReason.LINE_SEARCH)
            return self._begin(state._replace(damping=damping), state.at_best)
        gain = (before.value - after.value) / state.foretold
        stalls, stopped = self.progress.judge(before, after, state.stalls)
        state = state._replace(best=after, at_best=at_trial, stalls=stalls, stopped=stopped)
        return self._begin(state._replace(damping=state.damping.held(gain)), at_trial)

    def _begin(self, state: GncgState, at: Evaluation) -> GncgState:
        """The first direction of the inner iteration: −M⁻¹∇f, M the damped blocks."""
        if state.stopped is not None:
            return state
        damping, z = damped_step(at, state.damping)
        rz = -float(at.gradient @ z)
        inner = Inner(np.zeros_like(z), -at.gradient, z, rz, rz, 0)
        return state._replace(damping=damping, inner=inner)

    def _product(self, state: GncgState, inner: Inner, product: Vector) -> GncgState:
        best, at = state.best, state.at_best
        if best is None or at is None:
            raise ValueError("a product belongs to an iterate")
        d, mu = inner.direction, state.damping.value
        bent = product + mu * d
        step = inner.rz / float(d @ bent)
        s, residual = inner.s + step * d, inner.residual - step * bent
        z = curvature(at).solve(residual, mu)
        rz = float(residual @ z)
        inner = Inner(s, residual, z + (rz / inner.rz) * d, rz, inner.first, inner.products + 1)
        forcing = min(0.5, float(np.sqrt(np.linalg.norm(best.gradient) / state.steepest)))
        if rz > forcing**2 * inner.first and inner.products < _MOST_PRODUCTS:
            return state._replace(inner=inner)
        # sᵀBs of s = −∇fᵀs − μsᵀs − rᵀs, so the model foretells the decrease without another product.
        bend = -float(best.gradient @ s) - mu * float(s @ s) - float(residual @ s)
        foretold = -float(best.gradient @ s) - 0.5 * bend
        return state._replace(trial=best.x + s, inner=None, foretold=foretold)
