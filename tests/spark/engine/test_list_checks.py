"""Measures of whole sets of lists, against numbers worked out by hand or by numpy."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
from pyspark.sql import DataFrame, SparkSession

from nimc_spark.engine.list_checks import measure_lists, overlap, score_drift

Rows = Sequence[tuple[int, int, str, float, str]]


def lists(spark: SparkSession, rows: Rows) -> DataFrame:
    return spark.createDataFrame(rows, "user int, rank int, item string, score double, score_source string")


def every_user(users: int, *items: str) -> list[tuple[int, int, str, float, str]]:
    return [(u, rank, item, 5.0 - rank, "model") for u in range(users) for rank, item in enumerate(items, 1)]


def test_counts_and_sameness_of_one_list_for_all(spark: SparkSession) -> None:
    found = measure_lists(lists(spark, every_user(4, "a", "b")), 2, 10)
    assert found[:-1] == (8, 8, 4, 4, 0, 0, 0, 2)
    assert found.sameness == pytest.approx(1.0, abs=1e-12)


def test_sameness_is_0_where_items_are_used_alike_and_where_lists_hold_all(spark: SparkSession) -> None:
    rows = [(u, r, f"{2 * u + r}", 1.0, "model") for u in range(5) for r in (1, 2)]
    assert measure_lists(lists(spark, rows), 2, 10).sameness == 0.0
    assert measure_lists(lists(spark, every_user(3, "a", "b")), 2, 2).sameness == 0.0
    assert measure_lists(lists(spark, every_user(1, "a", "b")), 2, 9).sameness == 0.0


def test_sameness_is_the_mean_overlap_of_pairs_of_users(spark: SparkSession) -> None:
    random = np.random.default_rng(0)
    chosen = [random.choice(9, 3, replace=False) for _ in range(12)]
    rows = [(u, r, str(item), 1.0, "model") for u, own in enumerate(chosen) for r, item in enumerate(own, 1)]
    shares = [len({*a} & {*b}) / 3 for i, a in enumerate(chosen) for j, b in enumerate(chosen) if i != j]
    expected = (np.mean(shares) - 3 / 9) / (1 - 3 / 9)
    assert measure_lists(lists(spark, rows), 3, 9).sameness == pytest.approx(max(expected, 0.0), rel=1e-12)


@pytest.mark.parametrize(
    "own",
    [
        [(1, "a"), (1, "b")],
        [(1, "a"), (2, "a")],
        [(1, "a"), (3, "b")],
        [(0, "a"), (1, "b")],
        [(1, "a"), (2, "b"), (3, "c")],
        [(None, "a"), (1, "b")],
        [(1, None), (2, "b")],
    ],
)
def test_lists_that_are_none(spark: SparkSession, own: list[tuple[int | None, str | None]]) -> None:
    rows = [(1, rank, item, 1.0, "model") for rank, item in own] + [(2, 1, "a", 1.0, "model")]
    found = measure_lists(lists(spark, rows), 2, 5)
    assert (found.users, found.full, found.faulty) == (2, 1, 1)
    assert (found.rows, found.wanted) == (len(own) + 1, 3)


def test_scores_that_are_none_and_those_of_the_baseline(spark: SparkSession) -> None:
    rows = [(u, 1, "a", score, "baseline") for u, score in enumerate([math.nan, math.inf, None, 1.0])]
    found = measure_lists(lists(spark, rows), 1, 5)
    assert (found.not_finite, found.baseline) == (3, 4)


def test_change_against_the_lists_before(spark: SparkSession) -> None:
    before = lists(spark, [(1, 1, "a", 1.0, ""), (1, 2, "b", 3.0, ""), (2, 1, "c", 1.0, ""), (3, 1, "x", 3.0, "")])
    now = lists(spark, [(1, 1, "b", 4.0, ""), (1, 2, "z", 4.0, ""), (2, 1, "c", 4.0, ""), (4, 1, "y", 4.0, "")])
    assert overlap(now, before) == pytest.approx(2 / 3, rel=1e-15)
    assert score_drift(now, before) == pytest.approx(2.0, rel=1e-15)
    assert math.isnan(overlap(now.where("user = 4"), before))
    assert math.isnan(score_drift(before, now))
