"""The profile of good ratings, and the message for each kind of bad one."""

from __future__ import annotations

import math

import pytest
from pyspark.sql import SparkSession

from nimc_spark.engine.profile import RatingsProfile, profile_ratings
from nimc_spark.errors import DataError

SCHEMA = "user int, item string, rating double, weight double, offset double"


def test_counts_and_range_of_what_scores_are_fitted_to(spark: SparkSession) -> None:
    rows = [(1, "a", 4.0, 1.0, 0.5), (1, "b", 1.0, 0.0, -0.5), (2, "a", 5.0, 2.0, 3.0)]
    frame = spark.createDataFrame(rows, SCHEMA)
    assert profile_ratings(frame) == RatingsProfile(3, 2, 2, 1.5, 3.5)
    assert profile_ratings(frame.drop("weight", "offset")) == RatingsProfile(3, 2, 2, 1.0, 5.0)


def test_every_fault_is_counted_in_one_message(spark: SparkSession) -> None:
    good = (1, "a", 4.0, 1.0, 0.0)
    rows = [
        good,
        (None, "a", 4.0, 1.0, 0.0),
        (1, None, 4.0, 1.0, 0.0),
        (1, None, None, 1.0, 0.0),
        (1, "a", math.nan, 1.0, 0.0),
        (1, "a", -math.inf, 1.0, 0.0),
        (1, "a", 4.0, -0.5, 0.0),
        (1, "a", 4.0, math.inf, 0.0),
        (1, "a", 4.0, 1.0, None),
        (1, "a", -2e18, 3e18, 4e18),
    ]
    with pytest.raises(DataError) as raised:
        profile_ratings(spark.createDataFrame(rows, SCHEMA))
    assert str(raised.value) == (
        "the ratings have 1 rows with a null user, 2 rows with a null item, "
        "3 rows with a null, NaN or infinite rating, 1 rows with a rating beyond ±1e+18, "
        "1 rows with a null, NaN or infinite weight, 1 rows with a weight beyond ±1e+18, "
        "1 rows with a null, NaN or infinite offset, 1 rows with a offset beyond ±1e+18, "
        "1 rows with a negative weight; remove them, or let the prepare job quarantine them"
    )


def test_nothing_to_train_on(spark: SparkSession) -> None:
    with pytest.raises(DataError, match="the ratings are empty"):
        profile_ratings(spark.createDataFrame([], SCHEMA))
    with pytest.raises(DataError, match="all weights are 0"):
        profile_ratings(spark.createDataFrame([(1, "a", 4.0, 0.0, 0.0)] * 2, SCHEMA))
    with pytest.raises(DataError, match="all weights are below 1e-18: multiply them"):
        profile_ratings(spark.createDataFrame([(1, "a", 4.0, 0.0, 0.0), (1, "b", 4.0, 1e-19, 0.0)], SCHEMA))
