"""Planted problems: Gaussian features, ratings of a known model without noise, pairs drawn with replacement.

    x_i, y_j ~ N(0, I_d),  A_ij = φ(U*ᵀx_i)ᵀ φ(V*ᵀy_j),  U*, V* (d, k) with singular values from κ down to 1

Source: section 4 of the NIMC paper (simulations).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from nimc_spark.data.local import LocalOracle, Observations, records_of_arrays
from nimc_spark.data.oracle import BoundOracle
from nimc_spark.kernels.activations import activation
from nimc_spark.kernels.features import dense_rows
from nimc_spark.kernels.model import Model, SideName, Vector
from nimc_spark.kernels.objective import GroupPenalty, Layout, Objective, objective, random_start
from nimc_spark.kernels.statistics import FeatureCounts, rows_of
from nimc_spark.solvers.multistart import Outcome, best_outcome, minimize
from nimc_spark.solvers.oracle import ScaledOracle
from nimc_spark.solvers.solver import Solver

Matrix = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Setting:
    """A planted problem: φ of both sides, n users and n items, d features, rank k, κ, |Ω|, and the seed of all."""

    activation: str
    n: int
    d: int
    k: int
    kappa: float
    pairs: int
    seed: int


class Planted:
    """The data of a setting, its oracle and objective, and how far a model is from the truth on fresh pairs."""

    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        random = np.random.default_rng([setting.seed, setting.n, setting.d, setting.k, setting.pairs])
        n, d, phi = setting.n, setting.d, activation(setting.activation).value
        self.U, self.V = (conditioned(random, d, setting.k, setting.kappa) for _ in range(2))
        self.X, self.Y = random.normal(size=(2, n, d))
        user, item = random.integers(0, n, (2, setting.pairs))
        rating = (phi(self.X @ self.U)[user] * phi(self.Y @ self.V)[item]).sum(axis=1)
        self.observations = Observations(user, item, rating)
        self.model = Model(setting.k, d, d, setting.activation, setting.activation, linear=False, dtype="float64")
        self.passes = LocalOracle(records_of_arrays([self.X], [self.Y], self.observations, self.model.dtype))
        self.goal, self.counts = unpenalized(self.passes, self.model, setting.pairs)
        fresh = random.normal(size=(2, FRESH, d))
        self._fresh = (fresh[0], fresh[1], phi(fresh[0] @ self.U) @ phi(fresh[1] @ self.V).T)

    def resampled(self, random: np.random.Generator) -> BoundOracle:
        """The oracle of fresh users, items and pairs of the same truth."""
        n, pairs, phi = self.setting.n, self.setting.pairs, activation(self.setting.activation).value
        X, Y = random.normal(size=(2, n, self.setting.d))
        user, item = random.integers(0, n, (2, pairs))
        rating = (phi(X @ self.U)[user] * phi(Y @ self.V)[item]).sum(axis=1)
        records = records_of_arrays([X], [Y], Observations(user, item, rating), self.model.dtype)
        return LocalOracle(records).bind(self.goal)

    @property
    def truth(self) -> Vector:
        return np.concatenate([self.U.ravel(), self.V.ravel()])

    def oracle(self) -> BoundOracle:
        return self.passes.bind(self.goal)

    def error(self, theta: Vector) -> float:
        """‖prediction − truth‖_F / ‖truth‖_F over fresh users × fresh items."""
        phi, (X, Y, truth) = activation(self.setting.activation).value, self._fresh
        U, V = self.model.unravel(theta)
        return float(np.linalg.norm(phi(X @ U) @ phi(Y @ V).T - truth) / np.linalg.norm(truth))

    def starts(self, number: int, spread: float = 1.0) -> list[Vector]:
        """Random starts whose pre-activations have standard deviation `spread`."""
        count, seed = self.setting.pairs, self.setting.seed
        return [random_start(self.model, self.counts, count, seed, start, spread) for start in range(number)]

    def scaled(self) -> ScaledOracle:
        """The oracle in the variables that training uses."""
        return ScaledOracle(self.oracle(), self.goal.scale)


# Fresh users and items on which errors are measured.
FRESH = 200


def conditioned(random: np.random.Generator, d: int, k: int, kappa: float) -> Matrix:
    """A random (d, k) matrix with singular values evenly spaced from κ to 1."""
    left, right = (np.linalg.qr(random.normal(size=(rows, k)))[0] for rows in (d, k))
    product: Matrix = (left * np.linspace(kappa, 1.0, k)) @ right.T
    return product


def feature_counts(passes: LocalOracle, model: Model) -> dict[SideName, Vector]:
    """c_r (d,) of each side: what scales penalties, starts and the solver's variables."""
    sums = passes.run(FeatureCounts(), model, [model.unravel(np.zeros(model.size))])[0]
    return {side: dense_rows(rows_of(sums, side.value), model.width(side))[:, 0] for side in SideName}


def unpenalized(passes: LocalOracle, model: Model, count: int) -> tuple[Objective, dict[SideName, Vector]]:
    """The papers' raw objective (3) on a data set, and its feature counts."""
    counts = feature_counts(passes, model)
    layouts = {side: Layout((("attributes", model.width(side)),)) for side in SideName}
    none = {side: {"attributes": GroupPenalty(0.0, 0.0)} for side in SideName}
    return objective(model, count, counts, layouts, none, 0.5), counts


def fitted(planted: Planted, solver: Solver[Any], starts: Sequence[Vector], passes: int) -> tuple[Vector, Outcome]:
    """The best of several starts by training loss, as parameters, and how it ended."""
    scaled = planted.scaled()
    outcomes = minimize(scaled, solver, [scaled.to_scaled(start) for start in starts], passes)
    best = best_outcome(outcomes)
    return scaled.from_scaled(best.iterate.x), best
