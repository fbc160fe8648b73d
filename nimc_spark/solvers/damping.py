"""The damping μ of (B + μI) s = −∇f: raised when a step fails, lowered by how well the model foretold one that holds.

    gain   ρ = (f − f₊) / (½ sᵀ(μ s − ∇f))         the decrease over what the quadratic model foretold
    held   μ ← μ · max(1/5, 1 − (2ρ − 1)³), ν ← 2       failed   μ ← μ ν, ν ← 2 ν

Source: Nielsen's rule, in Madsen, Nielsen and Tingleff, Methods for non-linear least squares problems, section 3.2,
with a floor of 1/5 in place of 1/3 (measured: fewer passes).
"""

from __future__ import annotations

from typing import NamedTuple

# The first damping, as a share of the mean diagonal entry of the curvature.
_FIRST_SHARE = 1e-2
_FLOOR = 0.2
_MOST_FAILURES = 25


class Damping(NamedTuple):
    """μ, the factor ν of the next failure, and failures in a row."""

    value: float
    growth: float = 2.0
    failures: int = 0

    @staticmethod
    def first(trace: float, size: int) -> Damping:
        return Damping(_FIRST_SHARE * trace / max(size, 1) or 1.0)

    def held(self, gain: float) -> Damping:
        return Damping(self.value * max(_FLOOR, 1 - (2 * gain - 1) ** 3))

    def failed(self) -> Damping:
        return Damping(self.value * self.growth, 2 * self.growth, self.failures + 1)

    @property
    def exhausted(self) -> bool:
        """No step helps any more: the damping has grown beyond reason."""
        return self.failures >= _MOST_FAILURES
