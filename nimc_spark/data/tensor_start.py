"""A start near the planted model, from moments of the ratings: the tensor initialization of the NIMC paper.

Passes over Ω, the same for `LocalOracle` and `SparkOracle`:

    1    means and covariances of the features, which standardize them: x̃ = Σ^{−1/2}(x − μ)
    2    ratings on [1, x̃] ⊗ [1, ỹ]: the coefficient matrix C of x̃ ⊗ ỹ, whose SVD gives the subspaces P, Q
    3    what is left on Hermite features of Pᵀx̃ ⊗ [1, Qᵀỹ]: a tensor whose rank-one terms are the directions
    4    its mirror image
    5-7  the same once more, with the high terms of 3 and 4 taken off the ratings before 2: they are most of its noise
    8 …  the 2k norms, by Levenberg-Marquardt with the directions fixed, `NORM_PASSES` at most; linear terms are fitted
         with them even where the model has none: else errors of the directions, seen in E[A | x], bend the norms

Regressions, not averages: an average of A H₃(x) over n users errs by 1/√n even without noise.
Offsets are taken off the ratings first. Features may be dense or sparse, but (d1 + 1)(d2 + 1) must not exceed
`MOST_UNKNOWNS`, so groups of ids are too wide. Columns that do not vary get factors of 0. Odd activations on both sides
leave the common sign of (u_i, v_i) open; two homogeneous ones (ReLU) leave all but |u_i||v_i| of the norms open.
Source: Section 3.3 of the NIMC paper, in a form that works on samples of realistic size.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from nimc_spark.data.oracle import PassOracle
from nimc_spark.errors import DataError, UsageError
from nimc_spark.kernels.gaussian import gamma
from nimc_spark.kernels.model import Model, Parameters, SideName, Vector
from nimc_spark.kernels.moments import Fit, HermiteMap, LogScales, Regression, SideMoments, exponents
from nimc_spark.kernels.statistics import Statistic, Sums, array_of
from nimc_spark.kernels.tensor import Coefficients, Signs, find_units, signs_of, solve_regression, whitening
from nimc_spark.solvers.curvature import BlockDiagonal
from nimc_spark.solvers.lm import Lm
from nimc_spark.solvers.multistart import minimize
from nimc_spark.solvers.oracle import Evaluation, Oracle, Query, ScaledOracle
from nimc_spark.solvers.progress import Progress

Matrix = npt.NDArray[np.float64]

# Unknowns p of a regression: a lane gives p²/4 numbers, 20 MB at the most (rank 10 with sigmoid), and the driver, whose
# spark.driver.maxResultSize must hold those of up to 64 lanes, solves p equations.
MOST_UNKNOWNS = 3200
NORM_PASSES = 25
# The second halves the error of rectifiers, a third changes nothing (measured, as `reproduce tensor` does).
_ROUNDS = 2
# Ratings a parameter, below which a start like this is no better than a random one.
_RATINGS_A_PARAMETER = 10
_PROGRESS = Progress(tolerance=1e-3, gradient_tolerance=0.0)
# Where the first norms are looked for: beyond the last, saturating activations say nothing about a norm.
_FIRST_NORMS = np.geomspace(0.05, 3.0, 60)
# Standard deviations of a pre-activation: what a start may have at most where φ saturates.
_LARGEST_NORM = 6.0


class TensorStart(NamedTuple):
    """The start θ (p,), and what makes it doubtful, a sentence each."""

    theta: Vector
    warnings: tuple[str, ...]


def tensor_start(passes: PassOracle, model: Model, seed: int) -> TensorStart:
    """The tensor start of a model on a data set, with any number of passes up to 7 + `NORM_PASSES`.

    `seed` draws the projections. Raises UsageError for an activation whose moments vanish, for features or a rank that
    are too many, and for a rank above the number of directions in which the features vary; DataError without ratings.
    """
    signs = [signs_of(model.users_activation), signs_of(model.items_activation)]
    _check_sizes(model, signs)
    moments = _sums(passes, SideMoments(), model)
    if not array_of(moments, "weight")[0] > 0:
        raise DataError("the tensor start found no rating of positive weight; give it ratings, or use a random start")
    maps = [_standardized(moments, side, model.rank) for side in SideName]
    coefficients, bases = _coefficients(passes, model, maps, signs)
    units = find_units(coefficients, signs[0], signs[1], np.random.default_rng(seed))
    directions = Parameters(bases[0] @ units.users, bases[1] @ units.items)
    oracle = _ScalesOracle(passes, replace(model, linear=True), directions)
    scaled = ScaledOracle(oracle, _sizes(model, moments))
    first = scaled.to_scaled(_first_scales(model, units.strengths))
    fitted = scaled.from_scaled(minimize(scaled, Lm(_PROGRESS), [first], NORM_PASSES)[0].iterate.x)
    columns = (w[:, : model.columns] for w in oracle.parameters(_bounded(fitted, model, signs)))
    return TensorStart(model.ravel(Parameters(*columns)), _warnings(model, moments, signs))


def _check_sizes(model: Model, signs: Sequence[Signs]) -> None:
    linear = (model.users_width + 1) * (model.items_width + 1)
    if linear > MOST_UNKNOWNS:
        raise UsageError(
            f"the tensor start has (users' features + 1)(items' features + 1) = {linear} unknowns, of which "
            f"{MOST_UNKNOWNS} are allowed; leave out ids and wide features, or use a random start"
        )
    high = max(_hermite_count(model.rank, s) for s in signs) * (model.rank + 1)
    if high > MOST_UNKNOWNS:
        raise UsageError(
            f"the tensor start has {high} unknowns at rank {model.rank}, of which {MOST_UNKNOWNS} are allowed; "
            "lower the rank, or use a random start"
        )


def _hermite_count(rank: int, signs: Signs) -> int:
    return math.comb(rank + signs.order, signs.order)


def _warnings(model: Model, moments: Sums, signs: Sequence[Signs]) -> tuple[str, ...]:
    found = []
    ratings, needed = int(array_of(moments, "ratings")[0]), _RATINGS_A_PARAMETER * model.size
    if ratings < needed:
        found.append(f"{ratings} ratings are few for a tensor start of {model.size} parameters; it needs {needed}")
    for side, own in zip(SideName, signs, strict=True):
        rows, features = _rows(moments, side), _hermite_count(model.rank, own)
        if rows < features:
            found.append(f"{rows} {side.value} are few for the tensor start's {features} features of them")
    return tuple(found)


def _rows(moments: Sums, side: SideName) -> int:
    """Users with a rating, or items."""
    seen = int(array_of(moments, f"{side.value}_rows")[0])
    return seen if side is SideName.USERS else seen // int(array_of(moments, "lanes")[0])


def _sums(passes: PassOracle, statistic: Statistic, model: Model) -> Sums:
    return passes.run(statistic, model, [model.unravel(np.zeros(model.size))])[0]


def _standardized(moments: Sums, side: SideName, rank: int) -> HermiteMap:
    """[1, x̃] of a side."""
    weight = array_of(moments, "weight")[0]
    mean = array_of(moments, f"{side.value}_mean") / weight
    project = whitening(mean, array_of(moments, f"{side.value}_square") / weight)
    if project.shape[1] < rank:
        raise UsageError(
            f"the features of the {side.value} vary in {project.shape[1]} directions, the tensor start of rank {rank} "
            f"needs {rank}; standardize them if their means are large, lower the rank, or use a random start"
        )
    return HermiteMap(mean, project, 1)


def _coefficients(
    passes: PassOracle, model: Model, maps: Sequence[HermiteMap], signs: Sequence[Signs]
) -> tuple[Coefficients, list[Matrix]]:
    """What passes 2 to 7 find, and the bases Σ^{−1/2}P (d1, k) and Σ^{−1/2}Q (d2, k) that it is in."""
    k = model.rank
    high: list[Fit] = []
    for _ in range(_ROUNDS):
        linear = _regress(passes, model, maps, high)
        P, singular, Qt = np.linalg.svd(linear.coefficients[1:, 1:])
        subspaces = [P[:, :k], Qt[:k].T]
        bases = [m.project @ s for m, s in zip(maps, subspaces, strict=True)]
        users, items = (
            [HermiteMap(m.mean, b, order) for order in (1, own.order)]
            for m, b, own in zip(maps, bases, signs, strict=True)
        )
        led_by_users = _regress(passes, model, (users[1], items[0]), [linear])
        led_by_items = _regress(passes, model, (users[0], items[1]), [linear])
        high = [_high_terms(fit) for fit in (led_by_users, led_by_items)]
    mains = subspaces[0].T @ linear.coefficients[1:, 0], subspaces[1].T @ linear.coefficients[0, 1:]
    given = Coefficients(
        interaction=np.diag(singular[:k]),
        users=_top_terms(led_by_users.users, led_by_users.coefficients),
        items=_top_terms(led_by_items.items, led_by_items.coefficients.T),
        mains=None if model.linear else mains,
    )
    return given, bases


def _top_terms(features: HermiteMap, coefficients: Matrix) -> Matrix:
    """The rows of the highest degree."""
    rows: Matrix = coefficients[_degrees(features) == features.degree]
    return rows


def _degrees(features: HermiteMap) -> npt.NDArray[np.int64]:
    degrees: npt.NDArray[np.int64] = exponents(features.project.shape[1], features.degree).sum(axis=1)
    return degrees


def _high_terms(fit: Fit) -> Fit:
    """The fit without the terms that are in [1, x̃] ⊗ [1, ỹ]."""
    low = np.ix_(_degrees(fit.users) <= 1, _degrees(fit.items) <= 1)
    coefficients = fit.coefficients.copy()
    coefficients[low] = 0.0
    return replace(fit, coefficients=coefficients)


def _regress(passes: PassOracle, model: Model, maps: Sequence[HermiteMap], earlier: Sequence[Fit]) -> Fit:
    users, items = maps
    sums = _sums(passes, Regression(users, items, tuple(earlier)), model)
    return Fit(users, items, solve_regression(array_of(sums, "gram"), array_of(sums, "right")))


class _ScalesOracle(Oracle):
    """The mean loss as a function of the variables of `LogScales`, with gradient and JᵀJ."""

    def __init__(self, passes: PassOracle, model: Model, directions: Parameters) -> None:
        self._passes, self._model, self._directions = passes, model, directions

    def run(self, requests: Sequence[Query]) -> list[Evaluation]:
        points = [self.parameters(query.x) for query in requests]
        return [_evaluation(sums) for sums in self._passes.run(LogScales(), self._model, points)]

    def parameters(self, x: Vector) -> Parameters:
        """What the variables stand for: each direction times its norm, and the linear terms."""
        k, d1 = self._model.rank, self._model.users_width
        scales, linear = np.split(np.exp(x[: 2 * k]), 2), np.split(x[2 * k :], [d1])
        sides = zip(self._directions, scales, linear, strict=True)
        return Parameters(*(np.column_stack([columns * norms, terms]) for columns, norms, terms in sides))


def _evaluation(sums: Sums) -> Evaluation:
    weight = float(array_of(sums, "weight")[0])
    curvature = BlockDiagonal((array_of(sums, "normal")[None] / weight,))
    return Evaluation(float(array_of(sums, "loss")[0]) / weight, array_of(sums, "gradient") / weight, curvature)


def _sizes(model: Model, moments: Sums) -> Vector:
    """The scale of each variable of `LogScales`: 1, and of a linear term 1 over the root mean square of its feature."""
    sizes = [np.ones(2 * model.rank)]
    for side in SideName:
        mean_squares = np.diag(array_of(moments, f"{side.value}_square")) / array_of(moments, "weight")[0]
        sizes.append(np.where(mean_squares > 0, 1 / np.sqrt(np.where(mean_squares > 0, mean_squares, 1.0)), 0.0))
    return np.concatenate(sizes)


def _bounded(x: Vector, model: Model, signs: Sequence[Signs]) -> Vector:
    """The variables with no norm above `_LARGEST_NORM` on a side whose activation saturates."""
    k, logs = model.rank, x.copy()
    for start, own in zip((0, k), signs, strict=True):
        if own.order == 3:
            logs[start : start + k] = np.minimum(logs[start : start + k], np.log(_LARGEST_NORM))
    return logs


def _first_scales(model: Model, strengths: Vector) -> Vector:
    """log|u_i| = log|v_i| where γ₁(|u_i|) γ₁(|v_i|) is nearest to the strength, and linear terms 0; only a start."""
    slopes = [gamma(name, 1, _FIRST_NORMS) for name in (model.users_activation, model.items_activation)]
    products = np.abs(slopes[0] * slopes[1])
    nearest = np.abs(products[:, None] - strengths).argmin(axis=0)
    linear = np.zeros(model.users_width + model.items_width)
    return np.concatenate([np.tile(np.log(_FIRST_NORMS[nearest]), 2), linear])
