"""The tensor start's error against the number of users, items and pairs: Theorem 2.1 and Section 3.3 of the NIMC paper.

Grids of n users × n items, all pairs observed, and pairs whose users and items are all fresh; no noise, k = 5, d = 10.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from nimc_spark.data.local import LocalOracle, Observations, records_of_arrays
from nimc_spark.data.tensor_start import tensor_start
from nimc_spark.kernels.activations import activation
from nimc_spark.kernels.alignment import align
from nimc_spark.kernels.model import Model, Parameters
from nimc_spark.reports.page import Cell, Page, Table
from nimc_spark.studies.study import Lab
from nimc_spark.studies.synthetic import conditioned

K, D, KAPPA = 5, 10, 2.0
# (name, users and items, pairs are fresh), and what a prototype reached on them.
SIZES = [
    ("100 × 100", 100, False),
    ("400 × 400", 400, False),
    ("1600 × 1600", 1600, False),
    ("1e5 fresh", 100_000, True),
]
PROTOTYPE = {"sigmoid": "0.30, 0.11, 0.070, 0.024", "tanh": "0.31, 0.11, 0.067", "relu": "0.19, 0.09, 0.036"}
NAMES = ("sigmoid", "tanh", "relu", "leaky_relu(0.1)")


class Trial(NamedTuple):
    activation: str
    n: int
    fresh: bool
    seed: int


def tensor(lab: Lab) -> Page:
    """A table of median errors, an activation a row."""
    sizes, trials = (SIZES[:2], 3) if lab.quick else (SIZES, 5)
    tasks = [Trial(name, n, fresh, lab.seed + t) for name in NAMES for _, n, fresh in sizes for t in range(trials)]
    errors = np.array(lab.map(start_error, tasks)).reshape(len(NAMES), len(sizes), trials)
    rows: list[list[Cell]] = [
        [name, *(float(m) for m in np.median(mine, axis=1)), PROTOTYPE.get(name)]
        for name, mine in zip(NAMES, errors, strict=True)
    ]
    columns = ["φ", *(label for label, _, _ in sizes), "a prototype's"]
    note = f"Aligned relative error of [U; V], median of {trials} seeds."
    return Page("tensor", "The tensor start", [INTRO, Table("errors", columns, rows, note)])


def start_error(trial: Trial) -> float:
    """The aligned relative error of the start on a planted problem."""
    random = np.random.default_rng([trial.seed, trial.n])
    U, V = (conditioned(random, D, K, KAPPA) for _ in range(2))
    X, Y = random.normal(size=(2, trial.n, D))
    n = trial.n
    user, item = (np.arange(n), np.arange(n)) if trial.fresh else np.divmod(np.arange(n * n), n)
    phi = activation(trial.activation).value
    P, Q = phi(X @ U), phi(Y @ V)
    rating = np.einsum("ik,ik->i", P, Q) if trial.fresh else (P @ Q.T).ravel()
    model = Model(K, D, D, trial.activation, trial.activation, linear=False, dtype="float64")
    passes = LocalOracle(records_of_arrays([X], [Y], Observations(user, item, rating), "float64"))
    found = tensor_start(passes, model, trial.seed).theta
    return float(align(model, model.unravel(found), Parameters(U, V)).error)


INTRO = """The start that `init: tensor` computes from moments of the ratings, against the planted parameters, after
columns are matched (and signs or scales that no data can tell are taken out). As printed in the paper the recipe needs
far more samples; here regressions take the place of averages. The error follows the number of distinct users and items.
From random starts `lm` succeeds as often in fewer passes all told, so the start is an option and not the default."""
