"""Adam on the full gradient, as a pure step function: for comparison with the papers and with other systems.

    m ← β₁ m + (1 − β₁) ∇f,  v ← β₂ v + (1 − β₂) ∇f²,  x ← x − t m̂ / (√v̂ + ε),  m̂ and v̂ freed of their start at 0

The loss may rise on the way; `best` is the smallest so far. Source: Kingma and Ba, Adam, algorithm 1.
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

_MEAN, _SQUARE, _EPSILON = 0.9, 0.999, 1e-8
# Its loss rises and falls: only so many steps in a row without progress are a stall.
_PATIENCE = 30


class AdamState(NamedTuple):
    trial: Vector
    best: Iterate | None
    mean: Vector
    square: Vector
    steps: int
    idle: int
    stopped: StopReason | None

    @property
    def queries(self) -> tuple[Query, ...]:
        return (At(self.trial),)


@dataclass(frozen=True)
class Adam:
    """`step_size` is in the solver's (scaled) variables."""

    progress: Progress
    step_size: float = 0.03

    def start(self, x: Vector) -> AdamState:
        return AdamState(x, None, np.zeros_like(x), np.zeros_like(x), 0, 0, None)

    def step(self, state: AdamState, answers: Sequence[Answer]) -> AdamState:
        """The state after the trial point was evaluated."""
        (at_trial,) = map(evaluation_of, answers)
        after = Iterate(state.trial, *at_trial[:2])
        if not at_trial.finite():
            if state.best is None:
                return state._replace(best=after, stopped=StopReason.NON_FINITE)
            return state._replace(stopped=StopReason.DIVERGED)
        state = self._kept(state, after)
        steps = state.steps + 1
        mean = _MEAN * state.mean + (1 - _MEAN) * after.gradient
        square = _SQUARE * state.square + (1 - _SQUARE) * after.gradient**2
        unbiased, spread = mean / (1 - _MEAN**steps), np.sqrt(square / (1 - _SQUARE**steps))
        trial = after.x - self.step_size * unbiased / (spread + _EPSILON)
        return state._replace(trial=trial, mean=mean, square=square, steps=steps)

    def _kept(self, state: AdamState, after: Iterate) -> AdamState:
        before = state.best
        if before is None or after.value < before.value:
            fell = before is None or before.value - after.value > self.progress.tolerance * abs(before.value)
            idle = 0 if fell else state.idle + 1
            stopped = StopReason.GRADIENT if self.progress.flat(after) else None
            state = state._replace(best=after, idle=idle, stopped=stopped)
        else:
            state = state._replace(idle=state.idle + 1)
        return state._replace(stopped=StopReason.STALLED) if state.idle >= _PATIENCE else state
