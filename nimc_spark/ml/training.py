"""Training: ratings and features → a trained model, by passes over Ω."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.types import NumericType

from nimc_spark.data.oracle import PassOracle
from nimc_spark.data.tensor_start import tensor_start
from nimc_spark.data.threads import one_blas_thread
from nimc_spark.engine.baselines import Baseline, Shrinkage, fit_baseline, fit_means, fit_popularity
from nimc_spark.engine.blocks import BlockSet, GridLimits, SideData, build_blocks, grid
from nimc_spark.engine.context import held
from nimc_spark.engine.driver import driver_memory
from nimc_spark.engine.factors import SideModel, trained_history, trained_ids
from nimc_spark.engine.features import FittedFeatures
from nimc_spark.engine.index import align_id, check_names, id_type, quoted
from nimc_spark.engine.outside import ItemsAt, items_at, pass_oracle, sides_in_blocks
from nimc_spark.engine.passes_at import PassesAt, passes_at
from nimc_spark.engine.profile import RatingsProfile, profile_ratings
from nimc_spark.engine.rating_svd import rating_vectors
from nimc_spark.errors import DataError, TrainingError, UsageError
from nimc_spark.kernels.features import dense_rows
from nimc_spark.kernels.model import Model, Parameters, SideName, Vector, mean_model
from nimc_spark.kernels.objective import Layout, Objective, objective, random_start
from nimc_spark.kernels.statistics import FLAT, Averages, FeatureCounts, Sums, array_of, rows_of
from nimc_spark.ml.params import NIMCParams
from nimc_spark.ml.penalties import group_penalties
from nimc_spark.ml.sides import SideInput, TrainingSide, read_table, training_side
from nimc_spark.ml.summary import TrainingSummary
from nimc_spark.ml.training_state import watch
from nimc_spark.ml.warm_start import warm_start
from nimc_spark.solvers import MATRIX_SOLVERS, chosen, solver
from nimc_spark.solvers.multistart import Outcome, PassRecord, Watch, best_outcome, minimize
from nimc_spark.solvers.oracle import ScaledOracle
from nimc_spark.solvers.progress import Progress
from nimc_spark.solvers.solver import Solver

OnPass = Callable[[PassRecord], None]
_LOG = logging.getLogger(__name__)

# A gradient this small, in scaled variables, is zero to rounding.
_GRADIENT_TOLERANCE = 1e-12
# An interaction that varies less than this share of the ratings' range says nothing about any pair.
_COLLAPSED_SHARE = 1e-4
# A loss this small is that of a perfect fit.
_NOTHING = 1e-12
# A side with more of its slopes at 0 than this hardly learns.
_SATURATED_SHARE = 0.5


@dataclass(frozen=True)
class Trained:
    """A trained model, on the driver; `features` are the fitted declarations of each side."""

    model: Model
    sides: Mapping[SideName, SideModel]
    features: Mapping[SideName, FittedFeatures]
    rating_range: tuple[float, float]
    summary: TrainingSummary


def train(
    params: NIMCParams,
    dataset: DataFrame,
    inputs: Mapping[SideName, SideInput],
    on_pass: OnPass,
    earlier: Trained | None = None,
) -> Trained:
    """Train on a ratings DataFrame as the Params say, the first start from an `earlier` model if there is one.

    Raises DataError for unusable data, UsageError for Params that do not fit it, TrainingError when training diverges.
    """
    began = time.monotonic()
    with problem(params, dataset, inputs, earlier) as fit:
        return fit.run(on_pass, began)


@contextmanager
def problem(
    params: NIMCParams, dataset: DataFrame, inputs: Mapping[SideName, SideInput], earlier: Trained | None = None
) -> Iterator[Fit]:
    """The training problem of Params and data, its blocks built and kept by Spark until the end."""
    with ExitStack() as kept, prepared(params, dataset, inputs) as ready:
        ratings, profile, plan, limits = ready.ratings, ready.profile, ready.plan, ready.limits
        _LOG.info("passes run %s, the items' features are evaluated %s", plan.passes.value, plan.items.value)
        blocks = build_blocks(ratings, profile, ready.in_blocks, plan.dtype, limits)
        kept.callback(blocks.close)
        passes = pass_oracle(plan.items, ratings, profile, blocks, ready.data, plan.dtype, limits, plan.passes)
        oracle = kept.enter_context(passes)
        # Nothing failed: what Spark keeps of the blocks lives as long as the problem.
        kept = kept.pop_all()
    with kept:
        yield Fit(params, Problem(profile, ready.sides, blocks, oracle, plan), earlier)


@contextmanager
def prepared(params: NIMCParams, dataset: DataFrame, inputs: Mapping[SideName, SideInput]) -> Iterator[Prepared]:
    """The training data before they are cut into blocks; the ratings are kept by Spark until the end."""
    with held(targets(params, canonical_ratings(params, dataset))) as ratings:
        profile = profile_ratings(ratings)
        get = params.getOrDefault
        shrinkage = Shrinkage(get("itemShrinkage"), get("userShrinkage"))
        if params.complement_weight == 0:
            baseline = fit_baseline(ratings, params.baseline_terms, shrinkage)
        else:
            baseline = fit_popularity(ratings, params.baseline_terms, params.complement_weight)
        sides = _training_sides(params, ratings, inputs, baseline)
        limits = GridLimits(ratings_per_lane=get("ratingsPerLane"))
        sides = _with_rating_vectors(sides, inputs, ratings, profile, limits)
        sides = _with_histories(sides, inputs, ratings, shrinkage)
        _check_driver(params, sides, profile)
        plan = _plan(params, profile, {side: sides[side].data for side in SideName}, limits)
        yield Prepared(ratings, profile, sides, limits, plan)


@dataclass(frozen=True)
class Prepared:
    """Canonical ratings, what is known of them and of both sides, and what follows for blocks and solver."""

    ratings: DataFrame
    profile: RatingsProfile
    sides: Mapping[SideName, TrainingSide]
    limits: GridLimits
    plan: _Plan

    @property
    def data(self) -> dict[SideName, SideData]:
        return {side: self.sides[side].data for side in SideName}

    @property
    def in_blocks(self) -> dict[SideName, SideData]:
        """The sides as the blocks have them."""
        return sides_in_blocks(self.plan.items, self.data)


class _Plan(NamedTuple):
    """The solver by name, the dtype of blocks and kernels that it wants where none was set, and where the items'
    features are evaluated and passes run."""

    solver: str
    dtype: str
    items: ItemsAt
    passes: PassesAt


# What a solver keeps on the driver, in vectors of all parameters in float64: L-BFGS's history and what it works with.
DRIVER_VECTORS = 40


def _check_driver(params: NIMCParams, sides: Mapping[SideName, TrainingSide], profile: RatingsProfile) -> None:
    """Raises UsageError for more parameters than the driver can hold, naming the columns that make most of them."""
    ids = {SideName.USERS: profile.users, SideName.ITEMS: profile.items}
    wide = {}
    for side in SideName:
        data = sides[side].data
        wide[f"the ids of {side.value}"] = ids[side] if data.uses_id else 0
        wide[f"the histories of {side.value}"] = ids[side.other] * len(data.histories)
    own = parameter_count(params, profile, {side: sides[side].data for side in SideName})
    parameters = own * params.getOrDefault("starts")
    needed, there = DRIVER_VECTORS * 8 * parameters, driver_memory()
    if needed > there:
        widest = sorted(((count, name) for name, count in wide.items() if count), reverse=True)[:2]
        listed = " and ".join(f"{name} ({count} columns)" for count, name in widest)
        raise UsageError(
            f"training {parameters} parameters takes about {needed / 2**30:.0f} GB on the driver, which has "
            f"{there / 2**30:.0f}: leave out {listed or 'features'}, or lower rank or starts"
        )


def parameter_count(params: NIMCParams, profile: RatingsProfile, data: Mapping[SideName, SideData]) -> int:
    """About how many parameters a start has; ids are counted approximately."""
    ids = {SideName.USERS: profile.users, SideName.ITEMS: profile.items}
    width = sum(data[side].columns(ids[side], ids[side.other]) for side in SideName)
    columns: int = params.getOrDefault("rank") + int(params.getOrDefault("linear"))
    return width * columns


def _plan(params: NIMCParams, profile: RatingsProfile, data: Mapping[SideName, SideData], limits: GridLimits) -> _Plan:
    """The solver follows from the number of parameters, which must be known about before blocks have a dtype."""
    get = params.getOrDefault
    name = chosen(get("solver"), parameter_count(params, profile, data))
    # The matrix of lm squares the rounding of its slopes.
    precise = name == "lm" and not params.isSet("dtype")
    whole = name in MATRIX_SOLVERS or get("init") == "tensor"
    items = ItemsAt.BLOCKS if whole else items_at(profile, data, limits)
    dtype = "float64" if precise else get("dtype")
    cut = grid(profile, sides_in_blocks(items, data), dtype, limits)
    return _Plan(name, dtype, items, passes_at(profile, cut, name in MATRIX_SOLVERS))


def targets(params: NIMCParams, ratings: DataFrame) -> DataFrame:
    """The canonical ratings as training sees them: for ranking 1 for a positive, 0 for another."""
    if not params.ranks:
        return ratings
    threshold = params.optional("positiveFrom")
    # NaN is above every number, and null is null: both stay what they are, to be refused.
    positive = F.lit(1.0) if threshold is None else (F.col("rating") >= threshold).cast("double")
    return ratings.withColumn("rating", F.when(F.abs("rating") < float("inf"), positive).otherwise(F.col("rating")))


def _training_sides(
    params: NIMCParams, ratings: DataFrame, inputs: Mapping[SideName, SideInput], baseline: Baseline
) -> dict[SideName, TrainingSide]:
    ids = {
        side: ratings.select(F.col(column).alias("id")).distinct()
        for side, column in ((SideName.USERS, "user"), (SideName.ITEMS, "item"))
    }
    if params.complement_weight == 0:
        return {side: training_side(inputs[side], ids[side], baseline) for side in SideName}
    _check_set(ratings)
    items = inputs[SideName.ITEMS]
    sides = {SideName.USERS: training_side(inputs[SideName.USERS], ids[SideName.USERS], baseline)}
    if items.table is None:
        return sides | {SideName.ITEMS: training_side(items, ids[SideName.ITEMS], baseline)}
    # Every item of the table is in the complement, rated or not.
    aligned = align_id(quoted(items.column), id_type(items.table, items.column), id_type(ratings, "item"))
    catalogue = items.table.select(aligned.alias("id")).where(F.col("id").isNotNull()).distinct()
    side = training_side(items, ids[SideName.ITEMS], baseline, catalogue)
    return sides | {SideName.ITEMS: replace(side, data=replace(side.data, unrated=catalogue))}


def _with_rating_vectors(
    sides: Mapping[SideName, TrainingSide],
    inputs: Mapping[SideName, SideInput],
    ratings: DataFrame,
    profile: RatingsProfile,
    limits: GridLimits,
) -> dict[SideName, TrainingSide]:
    """The sides, with the singular vectors of the ratings where they declare them."""
    ranks = {side: declared.rank for side in SideName if (declared := inputs[side].rating_svd)}
    vectors = rating_vectors(ratings, profile, ranks, limits) if ranks else {}
    return {side: sides[side].with_vectors(inputs[side].rating_svd, vectors.get(side)) for side in SideName}


def _with_histories(
    sides: Mapping[SideName, TrainingSide],
    inputs: Mapping[SideName, SideInput],
    ratings: DataFrame,
    shrinkage: Shrinkage,
) -> dict[SideName, TrainingSide]:
    """The sides, with the histories that they declare; residuals are taken from the other side's shrunken means."""
    declared = {side: inputs[side].histories for side in SideName}
    wanted = {side: any(h.weights == "residuals" for h in declared[side]) for side in SideName}
    means = fit_means(ratings, shrinkage) if any(wanted.values()) else Baseline(0.0, None, None)
    biases = {SideName.USERS: means.items, SideName.ITEMS: means.users}
    return {
        side: sides[side].with_histories(declared[side], means.mean, biases[side] if wanted[side] else None)
        for side in SideName
    }


def _check_set(ratings: DataFrame) -> None:
    """Raises DataError where a pair is rated twice: with a complement Ω is a set."""
    row = ratings.groupBy("user", "item").agg(F.count("*").alias("n")).where("n > 1").agg(F.count("*")).first()
    if row is not None and row[0]:
        raise DataError(
            f"{row[0]} pairs of user and item have several ratings; with complementWeight > 0 each pair counts once: "
            "keep one (the prepare job does, by its policy for duplicates)"
        )


_PAIR = {"user": "userCol", "item": "itemCol", "rating": "ratingCol"}
_RATING = _PAIR | {"weight": "weightCol", "offset": "offsetCol"}


def context_ratings(params: NIMCParams, held: DataFrame | None, spark: SparkSession) -> DataFrame:
    """DataFrame(user, item, rating) of the ratings that are known when scoring, as training would see them: those held,
    else contextTable.

    Raises UsageError if there are none, DataError for ratings that are null or not finite.
    """
    name = params.optional("contextTable")
    if held is None and name is None:
        raise UsageError("this model scores by histories: give the known ratings with setContext or contextTable")
    ratings = canonical_ratings(params, read_table(spark, name) if held is None else held, _PAIR)
    broken = ratings.where(~(F.abs(F.coalesce("rating", F.lit(float("nan")))) < float("inf"))).count()
    if broken:
        raise DataError(f"the context has {broken} ratings that are null, NaN or infinite; leave them out")
    return targets(params, ratings)


def canonical_ratings(params: NIMCParams, dataset: DataFrame, roles: Mapping[str, str] = _RATING) -> DataFrame:
    """DataFrame(user, item, rating[, weight][, offset]) of the columns that the Params name."""
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


@dataclass(frozen=True)
class Problem:
    """The training data as passes see them, whatever the rank, activations and penalties."""

    profile: RatingsProfile
    sides: Mapping[SideName, TrainingSide]
    blocks: BlockSet
    oracle: PassOracle
    plan: _Plan

    @property
    def has_matrices(self) -> bool:
        """Whether a pass can bring ∇²f as a matrix."""
        return self.plan.items is ItemsAt.BLOCKS

    @cached_property
    def layouts(self) -> Mapping[SideName, Layout]:
        """The feature groups of each side."""
        ids = self.blocks.sides
        return {side: self.sides[side].layout(ids[side], ids[side.other]) for side in SideName}

    @cached_property
    def counts(self) -> Mapping[SideName, Vector]:
        """c_r of each side. Raises DataError for features that are not finite, or whose squares are not."""
        sums = self._feature_counts
        counts = {side: dense_rows(rows_of(sums, side.value), self.layouts[side].width)[:, 0] for side in SideName}
        if array_of(sums, "non_finite")[0] or not all(np.isfinite(c).all() for c in counts.values()):
            raise DataError("the features or their squares are no numbers after encoding: scale the large ones down")
        return counts

    @property
    def weight(self) -> float:
        """Σ w over Ω."""
        return float(array_of(self._feature_counts, "weight")[0])

    @cached_property
    def _feature_counts(self) -> Sums:
        """What a pass finds of the features."""
        users, items = (self.layouts[side].width for side in SideName)
        model = Model(1, users, items, dtype=self.plan.dtype)
        return self.oracle.run(FeatureCounts(), model, [model.unravel(np.zeros(model.size))])[0]


class Fit:
    """One way to train on a problem: a shape, an objective, a start, and in the end a model."""

    def __init__(self, params: NIMCParams, problem: Problem, earlier: Trained | None = None) -> None:
        self.params = params
        self._earlier = earlier
        self._get = params.getOrDefault
        self._beta = params.complement_weight
        self.problem = problem
        self._warnings: list[str] = []
        self.model = _shape(params, problem.layouts, problem.plan.dtype)

    def run(self, on_pass: OnPass, began: float) -> Trained:
        """Train to the end."""
        losses: list[tuple[float, ...]] = []

        def record(done: PassRecord) -> None:
            losses.append(done.losses)
            _LOG.debug("pass %d: loss %.9g", done.number, min(done.losses))
            on_pass(done)

        begun_with = None if self._earlier is None else self.starts[0]
        budget = watch(self.params, self.problem.blocks.records.whole, began, begun_with)
        outcomes = self._minimize(record, budget)
        best = best_outcome(outcomes)
        start = outcomes.index(best)
        sound = [outcome for outcome in outcomes if not outcome.reason.failed and outcome is not best]
        beside = sound if self._get("averageStarts") else []
        trained = self.trained(best, start, [row[start] for row in losses], began, beside)
        budget.forget()
        return trained

    def trained(
        self, outcome: Outcome, start: int, losses: Sequence[float], began: float, beside: Sequence[Outcome] = ()
    ) -> Trained:
        """The model at an outcome in the variables of `oracle`, `losses` its loss after each pass; costs a pass.

        With outcomes `beside` it, the model whose scores are the means of all.
        """
        goal, problem = self.objective, self.problem
        model, parameters = self.model, self.parameters(outcome)
        if beside:
            model, parameters = mean_model(model, [parameters, *map(self.parameters, beside)])
        averages = problem.oracle.run(Averages(), model, [parameters])[0]
        summary = TrainingSummary(
            ratings=problem.profile.count,
            users=problem.blocks.sides[SideName.USERS].count,
            items=problem.blocks.sides[SideName.ITEMS].count,
            parameters=int(goal.mask.sum()),
            lanes=len(problem.blocks.lanes),
            passes=len(losses),
            start=start,
            reason=outcome.reason.value,
            loss=outcome.iterate.value,
            losses=tuple(losses),
            seconds=round(time.monotonic() - began, 3),
            collapsed=self._collapsed(averages),
            solver=problem.plan.solver,
            items_at=problem.plan.items.value,
            passes_at=problem.plan.passes.value,
            warnings=(
                *self._warnings,
                *self._shape_warnings(int(goal.mask.sum())),
                *self._loss_warnings(losses, averages),
                *flat_units(model, averages),
            ),
        )
        for warning in summary.warnings:
            _LOG.warning(warning)
        if summary.collapsed:
            _LOG.warning(
                "training collapsed: the factors tell no pair from another; lower regParam or raise initSpread"
            )
        features = {side: problem.sides[side].features for side in SideName}
        sides = {side: self._side_model(side, model, parameters, averages) for side in SideName}
        return Trained(model, sides, features, self.rating_range, summary)

    @property
    def rating_range(self) -> tuple[float, float]:
        """What scores are bounded by; the pairs of a complement are data too, with the rating 0."""
        zero = [0.0] if self._beta else []
        profile = self.problem.profile
        return min(profile.lowest, *zero, np.inf), max(profile.highest, *zero, -np.inf)

    @cached_property
    def objective(self) -> Objective:
        """What is minimized."""
        problem = self.problem
        penalties = group_penalties(self.params, {side: problem.sides[side].declarations for side in SideName})
        return objective(
            self.model,
            problem.profile.count,
            problem.counts,
            problem.layouts,
            penalties,
            self._get("regPower"),
            self._beta,
        )

    @cached_property
    def oracle(self) -> ScaledOracle:
        """The objective on the training data, in the variables in which solvers see it."""
        return ScaledOracle(self.problem.oracle.bind(self.objective), self.objective.scale)

    @property
    def solver(self) -> Solver[Any]:
        progress = Progress(self._get("tol"), _GRADIENT_TOLERANCE)
        return solver(self.problem.plan.solver, progress, self.params.optional("stepSize"))

    @cached_property
    def starts(self) -> list[Vector]:
        """Random starts in the variables of `oracle`; the first is the earlier model if there is one, or with `init` =
        tensor from moments of the ratings."""
        problem, seed, spread = self.problem, self.params.unsigned_seed, self._get("initSpread")
        starts = [
            random_start(self.model, problem.counts, problem.weight, seed, number, spread)
            for number in range(self._get("starts"))
        ]
        if self._get("init") == "tensor":
            start = tensor_start(problem.oracle, self.model, seed)
            self._warnings += start.warnings
            starts[0] = start.theta
        if self._earlier is not None:
            rows = self.model.unravel(starts[0])
            warm = warm_start(rows, self.model, problem.sides, problem.blocks.sides, self._earlier)
            starts[0] = self.model.ravel(warm)
        return [self.oracle.to_scaled(start) for start in starts]

    def parameters(self, outcome: Outcome) -> Parameters:
        """U and V at an outcome in the variables of `oracle`."""
        return self.model.unravel(self.oracle.from_scaled(outcome.iterate.x))

    def _shape_warnings(self, parameters: int) -> list[str]:
        warnings = []
        if parameters > self.problem.profile.count:
            warnings.append(
                f"{self.problem.profile.count} ratings for {parameters} parameters: regParam decides what they become"
            )
        for side in SideName:
            width = self.model.width(side)
            if self.model.rank > width:
                warnings.append(f"rank {self.model.rank} is above the {width} feature columns of the {side.value}")
        return warnings

    def _loss_warnings(self, losses: Sequence[float], averages: Sums) -> list[str]:
        """What to say where training gained nothing: on its start, or on scores without the model."""
        warnings, without = [], float(array_of(averages, "offsets_loss")[0]) / self.problem.profile.count
        if len(losses) > 1 and losses[-1] >= losses[0] > 0:
            warnings.append(f"none of {len(losses)} passes improved on the start's loss of {losses[0]:.6g}")
        # With a complement the offsets err outside of Ω too.
        if losses and not self._beta and losses[-1] > 1.001 * without + _NOTHING:
            warnings.append(
                f"the loss {losses[-1]:.6g} is above {without:.6g}, that of offsets alone: train longer, or lower "
                "initSpread or regParam"
            )
        return warnings

    def _minimize(self, record: OnPass, budget: Watch) -> list[Outcome]:
        """Where each start ended. Raises TrainingError if all diverged."""
        # A fixed number of threads: the solver's inner products must not depend on the machine's cores.
        with one_blas_thread():
            outcomes = minimize(self.oracle, self.solver, self.starts, self._get("maxIter"), record, budget)
        reason = best_outcome(outcomes).reason
        if reason.failed:
            step = self.params.optional("stepSize")
            shorter = "" if step is None else f"lower stepSize (now {step}), "
            raise TrainingError(
                f"training diverged: {reason.message}; {shorter}check the ratings' scale, or lower initSpread "
                f"(now {self._get('initSpread')}) or raise regParam"
            )
        return outcomes

    def _collapsed(self, averages: Sums) -> bool:
        mean, square = array_of(averages, "interaction") / array_of(averages, "weight")[0]
        spread = float(np.sqrt(max(square - mean * mean, 0.0)))
        lowest, highest = self.rating_range
        return spread <= _COLLAPSED_SHARE * (highest - lowest)

    def _side_model(self, side: SideName, model: Model, parameters: Parameters, averages: Sums) -> SideModel:
        data, weights = {s: self.problem.sides[s].data for s in SideName}, parameters.side(side).astype(np.float64)
        own = data[side]
        default = array_of(averages, side.value) / array_of(averages, "weight")[0]
        ids = trained_ids(self.problem.blocks, side, data, weights)
        history = trained_history(own, ids.num_rows, weights)
        declared = np.ascontiguousarray(weights[: own.declared_width])
        declared.flags.writeable = False
        return SideModel(side, model, declared, ids, own.constant, tuple(float(v) for v in default), history)


def flat_units(model: Model, averages: Sums) -> list[str]:
    """What to say of units whose slope φ' is near 0: dead ones (at every rating), and sides that are saturated."""
    warnings = []
    for side in SideName:
        shares = array_of(averages, f"{side.value}_flat") / array_of(averages, "weight")[0]
        dead, share = int((shares > 1 - 1e-12).sum()), float(shares.mean())
        if dead:
            warnings.append(
                f"{dead} of {model.rank} units of the {side.value} are dead: their slope is 0 at every rating"
            )
        elif share > _SATURATED_SHARE:
            warnings.append(
                f"{share:.0%} of the slopes of the {side.value}' {model.activation(side)} are below {FLAT:g}: the "
                "features are too large for it; standardize them, or lower initSpread"
            )
    return warnings


def _shape(params: NIMCParams, layouts: Mapping[SideName, Layout], dtype: str) -> Model:
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
        dtype=dtype,
    )
