"""When an accepted step ends the search: one test for every solver."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from nimc_spark.solvers.solver import Iterate
from nimc_spark.solvers.stopping import StopReason

# Steps in a row that must stall: one short step says little about a nonconvex loss.
_STALLS = 3
_ROUNDING = 4 * np.finfo(float).eps


@dataclass(frozen=True)
class Progress:
    """Stop on ‖∇f‖∞ ≤ gradient_tolerance, or when f falls by less than tolerance·|f| in three steps running."""

    tolerance: float
    gradient_tolerance: float

    def judge(self, before: Iterate, after: Iterate, stalls: int) -> tuple[int, StopReason | None]:
        """The new count of stalled steps, and the reason to stop, if any."""
        if self.flat(after):
            return stalls, StopReason.GRADIENT
        stalled = before.value - after.value <= self.tolerance * abs(before.value)
        stalls = stalls + 1 if stalled else 0
        return stalls, StopReason.STALLED if stalls >= _STALLS else None

    def hopeless(self, at: Iterate, foretold: float) -> bool:
        """A step that failed although the model foretold no more than a stall or rounding: no other will do better."""
        return foretold <= max(self.tolerance, _ROUNDING) * abs(at.value)

    def flat(self, iterate: Iterate) -> bool:
        return bool(np.max(np.abs(iterate.gradient), initial=0.0) <= self.gradient_tolerance)
