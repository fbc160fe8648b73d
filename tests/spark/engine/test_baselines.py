"""Baselines against pandas, with weights and offsets; the same bits at 1 and 8 partitions."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from pyspark.sql import DataFrame, SparkSession

from nimc_spark.engine.baselines import Shrinkage, fit_baseline


@pytest.fixture(scope="module")
def rows() -> pd.DataFrame:
    random = np.random.default_rng(3)
    n = 400
    return pd.DataFrame(
        {
            "user": random.integers(0, 30, n),
            "item": random.integers(0, 20, n),
            "rating": random.normal(3.5, 1.2, n),
            "weight": random.uniform(0, 3, n),
            "offset": random.normal(0, 0.5, n),
        }
    )


def biases(frame: DataFrame | None) -> dict[int, float]:
    assert frame is not None
    return {row.id: row.offset for row in frame.collect()}


def shrunken(rows: pd.DataFrame, side: str, shrinkage: float) -> pd.Series:
    sums = (rows.weight * rows.residual).groupby(rows[side]).sum()
    return sums / (rows.weight.groupby(rows[side]).sum() + shrinkage)


@pytest.mark.parametrize("columns", [["weight", "offset"], ["weight"], []])
def test_the_formulas(spark: SparkSession, rows: pd.DataFrame, columns: list[str]) -> None:
    given = rows[["user", "item", "rating", *columns]]
    fitted = fit_baseline(spark.createDataFrame(given), ["user", "global", "item"], Shrinkage(item=4.0, user=7.0))
    local = given.assign(weight=given.get("weight", 1.0), residual=given.rating - given.get("offset", 0.0))
    mean = np.average(local.residual, weights=local.weight)
    assert fitted.mean == pytest.approx(mean, rel=1e-14)
    local.residual -= mean
    items = shrunken(local, "item", 4.0)
    assert biases(fitted.items) == pytest.approx(items.to_dict(), rel=1e-12)
    local.residual -= local.item.map(items)
    assert biases(fitted.users) == pytest.approx(shrunken(local, "user", 7.0).to_dict(), rel=1e-12)


def test_terms_are_fitted_as_named(spark: SparkSession, rows: pd.DataFrame) -> None:
    ratings = spark.createDataFrame(rows[["user", "item", "rating"]]).coalesce(1)
    nothing = fit_baseline(ratings, [], Shrinkage())
    assert (nothing.mean, nothing.users, nothing.items) == (0.0, None, None)
    users_alone = fit_baseline(ratings, ["global", "user"], Shrinkage(user=0.0))
    assert users_alone.items is None
    means = rows.rating.groupby(rows.user).mean() - rows.rating.mean()
    assert biases(users_alone.users) == pytest.approx(means.to_dict(), rel=1e-10, abs=1e-12)


def test_the_same_bits_for_any_partitioning(spark: SparkSession, rows: pd.DataFrame) -> None:
    ratings = spark.createDataFrame(rows)
    fitted = []
    for partitions in (1, 8):
        baseline = fit_baseline(ratings.repartition(partitions), ["global", "item", "user"], Shrinkage())
        fitted.append((baseline.mean, biases(baseline.items), biases(baseline.users)))
    assert fitted[0] == fitted[1]


def test_ids_whose_ratings_have_no_weight_get_zero(spark: SparkSession) -> None:
    rows = [(1, 1, 5.0, 0.0), (1, 2, 2.0, 1.0), (2, 2, 4.0, 1.0)]
    ratings = spark.createDataFrame(rows, "user int, item int, rating double, weight double")
    fitted = fit_baseline(ratings, ["global", "item"], Shrinkage(item=0.0))
    assert fitted.mean == 3.0
    assert biases(fitted.items) == {1: 0.0, 2: 0.0}
