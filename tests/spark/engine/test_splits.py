"""Splits: the rows held out depend on the rows, the kind, the fraction and the seed alone."""

from __future__ import annotations

import math

import numpy as np
import pytest
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from nimc_spark.engine.splits import HELD_OUT, KINDS, Split, check_split_counts, flag_held_out, split
from nimc_spark.errors import DataError, UsageError

COLUMNS = ("the user", "item.id", "t")


@pytest.fixture(scope="module")
def ratings(spark: SparkSession) -> DataFrame:
    random = np.random.default_rng(3)
    rows = [(int(u), int(i), int(t)) for u, i, t in random.integers(0, [300, 200, 5000], size=(4000, 3))]
    return spark.createDataFrame(rows, "`the user` int, `item.id` int, t long")


def held_out(ratings: DataFrame, spec: Split) -> list[tuple]:
    rows = flag_held_out(ratings, spec, *COLUMNS).where(F.col(HELD_OUT)).drop(HELD_OUT).collect()
    return sorted(tuple(int(value) for value in row) for row in rows)


@pytest.mark.parametrize("by", KINDS)
def test_same_rows_for_any_partitioning_and_id_type(ratings: DataFrame, by: str) -> None:
    spec = Split(by, 0.2, 1)
    reference = held_out(ratings, spec)
    assert held_out(ratings.repartition(5, "t"), spec) == reference
    as_strings = ratings.withColumns(
        {"the user": F.col("`the user`").cast("string"), "item.id": F.col("`item.id`").cast("long")}
    )
    assert held_out(as_strings, spec) == reference


@pytest.mark.parametrize("by", KINDS)
def test_the_two_parts_are_the_whole(ratings: DataFrame, by: str) -> None:
    train, test = split(ratings, Split(by, 0.3, 2), *COLUMNS)
    assert train.columns == test.columns == ratings.columns
    whole = sorted(tuple(row) for row in ratings.collect())
    assert sorted(tuple(row) for part in (train, test) for row in part.collect()) == whole


@pytest.mark.parametrize(
    ("by", "share"), [("user", 0.2), ("item", 0.2), ("both", 0.36), ("random", 0.2), ("time", 0.2)]
)
def test_share_of_rows(ratings: DataFrame, by: str, share: float) -> None:
    assert len(held_out(ratings, Split(by, 0.2, 7))) / 4000 == pytest.approx(share, abs=0.06)


@pytest.mark.parametrize("by", ["user", "item", "random"])
def test_folds_are_disjoint_and_cover_everything(ratings: DataFrame, by: str) -> None:
    folds = [held_out(ratings, spec) for spec in Split(by, 0.25, 3).folds(4)]
    assert folds[0] == held_out(ratings, Split(by, 0.25, 3))
    assert sorted(row for fold in folds for row in fold) == sorted(tuple(row) for row in ratings.collect())


def test_a_fold_that_is_not_there_is_refused() -> None:
    with pytest.raises(UsageError, match=r"split by user with fraction 0\.3 has 3 folds: there is no fold 3"):
        Split("user", 0.3).folds(4)
    with pytest.raises(UsageError, match=r"split by time with fraction 0\.3 has 1 folds: there is no fold 1"):
        Split("time", 0.3).folds(2)


def test_users_and_items_stay_whole(ratings: DataFrame) -> None:
    for by, place in (("user", 0), ("item", 1)):
        rows = held_out(ratings, Split(by, 0.2, 1))
        drawn = {row[place] for row in rows}
        assert rows == sorted(tuple(row) for row in ratings.collect() if row[place] in drawn)


def test_both_is_the_union_of_two_independent_draws(ratings: DataFrame) -> None:
    parts = [set(held_out(ratings, Split(by, 0.2, 4))) for by in ("user", "item", "both")]
    assert parts[0] | parts[1] == parts[2]
    users, items = ({row[place] for row in part} for place, part in enumerate(parts[:2]))
    common = range(200)
    assert {i for i in common if i in users} != {i for i in common if i in items}


def test_seed_and_growing_fraction(ratings: DataFrame) -> None:
    small, large = (set(held_out(ratings, Split("user", fraction, 1))) for fraction in (0.1, 0.4))
    assert small < large
    assert set(held_out(ratings, Split("user", 0.1, 2))) != small


@pytest.mark.parametrize("fraction", [0.0005, 0.1, 0.25, 0.9, 0.9999])
@pytest.mark.parametrize("kind", ["long", "double", "timestamp", "date", "decimal(12,3)"])
def test_time_cut_is_exact(ratings: DataFrame, fraction: float, kind: str) -> None:
    seconds = F.col("t").cast("timestamp") if kind in ("timestamp", "date") else F.col("t") * 3
    if kind == "date":
        seconds = F.date_add(F.lit("2020-01-01"), F.col("t").cast("int"))
    timed = ratings.withColumn("moment", seconds.cast(kind))
    flagged = (
        flag_held_out(timed, Split("time", fraction), "the user", "item.id", "moment").select("t", HELD_OUT).collect()
    )
    times = sorted((row.t for row in flagged), reverse=True)
    cut = times[math.ceil(fraction * len(times)) - 1]
    assert all(row[HELD_OUT] == (row.t >= cut) for row in flagged)


def test_rows_without_a_time_are_training_rows(spark: SparkSession) -> None:
    rows = spark.createDataFrame([(1, 1, None), (1, 2, 5), (1, 3, 5), (1, 4, 9)], "u int, i int, t int")
    flagged = flag_held_out(rows, Split("time", 0.5), "u", "i", "t").orderBy("i").collect()
    assert [row[HELD_OUT] for row in flagged] == [False, True, True, True]
    assert [row[HELD_OUT] for row in flag_held_out(rows.limit(1), Split("time", 0.5), "u", "i", "t").collect()] == [
        False
    ]


def test_wrong_use_is_named(ratings: DataFrame) -> None:
    with pytest.raises(UsageError, match="split by 'fold': must be one of user, item, both, time, random"):
        Split("fold", 0.2)
    for fraction in (0.0, 1.0, -1.0, math.nan):
        with pytest.raises(UsageError, match="fraction is"):
            Split("user", fraction)
    with pytest.raises(UsageError, match="needs a time column"):
        split(ratings, Split("time", 0.2), "the user", "item.id")
    texts = ratings.withColumn("t", F.col("t").cast("string"))
    with pytest.raises(UsageError, match="column 't' is string"):
        split(texts, Split("time", 0.2), *COLUMNS)


def test_an_empty_part_is_named() -> None:
    check_split_counts(3, 1, Split("user", 0.2))
    with pytest.raises(DataError, match="leaves no training rows of 4"):
        check_split_counts(0, 4, Split("user", 0.2))
    with pytest.raises(DataError, match="leaves no held-out rows of 4"):
        check_split_counts(4, 0, Split("user", 0.2))
