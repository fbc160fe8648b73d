"""Top-K on Spark against the whole score matrix, for several cuts, exclusions and id types; the same bits as pairs."""

from __future__ import annotations

import uuid
from dataclasses import replace
from datetime import date, timedelta
from decimal import Decimal

import numpy as np
import pytest
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from nimc_spark.engine.pairs import score_pairs
from nimc_spark.engine.topk import TileLimits, top_k
from nimc_spark.errors import DataError, UsageError

SCHEMA = "id {}, factors array<double>, source string"


def factor_table(spark: SparkSession, ids: list, matrix: np.ndarray, id_type: str, source: str = "model") -> DataFrame:
    rows = [(i, row.tolist(), source) for i, row in zip(ids, matrix, strict=True)]
    return spark.createDataFrame(rows, SCHEMA.format(id_type))


def random_tables(
    spark: SparkSession, n: int = 23, m: int = 31, width: int = 5
) -> tuple[DataFrame, DataFrame, np.ndarray]:
    random, width = np.random.default_rng(n + m), 5
    P, Q = random.normal(size=(n, width)), random.normal(size=(m, width))
    scores = np.zeros((n, m))
    for column in range(width):
        scores += P[:, column, None] * Q[:, column]
    users = factor_table(spark, list(range(100, 100 + n)), P, "int")
    return users, factor_table(spark, list(range(m)), Q, "long"), scores


def expected(scores: np.ndarray, k: int, excluded: set[tuple[int, int]] = frozenset()) -> list[tuple]:
    rows = []
    for i, row in enumerate(scores):
        items = [j for j in range(len(row)) if (100 + i, j) not in excluded]
        best = sorted(items, key=lambda j, row=row: (-row[j], j))[:k]
        rows += [(100 + i, rank, j, row[j]) for rank, j in enumerate(best, start=1)]
    return rows


def collected(lists: DataFrame) -> list[tuple]:
    return [tuple(row) for row in lists.orderBy("user", "rank").collect()]


WHOLE = TileLimits()
USERS_CUT = TileLimits(users=8)
# 40 bytes a factor row: 31 items in two parts.
BOTH_CUT = TileLimits(users=12, nbytes=1000)
SHUFFLED = replace(BOTH_CUT, shared=1999)


@pytest.mark.parametrize(
    ("limits", "k"),
    [
        (WHOLE, 31),
        (BOTH_CUT, 4),
        (SHUFFLED, 5),
        *(pytest.param(*own, marks=pytest.mark.soak) for own in ((WHOLE, 1), (USERS_CUT, 4), (BOTH_CUT, 40))),
    ],
)
def test_every_cut_gives_the_same_lists_and_bits(spark: SparkSession, limits: TileLimits, k: int) -> None:
    users, items, scores = random_tables(spark)
    lists = top_k(users, items, k, limits=limits)
    assert lists.columns == ["user", "rank", "item", "score", "score_source"]
    assert [row[:4] for row in collected(lists)] == expected(scores, k)


@pytest.mark.parametrize(
    "limits", [SHUFFLED, *(pytest.param(own, marks=pytest.mark.soak) for own in (WHOLE, BOTH_CUT))]
)
def test_exclusions_come_before_the_cut(spark: SparkSession, limits: TileLimits) -> None:
    users, items, scores = random_tables(spark)
    excluded = {(100 + i, j) for i in range(20) for j in range(31) if (i * j) % 3 == 0}
    # Repeated pairs, unknown ids and nulls do no harm; ids come as strings.
    harmless = [("7", "1"), ("100", "999"), (None, "1"), ("100", None), ("x", "y")]
    rows = [(str(i), str(j)) for i, j in excluded] * 2 + harmless
    lists = top_k(users, items, 12, spark.createDataFrame(rows, "user string, item string"), limits)
    assert [row[:4] for row in collected(lists)] == expected(scores, 12, excluded)


def test_who_has_candidates_chooses_among_these_alone(spark: SparkSession) -> None:
    users, items, scores = random_tables(spark)
    own = {(100 + i, j) for i in range(9) for j in range(31) if (i + j) % 4 == 0}
    excluded = {(100 + i, j) for i in range(20) for j in range(31) if (i * j) % 3 == 0}
    # One has unknown candidates alone, one none but excluded ones: they get nothing.
    harmless = [("7", "1"), ("109", "999"), (None, "1"), ("100", None), ("110", "0")]
    candidates = spark.createDataFrame([*((str(i), str(j)) for i, j in own), *harmless], "user string, item string")
    exclude = spark.createDataFrame(sorted(excluded), "user int, item int")
    lists = top_k(users, items, 5, exclude, BOTH_CUT, candidates)
    chosen = {100 + i for i in range(9)} | {109, 110}
    others = {(user, j) for user in chosen for j in range(31)} - own
    assert [row[:4] for row in collected(lists)] == expected(scores, 5, excluded | others)
    assert {row[4] for row in collected(lists)} == {"model"}


def test_a_user_without_enough_candidates_gets_them_all(spark: SparkSession) -> None:
    users, items, scores = random_tables(spark, n=3, m=4)
    seen = {(100, 0), (100, 1), (100, 2), (101, 0), (101, 1), (101, 2), (101, 3)}
    lists = top_k(users, items, 3, spark.createDataFrame(sorted(seen), "user int, item int"))
    assert [row[:4] for row in collected(lists)] == expected(scores, 3, seen)


@pytest.mark.parametrize(
    ("id_type", "ids"),
    [
        ("int", [-5, 2, 2**31 - 1, 7]),
        ("long", [2**40, -(2**50), 3, 2**62]),
        ("string", ["é", "a.b", "", "Z"]),
        ("string", [str(uuid.UUID(int=i << 64)) for i in (3, 1, 2, 9)]),
        ("date", [date(2026, 1, 1) + timedelta(days=d) for d in (4, 0, -900, 7)]),
        ("decimal(20,2)", [Decimal("1.50"), Decimal("-3.00"), Decimal("10.00"), Decimal("9.99")]),
        ("binary", [bytearray(b"\x01"), bytearray(b"\xff"), bytearray(b""), bytearray(b"\x00")]),
    ],
)
def test_native_ids_are_kept_and_ties_go_to_the_lower_id(spark: SparkSession, id_type: str, ids: list) -> None:
    table = factor_table(spark, ids, np.ones((4, 2)), id_type)
    lists = top_k(table, table, 3, limits=TileLimits(users=2, nbytes=48))
    assert lists.schema["user"].dataType == lists.schema["item"].dataType == table.schema["id"].dataType
    by_id = [row.id for row in table.orderBy("id").collect()]
    assert [row[:3] for row in collected(lists)] == [
        (user, rank, item) for user in by_id for rank, item in enumerate(by_id[:3], start=1)
    ]


def test_source_is_the_models_only_if_both_sides_are(spark: SparkSession) -> None:
    users = factor_table(spark, [1], np.ones((1, 1)), "int").union(
        factor_table(spark, [2], np.ones((1, 1)), "int", "baseline")
    )
    items = factor_table(spark, [1], np.ones((1, 1)), "int").union(
        factor_table(spark, [2], np.zeros((1, 1)), "int", "baseline")
    )
    sources = [(row[0], row[2], row[4]) for row in collected(top_k(users, items, 2))]
    assert sources == [(1, 1, "model"), (1, 2, "baseline"), (2, 1, "baseline"), (2, 2, "baseline")]


def test_same_bits_as_pairs(spark: SparkSession) -> None:
    users, items, _ = random_tables(spark)
    lists = top_k(users, items, 6, limits=BOTH_CUT)
    default = [0.0] * 5
    scored = score_pairs(lists, "user", "item", users, items, default, default, "again", "again_source")
    assert scored.count() == 23 * 6
    assert scored.where((F.col("score") != F.col("again")) | (F.col("again_source") != "model")).count() == 0


def test_empty_sides(spark: SparkSession) -> None:
    users, items, _ = random_tables(spark, n=2, m=2)
    assert top_k(users.limit(0), items, 3).count() == 0
    assert top_k(users, items.limit(0), 3, spark.createDataFrame([(100, 1)], "user int, item int")).count() == 0


@pytest.mark.parametrize("bad", [[1.0, float("nan")], [float("-inf"), 1.0], [None, 1.0], None])
def test_bad_factors_are_named(spark: SparkSession, bad: list | None) -> None:
    good = factor_table(spark, [1], np.ones((1, 2)), "int")
    damaged = good.union(spark.createDataFrame([(9, bad, "model")], SCHEMA.format("int")))
    with pytest.raises(DataError, match=r"1 of 2 items have null or non-finite factors, first item '9'"):
        top_k(good, damaged, 1)


def test_widths_must_agree(spark: SparkSession) -> None:
    two, three = (factor_table(spark, [width], np.ones((1, width)), "int") for width in (2, 3))
    with pytest.raises(DataError, match="user factors have width 2, item factors 3"):
        top_k(two, three, 1)
    with pytest.raises(DataError, match="user factors have widths from 2 to 3"):
        top_k(two.union(three), three, 1)


def test_k_must_be_positive(spark: SparkSession) -> None:
    users, items, _ = random_tables(spark, n=1, m=1)
    with pytest.raises(UsageError, match="k is 0"):
        top_k(users, items, 0)
