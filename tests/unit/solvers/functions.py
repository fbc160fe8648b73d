"""Functions with known minima, as oracles that count their calls."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from nimc_spark.solvers.curvature import BlockDiagonal
from nimc_spark.solvers.oracle import Along, Answer, Evaluation, Oracle, Query, Vector, Want


class Counted(Oracle):
    """An oracle of one function; `calls` holds the number of queries of every call.

    Its curvature, where a query wants one, is a central difference of the gradient.
    """

    def __init__(self, function: Callable[[Vector], tuple[float, Vector]]) -> None:
        self._function = function
        self.calls: list[int] = []

    def run(self, queries: Sequence[Query]) -> list[Answer]:
        self.calls.append(len(queries))
        return [self._one(query) for query in queries]

    def _one(self, query: Query) -> Answer:
        if isinstance(query, Along):
            return self._hessian(query.x) @ query.direction
        if query.want is Want.GRADIENT:
            return Evaluation(*self._function(query.x))
        return Evaluation(*self._function(query.x), BlockDiagonal((self._hessian(query.x)[None],)))

    def _hessian(self, x: Vector, step: float = 1e-5) -> Vector:
        moves = step * np.eye(len(x))
        rows = np.array([(self._function(x + e)[1] - self._function(x - e)[1]) / (2 * step) for e in moves])
        return (rows + rows.T) / 2


# ½ (x − m)ᵀ A (x − m) + 3 with eigenvalues of A from 0.5 to 2.
MINIMUM = np.array([1.0, -2.0, 0.5, 3.0])
_ROTATION = np.linalg.qr(np.random.default_rng(0).normal(size=(4, 4)))[0]
HESSIAN = _ROTATION @ np.diag([0.5, 0.8, 1.5, 2.0]) @ _ROTATION.T


def quadratic(x: Vector) -> tuple[float, Vector]:
    gradient = HESSIAN @ (x - MINIMUM)
    return 0.5 * float((x - MINIMUM) @ gradient) + 3.0, gradient


def rosenbrock(x: Vector) -> tuple[float, Vector]:
    """100 (x₂ − x₁²)² + (1 − x₁)², least at (1, 1)."""
    a, b = x
    inner = b - a * a
    return 100 * inner**2 + (1 - a) ** 2, np.array([-400 * a * inner - 2 * (1 - a), 200 * inner])


def fenced(x: Vector) -> tuple[float, Vector]:
    """Five times the quadratic, NaN further than 0.3 from its minimum: first steps of length 1 and more fall off."""
    value, gradient = quadratic(x)
    if np.linalg.norm(x - MINIMUM) > 0.3:
        return float("nan"), np.full_like(x, np.nan)
    return 5 * value, 5 * gradient
