"""Why the defaults are what they are: ids alone on MovieLens-100k, in one process (`LocalOracle`), seconds a fit.

λ and activation: RMSE on u1 (its test part is the first 20000 rows of u.data). The row of an unknown id: RMSE on 20 %
new users below that of the shrunken item mean on the same rows, of three splits.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd
from pyspark.sql import SparkSession
from scipy.sparse import csr_array

from benchmarks.report import Row, row
from nimc_spark.data.local import LocalOracle, Observations, records_of_arrays
from nimc_spark.kernels.features import Rows, dense_rows
from nimc_spark.kernels.model import Model, Parameters, SideName, forward
from nimc_spark.kernels.objective import GroupPenalty, Layout, objective, random_start
from nimc_spark.kernels.statistics import FeatureCounts
from nimc_spark.ml import NIMC
from nimc_spark.ml.params import IDS
from nimc_spark.solvers import solver
from nimc_spark.solvers.multistart import best_outcome, minimize
from nimc_spark.solvers.oracle import ScaledOracle
from nimc_spark.solvers.progress import Progress
from scripts.demo_data import find

Floats = npt.NDArray[np.float64]
_TEST_ROWS = 20_000
_NEW_USERS = 0.2
_SEEDS = (1, 2, 3)
_SHRINKAGE = 5.0


@dataclass(frozen=True)
class _Ratings:
    """user and item from 0, and the rating, (r,) each."""

    user: npt.NDArray[np.int64]
    item: npt.NDArray[np.int64]
    rating: Floats

    def take(self, chosen: npt.NDArray[np.bool_]) -> _Ratings:
        return _Ratings(self.user[chosen], self.item[chosen], self.rating[chosen])


@dataclass(frozen=True)
class _Factors:
    """P̂ and Q̂ of every id, (n, k+2)."""

    users: Floats
    items: Floats


def run(spark: SparkSession) -> list[Row]:
    """The tables of docs/adr/006 and 007; the session is not used."""
    ratings = _load()
    first = np.arange(len(ratings.rating)) < _TEST_ROWS
    train, test = ratings.take(~first), ratings.take(first)
    rows = []
    for activation in ("identity", "tanh", "relu"):
        for strength in (0.5, 0.75, 1.0, 1.25, 1.5, 2.0, 3.0):
            fitted = _fit(train, ratings, activation, strength)
            rows.append(row(f"u1: RMSE, {activation}, λ {strength}", [_rmse(fitted, test)], ".4f"))
    for activation in ("identity", "tanh", "sigmoid"):
        found = [_below_item_mean(ratings, activation, seed) for seed in _SEEDS]
        rows += [
            row(f"new users: below the item mean, {activation}, {name}", [gain[name] for gain in found], ".4f")
            for name in found[0]
        ]
    return rows


def _load() -> _Ratings:
    data = find()
    header = 0 if data.layout == "recbole" else None
    table = pd.read_csv(data.files["ratings"], sep="\t", header=header).to_numpy()
    return _Ratings(table[:, 0].astype(int) - 1, table[:, 1].astype(int) - 1, table[:, 2].astype(float))


def _fit(train: _Ratings, every: _Ratings, activation: str, strength: float) -> _Factors:
    """Ids alone with the estimator's other defaults, the global mean as offset."""
    default = NIMC().getOrDefault
    users, items = (int(ids.max()) + 1 for ids in (every.user, every.item))
    model = Model(default("rank"), users, items, activation, activation)
    mean = float(train.rating.mean())
    observations = Observations(train.user, train.item, train.rating - mean)
    records = records_of_arrays([_one_hot(users)], [_one_hot(items)], observations, model.dtype)
    passes, count = LocalOracle(records), len(train.rating)
    sums = passes.run(FeatureCounts(), model, [model.unravel(np.zeros(model.size))])[0]
    counts = {side: _dense(sums[side.value], model.width(side)) for side in SideName}
    penalty = GroupPenalty(strength, IDS.linear)
    layouts = {side: Layout((("id", model.width(side)),)) for side in SideName}
    goal = objective(model, count, counts, layouts, {s: {"id": penalty} for s in SideName}, default("regPower"))
    scaled = ScaledOracle(passes.bind(goal), goal.scale)
    start = scaled.to_scaled(random_start(model, counts, count, default("seed"), 0, default("initSpread")))
    method = solver("lbfgs", Progress(default("tol"), 0.0))
    best = best_outcome(minimize(scaled, method, [start], default("maxIter")))
    parameters = model.unravel(scaled.from_scaled(best.iterate.x))
    return _factors(model, parameters, mean)


def _factors(model: Model, parameters: Parameters, mean: float) -> _Factors:
    found = {}
    for side, constant in ((SideName.USERS, mean), (SideName.ITEMS, 0.0)):
        n = model.width(side)
        nothing = Observations(*(np.empty(0, int),) * 2, np.empty(0))
        first, second = records_of_arrays([_one_hot(n)], [_one_hot(n)], nothing, "float64")
        part = (second if side is SideName.USERS else first).payload
        scores = forward(model, side, part, parameters.side(side)).scores  # type: ignore[arg-type]
        scores[:, side.linear_column(model.rank)] += constant
        found[side] = scores
    return _Factors(found[SideName.USERS], found[SideName.ITEMS])


def _one_hot(n: int) -> csr_array:
    return csr_array((np.ones(n), np.arange(n), np.arange(n + 1)), shape=(n, n))


def _dense(sums: object, width: int) -> Floats:
    if not isinstance(sums, Rows):
        raise TypeError("feature counts come as rows")
    return dense_rows(sums, width)[:, 0]


def _rmse(fitted: _Factors, test: _Ratings, user_row: Floats | None = None) -> float:
    users = fitted.users[test.user] if user_row is None else user_row
    scores = np.clip((users * fitted.items[test.item]).sum(axis=1), 1, 5)
    return float(np.sqrt(np.mean((scores - test.rating) ** 2)))


def _below_item_mean(ratings: _Ratings, activation: str, seed: int) -> dict[str, float]:
    new = np.random.default_rng(seed).random(int(ratings.user.max()) + 1) < _NEW_USERS
    train, test = ratings.take(~new[ratings.user]), ratings.take(new[ratings.user])
    mean, items = train.rating.mean(), int(ratings.item.max()) + 1
    sums = np.bincount(train.item, train.rating - mean, minlength=items)
    bias = sums / (np.bincount(train.item, minlength=items) + _SHRINKAGE)
    item_mean = float(np.sqrt(np.mean((mean + bias[test.item] - test.rating) ** 2)))
    fitted = _fit(train, ratings, activation, IDS.factors)
    weights = np.bincount(train.user, minlength=len(fitted.users)).astype(float)
    zero = np.concatenate([np.zeros(fitted.users.shape[1] - 2), [mean, 1.0]])
    defaults = {
        "mean by ratings": weights @ fitted.users / weights.sum(),
        "mean by users": fitted.users[weights > 0].mean(axis=0),
        "zero factors": zero,
    }
    return {name: item_mean - _rmse(fitted, test, user_row) for name, user_row in defaults.items()}
