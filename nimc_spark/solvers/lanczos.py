"""The extreme eigenvalues of ∇²f by Lanczos on products: each is a pass.

Gives the constants of the certificate: λ_min ≥ −τ is a τ-relaxed second-order point, M_u = λ_max the step 1/M_u.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.sparse.linalg import ArpackNoConvergence, LinearOperator, eigsh

from nimc_spark.solvers.oracle import Oracle, Vector


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
    oracle: Oracle, x: Vector, free: npt.NDArray[np.bool_], seed: int = 0, tolerance: float = 1e-6, limit: int = 1000
) -> Extremes:
    """λ_min and λ_max of ∇²f(x) over the variables that are `free` (p,), by at most about `limit` products each."""
    count = int(free.sum())
    calls = 0

    def times(v: Vector) -> Vector:
        nonlocal calls
        calls += 1
        full = np.zeros(len(x))
        full[free] = v.ravel()
        return oracle.product(x, full)[free]

    if count <= 2:
        values, vectors = np.linalg.eigh(np.column_stack([times(e) for e in np.eye(count)]))
        return Extremes(values[0], values[-1], _full(free, vectors[:, 0]), _full(free, vectors[:, -1]), calls, True)
    operator = LinearOperator((count, count), matvec=times, dtype=np.float64)
    v0 = np.random.default_rng(seed).standard_normal(count)
    found, sound = {}, True
    for which in ("SA", "LA"):
        size = min(count, 40)
        try:
            values, vectors = eigsh(operator, 1, which=which, v0=v0, tol=tolerance, ncv=size, maxiter=limit // size + 1)
        except ArpackNoConvergence as error:
            sound = False
            values, vectors = error.eigenvalues, error.eigenvectors
            if len(values) == 0:
                values, vectors = np.array([np.nan]), np.full((count, 1), np.nan)
        found[which] = (float(values[0]), _full(free, vectors[:, 0]))
    (least, bottom), (largest, top) = found["SA"], found["LA"]
    return Extremes(least, largest, bottom, top, calls, sound)


def _full(free: npt.NDArray[np.bool_], v: Vector) -> Vector:
    full = np.zeros(len(free))
    full[free] = v
    return full
