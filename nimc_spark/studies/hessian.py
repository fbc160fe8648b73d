"""Curvature at the truth: the constants of Eq. (10), λ_min = ρ, ReLU's flat directions, and λ_min on samples.

Population limit with orthogonal U* = V* = I: every entry of the Hessian is a product of one-dimensional moments

    (u_l, u_m)[a, b] = E[φ'(x_l) φ'(x_m) x_a x_b] E[φ(y_l) φ(y_m)]
    (u_l, v_m)[a, b] = E[φ'(x_l) φ(x_m) x_a] E[φ(y_l) φ'(y_m) y_b]

Source: Theorem 3.2, Theorem 3.4 and Appendix D of the NIMC paper.
"""

from __future__ import annotations

from functools import cache
from itertools import product

import numpy as np
import numpy.typing as npt

from nimc_spark.kernels.activations import activation
from nimc_spark.kernels.alignment import gauge
from nimc_spark.kernels.gaussian import constants, expectation
from nimc_spark.kernels.model import Model, Parameters
from nimc_spark.reports.page import Cell, Page, Part, Table
from nimc_spark.solvers.oracle import Want
from nimc_spark.studies.study import Lab
from nimc_spark.studies.synthetic import Planted, Setting

Matrix = npt.NDArray[np.float64]
ZERO = 1e-10


@cache
def moment(name: str, values: int, slopes: int, power: int) -> float:
    """E[φ(z)^values φ'(z)^slopes z^power] by quadrature."""
    phi = activation(name)

    def integrand(z: float) -> float:
        at = np.array([z])
        return float(phi.value(at)[0] ** values * phi.slope(at)[0] ** slopes) * z**power

    return expectation(integrand)


def population_hessian(name: str, k: int) -> Matrix:
    """(2k², 2k²) Hessian at U* = V* = I_k, of f = ½ E(A − A*)², in the order of `Model.ravel`."""

    def joint(values: list[int], slopes: list[int], features: list[int]) -> float:
        powers = [(values.count(t), slopes.count(t), features.count(t)) for t in range(k)]
        return float(np.prod([moment(name, *p) for p in powers]))

    same, cross = np.zeros((k, k, k, k)), np.zeros((k, k, k, k))
    for a, l, b, m in product(range(k), repeat=4):  # noqa: E741
        same[a, l, b, m] = joint([], [l, m], [a, b]) * joint([l, m], [], [])
        cross[a, l, b, m] = joint([m], [l], [a]) * joint([l], [m], [b])
    n = k * k
    upper = cross.reshape(n, n)
    return np.block([[same.reshape(n, n), upper], [upper.T, same.reshape(n, n)]])


def gauged(full: Matrix, name: str, k: int) -> Matrix:
    """The Hessian at U* = V* = I under objective (4), which fixes one entry of each unit that scales freely."""
    model = Model(k, k, k, name, name, linear=False)
    free = ~gauge(model, Parameters(np.eye(k), np.eye(k)))
    return full[np.ix_(free, free)]


def hessian(lab: Lab) -> Page:
    """Constants, the population limit, and samples."""
    parts: list[Part] = [INTRO, _constants(), _population(2 if lab.quick else 4), *_samples(lab)]
    return Page("hessian", "Curvature at the truth", parts)


def _constants() -> Table:
    rows = [[name, *constants(name), constants(name).rho] for name in ("sigmoid", "tanh", "relu", "erf", "softplus")]
    columns = ["φ", "α₁₀", "α₁₁", "α₂₀", "β₁₀", "β₁₁", "β₁₂", "β₂₀", "β₂₂", "γ", "ρ"]
    return Table("constants", columns, rows)


def _population(largest: int) -> Table:
    rows: list[list[Cell]] = []
    for name in ("sigmoid", "tanh", "relu", "identity"):
        for k in range(2, largest + 1):
            full = population_hessian(name, k)
            values, fixed = np.linalg.eigvalsh(full), np.linalg.eigvalsh(gauged(full, name, k))
            zeros = [int((v < ZERO).sum()) for v in (values, fixed)]
            rho = constants(name).rho if name in ("sigmoid", "tanh") else None
            rows.append([name, k, float(values[0]), rho, zeros[0], float(fixed[0]), zeros[1]])
    columns = ["φ", "k", "λ_min", "ρ", "zero eigenvalues, objective (3)", "λ_min, objective (4)", "zeros, (4)"]
    note = "Objective (4) fixes an entry of each column of U, and so ReLU's k scalings; of identity's k² it fixes k."
    return Table("population", columns, rows, note)


def _samples(lab: Lab) -> list[Part]:
    n, trials = 100, 2 if lab.quick else 5
    settings = [
        Setting(name, size, 10, 5, kappa, pairs, lab.seed + t)
        for name in ("sigmoid", "tanh", "relu")
        for size, pairs in ((n, 1000), (n, 4000), (4 * n, 4000), (4 * n, 16000))
        for kappa in (1.0, 2.0, 5.0)
        for t in range(trials)
    ]
    found = np.array(lab.map(extremes_at_truth, settings)).reshape(-1, trials, 4)
    rows: list[list[Cell]] = [
        [s.activation, s.n, s.pairs, s.kappa, *(float(v) for v in np.median(values, axis=0))]
        for s, values in zip(settings[::trials], found, strict=True)
    ]
    columns = ["φ", "n", "|Ω|", "κ", "least above zero", "λ_max", "zeros, (3)", "zeros, (4)"]
    note = f"Medians of {trials} planted problems, k = 5, d = 10, at the truth, by the assembled Hessian of a pass."
    return [Table("samples", columns, rows, note)]


def extremes_at_truth(setting: Setting) -> tuple[float, float, int, int]:
    """The least eigenvalue above zero, the largest, and how many are zero under objectives (3) and (4)."""
    planted = Planted(setting)
    curvature = planted.oracle().evaluate([planted.truth], Want.HESSIAN)[0].curvature
    if curvature is None:
        raise TypeError("no matrix was given")
    full, free = curvature.matrix(), ~gauge(planted.model, planted.model.unravel(planted.truth))
    values, fixed = np.linalg.eigvalsh(full), np.linalg.eigvalsh(full[np.ix_(free, free)])
    edge = ZERO * values[-1]
    zeros, left = (int((np.abs(v) <= edge).sum()) for v in (values, fixed))
    return float(values[np.abs(values) > edge][0]), float(values[-1]), zeros, left


INTRO = """Constants of Eq. (10), the Hessian's least eigenvalue at the truth in the population limit (orthogonal U*,
V*), and on sampled pairs. The paper's theorem bounds λ_min from below by a multiple of ρ; at orthogonal U*, V* it is ρ
itself (sigmoid from k = 3 on, tanh from k = 2). ReLU has k directions of zero curvature, a scaling of each unit."""
