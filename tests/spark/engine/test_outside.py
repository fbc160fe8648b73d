"""Items evaluated outside of the blocks on Spark: the bits of one process, and the sums of the blocks to rounding."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import replace

import numpy as np
import pytest
from pyspark.sql import SparkSession

from nimc_spark.data.oracle import PassOracle
from nimc_spark.data.passes import Request
from nimc_spark.engine.blocks import GridLimits, Records, SideData, build_blocks
from nimc_spark.engine.history import HistoryData
from nimc_spark.engine.outside import ItemsAt, items_at, pass_oracle, sides_in_blocks
from nimc_spark.engine.passes_at import PassesAt
from nimc_spark.engine.profile import RatingsProfile, profile_ratings
from nimc_spark.errors import SetupError
from nimc_spark.kernels.curvature import Product
from nimc_spark.kernels.features import Rows, dense_rows
from nimc_spark.kernels.model import Model, SideName
from nimc_spark.kernels.statistics import Averages, FeatureCounts, LossGradient
from tests.spark.engine.oracle_problem import (
    COUNT,
    DENSE_WIDTH,
    ITEMS,
    LIMITS,
    SPARSE_WIDTH,
    USERS,
    RatingProblem,
    persisted,
    random_parameters,
)
from tests.unit.problems import bits


@pytest.fixture(scope="module")
def sides(problem: RatingProblem, spark: SparkSession) -> dict[SideName, SideData]:
    """Both sides with histories; an item beside them has no rating, as a complement has."""
    means = spark.createDataFrame([(u, 0.1 * u) for u in range(USERS)], "id long, offset double")
    users = replace(problem.sides[SideName.USERS], history=HistoryData(("equal",)))
    items = replace(
        problem.sides[SideName.ITEMS],
        history=HistoryData(("equal", "residuals"), 3.0, means),
        unrated=spark.createDataFrame([(f"item {ITEMS}",)], "id string"),
    )
    return {SideName.USERS: users, SideName.ITEMS: items}


def shape(dtype: str) -> Model:
    items = ITEMS + 1
    return Model(3, DENSE_WIDTH + USERS + items, SPARSE_WIDTH + items + 2 * USERS, "tanh", "sigmoid", True, dtype)


def requests(model: Model) -> list[Request]:
    direction = random_parameters(model, 3)
    return [
        Request(statistic, random_parameters(model, 1))
        for statistic in (
            FeatureCounts(),
            Averages(),
            LossGradient(),
            LossGradient(0.3),
            Product(direction, True, 0.3),
            Product(direction, False),
        )
    ]


@contextmanager
def oracle_at(
    at: ItemsAt, problem: RatingProblem, sides: Mapping[SideName, SideData], dtype: str, partitions: int = 2
) -> Iterator[PassOracle]:
    ratings = problem.ratings.drop("offset").repartition(partitions)
    profile = profile_ratings(ratings)
    with (
        closing(build_blocks(ratings, profile, sides_in_blocks(at, sides), dtype, LIMITS)) as blocks,
        pass_oracle(at, ratings, profile, blocks, sides, dtype, LIMITS, PassesAt.EXECUTORS) as oracle,
    ):
        yield oracle


@pytest.mark.parametrize("dtype", ["float32", pytest.param("float64", marks=pytest.mark.soak)])
def test_driver_and_jobs_give_the_same_bits_however_the_ratings_are_partitioned(
    spark: SparkSession, problem: RatingProblem, sides: Mapping[SideName, SideData], dtype: str
) -> None:
    before = persisted(spark)
    asked = requests(shape(dtype))
    wanted = None
    for at, partitions in ((ItemsAt.DRIVER, 1), (ItemsAt.JOBS, 3)):
        with oracle_at(at, problem, sides, dtype, partitions) as oracle:
            found = [bits(sums) for sums in oracle.answer(shape(dtype), asked)]
        wanted = wanted or found
        assert found == wanted
        assert persisted(spark) == before


@pytest.mark.soak
def test_the_sums_are_those_of_items_in_the_blocks(problem: RatingProblem, sides: Mapping[SideName, SideData]) -> None:
    model = shape("float64")
    answers = []
    for at in (ItemsAt.BLOCKS, ItemsAt.DRIVER):
        with oracle_at(at, problem, sides, "float64") as oracle:
            answers.append(oracle.answer(model, requests(model)))
    widths = {"users": model.users_width, "items": model.items_width}
    for inside, outside in zip(*answers, strict=True):
        assert list(inside) == list(outside)
        for name, value in inside.items():
            a, b = (
                dense_rows(v, widths[name]) if isinstance(v, Rows) else np.asarray(v) for v in (value, outside[name])
            )
            np.testing.assert_allclose(b, a, rtol=0, atol=1e-12 * max(np.abs(a).max(), 1e-300), err_msg=name)


def test_a_lost_or_doubled_lane_of_items_is_no_result(
    problem: RatingProblem, sides: Mapping[SideName, SideData]
) -> None:
    model = shape("float64")
    with oracle_at(ItemsAt.JOBS, problem, sides, "float64") as oracle:
        lanes = oracle._items._blocks
        frames = (lanes.records.whole, lanes.records.names)
        lost = Records(*(frame.where("lane != 2") for frame in frames))
        doubled = Records(*(frame.unionByName(frame.where("lane = 2")) for frame in frames))
        # The first pass of each goes by records, the second one by names.
        for records in (lost, lost, doubled, doubled):
            oracle._items._blocks = replace(lanes, records=records)
            with pytest.raises(SetupError, match=rf"a pass returned .* of {len(lanes.lanes)} user parts"):
                oracle.run(LossGradient(), model, [random_parameters(model, 1)])


def test_where_items_are_evaluated_follows_from_sizes() -> None:
    history = {SideName.USERS: SideData(), SideName.ITEMS: SideData(history=HistoryData(("equal", "residuals")))}
    none = {SideName.USERS: SideData(history=HistoryData(("equal",))), SideName.ITEMS: SideData()}
    limits = GridLimits()

    def at(count: int, data: Mapping[SideName, SideData]) -> ItemsAt:
        return items_at(RatingsProfile(count, 1000, 1000, 1.0, 5.0), data, limits)

    assert at(250_000, history) is ItemsAt.BLOCKS
    assert at(250_001, history) is ItemsAt.DRIVER
    assert at(5_000_000, history) is ItemsAt.DRIVER
    assert at(5_000_001, history) is ItemsAt.JOBS
    assert at(50_000_000, none) is ItemsAt.BLOCKS
    assert LIMITS.ratings_per_lane < COUNT * 2
