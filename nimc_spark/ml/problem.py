"""The training problem: ratings and features become blocks, and an oracle for passes over them.

What is planned here, solver, dtype and where passes run, follows from the sizes of the data alone.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from nimc_spark.data.oracle import PassOracle
from nimc_spark.engine.baselines import Baseline, Shrinkage, fit_baseline, fit_means, fit_popularity
from nimc_spark.engine.blocks import BlockSet, GridLimits, SideData, build_blocks, grid
from nimc_spark.engine.context import held
from nimc_spark.engine.driver import driver_memory
from nimc_spark.engine.index import align_id, id_type, quoted
from nimc_spark.engine.outside import ItemsAt, items_at, pass_oracle, sides_in_blocks
from nimc_spark.engine.passes_at import PassesAt, passes_at
from nimc_spark.engine.profile import RatingsProfile, profile_ratings
from nimc_spark.engine.rating_svd import rating_vectors
from nimc_spark.errors import DataError, UsageError
from nimc_spark.kernels.features import dense_rows
from nimc_spark.kernels.model import Model, SideName, Vector
from nimc_spark.kernels.objective import Layout
from nimc_spark.kernels.statistics import FeatureCounts, Sums, array_of, rows_of
from nimc_spark.ml.params import NIMCParams
from nimc_spark.ml.ratings import canonical_ratings, targets
from nimc_spark.ml.sides import SideInput, TrainingSide, training_side
from nimc_spark.solvers import MATRIX_SOLVERS, chosen

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Problem:
    """The training data as passes see them, whatever the rank, activations and penalties."""

    profile: RatingsProfile
    sides: Mapping[SideName, TrainingSide]
    blocks: BlockSet
    oracle: PassOracle
    plan: Plan

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


@contextmanager
def training_problem(params: NIMCParams, dataset: DataFrame, inputs: Mapping[SideName, SideInput]) -> Iterator[Problem]:
    """The training problem of Params and data, its blocks built and kept by Spark until the end."""
    with ExitStack() as kept, prepared(params, dataset, inputs) as ready:
        ratings, profile, plan, limits = ready.ratings, ready.profile, ready.plan, ready.plan.limits
        _LOG.info("passes run %s, the items' features are evaluated %s", plan.passes.value, plan.items.value)
        blocks = build_blocks(ratings, profile, ready.in_blocks, plan.dtype, limits)
        kept.callback(blocks.close)
        passes = pass_oracle(plan.items, ratings, profile, blocks, ready.data, plan.dtype, limits, plan.passes)
        oracle = kept.enter_context(passes)
        # Nothing failed: what Spark keeps of the blocks lives as long as the problem.
        kept = kept.pop_all()
    with kept:
        yield Problem(profile, ready.sides, blocks, oracle, plan)


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
        yield Prepared(ratings, profile, sides, plan)


@dataclass(frozen=True)
class Prepared:
    """Canonical ratings, what is known of them and of both sides, and what follows for blocks and solver."""

    ratings: DataFrame
    profile: RatingsProfile
    sides: Mapping[SideName, TrainingSide]
    plan: Plan

    @property
    def data(self) -> dict[SideName, SideData]:
        return {side: self.sides[side].data for side in SideName}

    @property
    def in_blocks(self) -> dict[SideName, SideData]:
        """The sides as the blocks have them."""
        return sides_in_blocks(self.plan.items, self.data)


class Plan(NamedTuple):
    """The solver by name, the dtype of blocks and kernels that it wants where none was set, the limits of the grid that
    suits it, and where the items' features are evaluated and passes run."""

    solver: str
    dtype: str
    limits: GridLimits
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


def _plan(params: NIMCParams, profile: RatingsProfile, data: Mapping[SideName, SideData], limits: GridLimits) -> Plan:
    """The solver follows from the number of parameters, which must be known about before blocks have a dtype."""
    get = params.getOrDefault
    name = chosen(get("solver"), parameter_count(params, profile, data))
    # The matrix of lm squares the rounding of its slopes.
    precise = name == "lm" and not params.isSet("dtype")
    matrices = name in MATRIX_SOLVERS
    whole = matrices or get("init") == "tensor"
    limits = limits.without_tiles if matrices else limits
    items = ItemsAt.BLOCKS if whole else items_at(profile, data, limits)
    dtype = "float64" if precise else get("dtype")
    cut = grid(profile, sides_in_blocks(items, data), dtype, limits)
    return Plan(name, dtype, limits, items, passes_at(profile, cut, matrices))


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
