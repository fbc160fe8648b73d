"""Training: ratings and features → a trained model, by passes over Ω."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from pyspark.sql import DataFrame
from pyspark.sql import functions as F
from pyspark.sql.types import NumericType

from nimc_spark.data.oracle import PassOracle
from nimc_spark.data.threads import one_blas_thread
from nimc_spark.engine.baselines import Shrinkage, fit_baseline
from nimc_spark.engine.blocks import BlockSet, GridLimits, build_blocks
from nimc_spark.engine.context import held
from nimc_spark.engine.factors import SideModel, trained_ids
from nimc_spark.engine.features import FittedFeatures
from nimc_spark.engine.index import check_names, quoted
from nimc_spark.engine.profile import RatingsProfile, profile_ratings
from nimc_spark.engine.spark_oracle import SparkOracle
from nimc_spark.errors import DataError, TrainingError, UsageError
from nimc_spark.kernels.features import Rows, dense_rows
from nimc_spark.kernels.model import Model, Parameters, SideName, Vector
from nimc_spark.kernels.objective import GroupPenalty, Layout, Objective, objective, random_start
from nimc_spark.kernels.statistics import Averages, FeatureCounts, Sums
from nimc_spark.ml.params import NIMCParams
from nimc_spark.ml.penalties import group_penalties
from nimc_spark.ml.sides import SideInput, TrainingSide, training_side
from nimc_spark.ml.summary import TrainingSummary
from nimc_spark.solvers import solver
from nimc_spark.solvers.multistart import Outcome, PassRecord, best_outcome, minimize
from nimc_spark.solvers.oracle import ScaledOracle
from nimc_spark.solvers.progress import Progress

OnPass = Callable[[PassRecord], None]
_LOG = logging.getLogger(__name__)

# A gradient this small, in scaled variables, is zero to rounding.
_GRADIENT_TOLERANCE = 1e-12
# An interaction that varies less than this share of the ratings' range says nothing about any pair.
_COLLAPSED_SHARE = 1e-4


@dataclass(frozen=True)
class Trained:
    """A trained model, on the driver; `features` are the fitted declarations of each side."""

    model: Model
    sides: Mapping[SideName, SideModel]
    features: Mapping[SideName, FittedFeatures]
    rating_range: tuple[float, float]
    summary: TrainingSummary


def train(params: NIMCParams, dataset: DataFrame, inputs: Mapping[SideName, SideInput], on_pass: OnPass) -> Trained:
    """Train on a ratings DataFrame as the Params say.

    Raises DataError for unusable data, UsageError for Params that do not fit it, TrainingError when training diverges.
    """
    began = time.monotonic()
    with held(canonical_ratings(params, dataset)) as ratings:
        profile = profile_ratings(ratings)
        get = params.getOrDefault
        shrinkage = Shrinkage(get("itemShrinkage"), get("userShrinkage"))
        baseline = fit_baseline(ratings, get("baseline"), shrinkage)
        sides = {
            side: training_side(inputs[side], ratings.select(F.col(column).alias("id")).distinct(), baseline)
            for side, column in ((SideName.USERS, "user"), (SideName.ITEMS, "item"))
        }
        limits = GridLimits(ratings_per_lane=get("ratingsPerLane"))
        data = {side: sides[side].data for side in SideName}
        blocks = build_blocks(ratings, profile, data, get("dtype"), limits)
    try:
        oracle = SparkOracle(dataset.sparkSession, blocks)
        return _Fit(params, profile, sides, blocks, oracle).run(on_pass, began)
    finally:
        blocks.close()


def canonical_ratings(params: NIMCParams, dataset: DataFrame) -> DataFrame:
    """DataFrame(user, item, rating[, weight][, offset]) of the columns that the Params name."""
    roles = {"user": "userCol", "item": "itemCol", "rating": "ratingCol", "weight": "weightCol", "offset": "offsetCol"}
    check_names(dataset, "the ratings")
    names = {role: params.optional(param) for role, param in roles.items()}
    used = {role: name for role, name in names.items() if name is not None}
    missing = [f"{roles[role]} = {name!r}" for role, name in used.items() if name not in dataset.columns]
    if missing:
        raise DataError(f"the ratings have no column {', '.join(missing)}; they have: {', '.join(dataset.columns)}")
    columns = []
    for role, name in used.items():
        kind = dataset.schema[name].dataType
        if role in ("user", "item"):
            columns.append(quoted(name).alias(role))
        elif not isinstance(kind, NumericType):
            raise DataError(f"the column {name!r} ({roles[role]}) is {kind.simpleString()}; it must be a number")
        else:
            columns.append(quoted(name).cast("double").alias(role))
    return dataset.select(*columns)


class _Fit:
    """The steps after the blocks are built; each uses what the ones before it found."""

    def __init__(
        self,
        params: NIMCParams,
        profile: RatingsProfile,
        sides: Mapping[SideName, TrainingSide],
        blocks: BlockSet,
        oracle: PassOracle,
    ) -> None:
        self._get = params.getOrDefault
        self._profile = profile
        self._sides = sides
        self._blocks = blocks
        self._oracle = oracle
        self._layouts = {side: sides[side].layout(blocks.sides[side]) for side in SideName}
        self._model = _shape(params, self._layouts)

    def run(self, on_pass: OnPass, began: float) -> Trained:
        counts = self._counts()
        goal = self._objective(counts)
        losses: list[tuple[float, ...]] = []

        def record(done: PassRecord) -> None:
            losses.append(done.losses)
            _LOG.debug("pass %d: loss %.9g", done.number, min(done.losses))
            on_pass(done)

        theta, outcome, start = self._minimize(goal, counts, record)
        parameters = self._model.unravel(theta)
        averages = self._oracle.run(Averages(), self._model, [parameters])[0]
        summary = TrainingSummary(
            ratings=self._profile.count,
            users=self._blocks.sides[SideName.USERS].count,
            items=self._blocks.sides[SideName.ITEMS].count,
            parameters=int(goal.mask.sum()),
            lanes=len(self._blocks.lanes),
            passes=len(losses),
            start=start,
            reason=outcome.reason.value,
            loss=outcome.iterate.value,
            losses=tuple(row[start] for row in losses),
            seconds=round(time.monotonic() - began, 3),
            collapsed=self._collapsed(averages),
        )
        if summary.collapsed:
            _LOG.warning("training collapsed: the factors tell no pair from another; lower regParam")
        features = {side: self._sides[side].features for side in SideName}
        sides = {side: self._side_model(side, parameters, averages) for side in SideName}
        return Trained(self._model, sides, features, (self._profile.lowest, self._profile.highest), summary)

    def _counts(self) -> dict[SideName, Vector]:
        nothing = self._model.unravel(np.zeros(self._model.size))
        sums = self._oracle.run(FeatureCounts(), self._model, [nothing])[0]
        if _array(sums, "non_finite")[0]:
            raise DataError("the features have NaN or infinite values after encoding: a column's scale overflows")
        return {side: dense_rows(_rows(sums, side.value), self._model.width(side))[:, 0] for side in SideName}

    def _objective(self, counts: Mapping[SideName, Vector]) -> Objective:
        default = GroupPenalty(self._get("regParam"), self._get("linearRegParam"))
        penalties = group_penalties(self._get("groupRegParam"), default, self._layouts)
        return objective(self._model, self._profile.count, counts, self._layouts, penalties, self._get("regPower"))

    def _minimize(
        self, goal: Objective, counts: Mapping[SideName, Vector], record: OnPass
    ) -> tuple[Vector, Outcome, int]:
        scaled = ScaledOracle(self._oracle.bind(goal), goal.scale)
        starts = [
            random_start(self._model, counts, self._profile.count, self._get("seed"), number, self._get("initSpread"))
            for number in range(self._get("starts"))
        ]
        method = solver(self._get("solver"), Progress(self._get("tol"), _GRADIENT_TOLERANCE))
        # A fixed number of threads: the solver's inner products must not depend on the machine's cores.
        with one_blas_thread():
            outcomes = minimize(scaled, method, [scaled.to_scaled(s) for s in starts], self._get("maxIter"), record)
        best = best_outcome(outcomes)
        if best.reason.failed:
            raise TrainingError(
                f"training diverged: {best.reason.message}; check the ratings' scale, or lower initSpread "
                f"(now {self._get('initSpread')}) or raise regParam (now {self._get('regParam')})"
            )
        return scaled.from_scaled(best.iterate.x), best, outcomes.index(best)

    def _collapsed(self, averages: Sums) -> bool:
        mean, square = _array(averages, "interaction") / _array(averages, "weight")[0]
        spread = float(np.sqrt(max(square - mean * mean, 0.0)))
        return spread <= _COLLAPSED_SHARE * (self._profile.highest - self._profile.lowest)

    def _side_model(self, side: SideName, parameters: Parameters, averages: Sums) -> SideModel:
        data, weights = self._sides[side].data, parameters.side(side).astype(np.float64)
        default = _array(averages, side.value) / _array(averages, "weight")[0]
        ids = trained_ids(self._blocks, side, data, weights)
        declared = np.ascontiguousarray(weights[: data.width])
        declared.flags.writeable = False
        return SideModel(side, self._model, declared, ids, data.constant, tuple(float(v) for v in default))


def _shape(params: NIMCParams, layouts: Mapping[SideName, Layout]) -> Model:
    users, items = (layouts[side].width for side in SideName)
    for side in SideName:
        if layouts[side].width == 0:
            raise UsageError(f"the {side.value} have no feature column: declare one, or {{'kind': 'id'}}")
    return Model(
        rank=params.getOrDefault("rank"),
        users_width=users,
        items_width=items,
        users_activation=params.side_activation(SideName.USERS),
        items_activation=params.side_activation(SideName.ITEMS),
        linear=params.getOrDefault("linear"),
        dtype=params.getOrDefault("dtype"),
    )


def _array(sums: Sums, name: str) -> npt.NDArray[np.float64]:
    value = sums[name]
    if isinstance(value, Rows):
        raise TypeError(f"the sum {name!r} is rows")
    return value


def _rows(sums: Sums, name: str) -> Rows:
    value = sums[name]
    if not isinstance(value, Rows):
        raise TypeError(f"the sum {name!r} is an array")
    return value
