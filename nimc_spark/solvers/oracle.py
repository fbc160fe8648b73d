"""What a solver may know of the problem: values and gradients at a list of points, a pass a list."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

Vector = npt.NDArray[np.float64]


class Evaluation(NamedTuple):
    """f and ∇f (p,) at a point."""

    value: float
    gradient: Vector

    def finite(self) -> bool:
        return bool(np.isfinite(self.value) and np.isfinite(self.gradient).all())


class Oracle(Protocol):
    """One call is one pass over Ω, whatever the number of points."""

    def evaluate(self, points: Sequence[Vector]) -> list[Evaluation]: ...


class ScaledOracle:
    """The same problem in the variables z = θ / scale: f(scale∘z), gradient scale∘∇f.

    `scale` (p,) ≥ 0; a variable with scale 0 stays at 0.
    """

    def __init__(self, oracle: Oracle, scale: Vector) -> None:
        self._oracle = oracle
        self._scale = scale

    def evaluate(self, points: Sequence[Vector]) -> list[Evaluation]:
        return [
            Evaluation(e.value, self._scale * e.gradient)
            for e in self._oracle.evaluate([self._scale * z for z in points])
        ]

    def to_scaled(self, theta: Vector) -> Vector:
        return np.divide(theta, self._scale, out=np.zeros_like(theta), where=self._scale > 0)

    def from_scaled(self, z: Vector) -> Vector:
        return self._scale * z
