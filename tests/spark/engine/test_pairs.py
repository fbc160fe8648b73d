"""Pair scoring: every row kept, defaults for unknown ids, ids matched by value, bits of the one dot product."""

from __future__ import annotations

import numpy as np
import pytest
from pyspark.sql import DataFrame, SparkSession

from nimc_spark.engine.pairs import score_pairs
from nimc_spark.errors import UsageError

FACTORS = "id int, factors array<double>, source string"


@pytest.fixture
def tables(spark: SparkSession) -> tuple[DataFrame, DataFrame]:
    users = spark.createDataFrame([(1, [1.0, 2.0], "model"), (2, [0.5, -1.0], "baseline")], FACTORS)
    items = spark.createDataFrame([(10, [3.0, 4.0], "model"), (20, [1.0, 1.0], "model")], FACTORS)
    return users, items


def scored_rows(pairs: DataFrame, tables: tuple[DataFrame, DataFrame], clip: tuple[float, float] | None = None) -> list:
    user, item = pairs.columns[:2]
    scored = score_pairs(pairs, user, item, *tables, [0.0, 1.0], [2.0, 0.0], "prediction", clip=clip)
    assert scored.columns == [*pairs.columns, "prediction", "score_source"]
    return sorted((tuple(row) for row in scored.collect()), key=repr)


def test_every_row_is_kept_and_unknown_ids_get_the_default(
    spark: SparkSession, tables: tuple[DataFrame, DataFrame]
) -> None:
    rows = [(1, 10), (1, 10), (2, 20), (1, 99), (99, 10), (99, 99), (None, 10), (None, None)]
    assert scored_rows(spark.createDataFrame(rows, "user int, item long"), tables) == sorted(
        [
            (1, 10, 11.0, "model"),
            (1, 10, 11.0, "model"),
            (2, 20, -0.5, "baseline"),
            (1, 99, 2.0, "baseline"),
            (99, 10, 4.0, "baseline"),
            (99, 99, 0.0, "baseline"),
            (None, 10, 4.0, "baseline"),
            (None, None, 0.0, "baseline"),
        ],
        key=repr,
    )


def test_ids_of_another_type_match_by_value_and_odd_names_are_only_names(
    spark: SparkSession, tables: tuple[DataFrame, DataFrame]
) -> None:
    rows = [("1", 10.0, "x"), ("01", 10.5, "y"), ("one", 20.0, None), ("99999999999", 1e300, "z")]
    pairs = spark.createDataFrame(rows, "`user.id` string, `an ``item` double, `id` string")
    assert scored_rows(pairs, tables) == sorted(
        [
            ("1", 10.0, "x", 11.0, "model"),
            ("01", 10.5, "y", 0.0, "baseline"),
            ("one", 20.0, None, 1.0, "baseline"),
            ("99999999999", 1e300, "z", 0.0, "baseline"),
        ],
        key=repr,
    )


def test_clip(spark: SparkSession, tables: tuple[DataFrame, DataFrame]) -> None:
    pairs = spark.createDataFrame([(1, 10), (2, 20), (1, 20)], "u int, i int")
    assert [row[2] for row in scored_rows(pairs, tables, clip=(1.0, 5.0))] == [5.0, 3.0, 1.0]


def test_column_order_decides_the_bits(spark: SparkSession) -> None:
    random = np.random.default_rng(5)
    P, Q = random.normal(size=(2, 40, 33)) * 10.0 ** random.integers(-6, 7, size=(2, 40, 33))
    P[0, :3], Q[0, :3] = (1e16, 1.0, -1e16), 1.0
    users = spark.createDataFrame([(i, row, "model") for i, row in enumerate(P.tolist())], FACTORS)
    items = spark.createDataFrame([(i, row, "model") for i, row in enumerate(Q.tolist())], FACTORS)
    pairs = spark.createDataFrame([(i, (7 * i) % 40) for i in range(40)], "u int, i int")
    zeros = [0.0] * 33
    rows = score_pairs(pairs, "u", "i", users, items, zeros, zeros, "prediction").collect()
    for row in rows:
        total = 0.0
        for p, q in zip(P[row.u].tolist(), Q[row.i].tolist(), strict=True):
            total = total + p * q
        assert row.prediction == total


def test_wrong_use_is_named(spark: SparkSession, tables: tuple[DataFrame, DataFrame]) -> None:
    pairs = spark.createDataFrame([(1, 10)], "u int, prediction int")
    with pytest.raises(UsageError, match="'prediction' is already in the pairs"):
        score_pairs(pairs, "u", "prediction", *tables, [0.0, 1.0], [0.0, 1.0], "prediction")
    with pytest.raises(UsageError, match="user factors have width 2, item factors 1"):
        score_pairs(pairs, "u", "prediction", *tables, [0.0, 1.0], [0.0], "score")
