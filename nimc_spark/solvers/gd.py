"""Gradient descent with a step that is halved when the loss does not fall, as a pure step function.

    x₊ = x − t ∇f(x)      t starts at `step_size` and is halved until f falls by c₁ t ‖∇f‖², and kept from then on

With `constant` the step is kept as it is and every finite point is accepted, as in Theorem 3.3 of the NIMC paper, whose
step is 1/M_u (`lanczos.py`); without it halving takes the place of a known M_u.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from nimc_spark.solvers.oracle import Answer, At, Query, Vector, evaluation_of
from nimc_spark.solvers.progress import Progress
from nimc_spark.solvers.solver import Iterate
from nimc_spark.solvers.stopping import StopReason

_SUFFICIENT_DECREASE = 1e-4
_MAX_HALVINGS = 40


class GdState(NamedTuple):
    trial: Vector
    best: Iterate | None
    step_size: float
    halvings: int
    stalls: int
    stopped: StopReason | None

    @property
    def queries(self) -> tuple[Query, ...]:
        return (At(self.trial),)


@dataclass(frozen=True)
class Gd:
    """Gradient descent; `step_size` is in the solver's (scaled) variables, where the curvature is about 1."""

    progress: Progress
    step_size: float = 1.0
    constant: bool = False

    def start(self, x: Vector) -> GdState:
        return GdState(x, None, self.step_size, 0, 0, None)

    def step(self, state: GdState, answers: Sequence[Answer]) -> GdState:
        """The state after the trial point was evaluated."""
        (at_trial,) = map(evaluation_of, answers)
        after = Iterate(state.trial, *at_trial[:2])
        before = state.best
        if before is None:
            if not at_trial.finite():
                return state._replace(best=after, stopped=StopReason.NON_FINITE)
            stopped = StopReason.GRADIENT if self.progress.flat(after) else None
            return _move(state._replace(best=after, stopped=stopped), after)
        if self.constant:
            return self._constant(state, before, after)
        needed = _SUFFICIENT_DECREASE * state.step_size * float(before.gradient @ before.gradient)
        if not at_trial.finite() or at_trial.value > before.value - needed:
            if state.halvings >= _MAX_HALVINGS:
                return state._replace(stopped=StopReason.LINE_SEARCH)
            return _move(state._replace(step_size=state.step_size / 2, halvings=state.halvings + 1), before)
        stalls, stopped = self.progress.judge(before, after, state.stalls)
        return _move(state._replace(best=after, halvings=0, stalls=stalls, stopped=stopped), after)

    def _constant(self, state: GdState, before: Iterate, after: Iterate) -> GdState:
        if not np.isfinite(after.value):
            return state._replace(stopped=StopReason.DIVERGED)
        rose = after.value > before.value
        stalls, stopped = (0, None) if rose else self.progress.judge(before, after, state.stalls)
        return _move(state._replace(best=after, stalls=stalls, stopped=stopped), after)


def _move(state: GdState, start: Iterate) -> GdState:
    return state._replace(trial=start.x - state.step_size * start.gradient)
