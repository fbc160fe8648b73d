"""The extreme eigenvalues of ∇²f: of the whole matrix where it is small, else by Lanczos on products, each a pass.

Gives the constants of the certificate: λ_min ≥ −τ is a τ-relaxed second-order point, M_u = λ_max the step 1/M_u.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.sparse.linalg import ArpackNoConvergence, LinearOperator, eigsh

from nimc_spark.solvers.oracle import Oracle, Vector, Want

# Up to so many variables one pass brings the matrix.
MOST_DENSE = 500
# Lanczos wants more variables than eigenvalues, and keeps so many vectors.
_FEWEST, _KEPT = 2, 40


class Extremes(NamedTuple):
    """The least and the largest eigenvalue of ∇²f with their eigenvectors (p,), unit length, and the products it took.

    `converged` is False where the limit of products was reached first; the values are then the best estimates.
    """

    least: float
    largest: float
    bottom: Vector
    top: Vector
    products: int
    converged: bool


def extreme_eigenvalues(
    oracle: Oracle,
    x: Vector,
    free: npt.NDArray[np.bool_],
    seed: int = 0,
    tolerance: float = 1e-6,
    limit: int = 1000,
    most_dense: int = MOST_DENSE,
) -> Extremes:
    """λ_min and λ_max of ∇²f(x) over the variables that are `free` (p,), by at most about `limit` products each.

    The residuals of both are at most `tolerance` times λ_max, so that a λ_min near zero settles too.
    Up to `most_dense` variables it takes one pass, which brings the matrix.
    """
    count = int(free.sum())
    if count <= max(most_dense, _FEWEST):
        return _dense(oracle, x, free)
    calls = 0

    def times(v: Vector) -> Vector:
        nonlocal calls
        calls += 1
        full = np.zeros(len(x))
        full[free] = v.ravel()
        return oracle.product(x, full)[free]

    random = np.random.default_rng(seed)
    v0 = random.standard_normal(count)

    def top_of(product: Callable[[Vector], Vector]) -> tuple[float, Vector, bool]:
        operator = LinearOperator((count, count), matvec=product, dtype=np.float64)
        first = product(v0)
        if not first.any():
            # Zero at a random vector is zero everywhere, of which ARPACK can make nothing.
            return 0.0, _full(free, v0 / np.linalg.norm(v0)), True
        size, sound = min(count, _KEPT, max(limit, _FEWEST)), True
        settings = {"v0": v0, "tol": tolerance, "ncv": size, "maxiter": max(limit // size, 1), "rng": random}
        try:
            values, vectors = eigsh(operator, 1, which="LA", **settings)
        except ArpackNoConvergence as error:
            sound, values, vectors = False, error.eigenvalues, error.eigenvectors
            if len(values) == 0:
                values, vectors = np.array([v0 @ first / (v0 @ v0)]), v0[:, None] / np.linalg.norm(v0)
        return float(values[0]), _full(free, vectors[:, 0]), sound

    largest, top, top_found = top_of(times)
    # ARPACK's tolerance is relative to the eigenvalue, which here is of the size of λ_max.
    depth, bottom, bottom_found = top_of(lambda v: largest * v.ravel() - times(v))
    return Extremes(largest - depth, largest, bottom, top, calls, top_found and bottom_found)


def _dense(oracle: Oracle, x: Vector, free: npt.NDArray[np.bool_]) -> Extremes:
    found = oracle.evaluate([x], Want.HESSIAN)[0].curvature
    if found is None:
        raise TypeError("the oracle gave no matrix")
    values, vectors = np.linalg.eigh(found.matrix()[np.ix_(free, free)])
    bottom, top = (_full(free, vectors[:, end]) for end in (0, -1))
    return Extremes(float(values[0]), float(values[-1]), bottom, top, 1, True)


def _full(free: npt.NDArray[np.bool_], v: Vector) -> Vector:
    full = np.zeros(len(free))
    full[free] = v
    return full
