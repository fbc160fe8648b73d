"""Where passes run: by sizes alone, with the same bits."""

from __future__ import annotations

import pytest
from pyspark.sql import SparkSession

from nimc_spark.engine.blocks import Grid
from nimc_spark.engine.passes_at import PassesAt, oracle_of, passes_at
from nimc_spark.engine.profile import RatingsProfile
from tests.spark.engine.oracle_problem import RatingProblem, model_of
from tests.spark.engine.test_spark_oracle import sums_of


@pytest.mark.parametrize(
    ("ratings", "lanes", "matrices", "at"),
    [
        (100_000, 1, True, PassesAt.DRIVER),
        (2_000_000, 4, False, PassesAt.DRIVER),
        (2_000_000, 4, True, PassesAt.EXECUTORS),
        (2_000_001, 4, False, PassesAt.EXECUTORS),
        (100, 5, False, PassesAt.EXECUTORS),
    ],
)
def test_few_ratings_in_few_lanes_stay_on_the_driver(ratings: int, lanes: int, matrices: bool, at: PassesAt) -> None:
    assert passes_at(RatingsProfile(ratings, 100, 100, 1.0, 5.0), Grid(lanes, 1), matrices) is at


def test_the_same_bits_wherever_passes_run(spark: SparkSession, problem: RatingProblem) -> None:
    blocks = problem.blocks("float32", 2)
    model = model_of(blocks, "float32")
    on_driver, on_executors = (sums_of(oracle_of(blocks, at), model) for at in PassesAt)
    assert on_driver == on_executors
    blocks.close()
