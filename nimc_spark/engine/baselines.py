"""Baseline offsets: global mean, shrunken item bias, shrunken user bias, fitted on training rows.

    μ = Σ w r / Σ w
    b_j = Σ_{i ∈ Ω_j} w (r − μ) / (n_j + λ_item)
    b_i = Σ_{j ∈ Ω_i} w (r − μ − b_j) / (n_i + λ_user)

n is the sum of weights; an id without training ratings gets 0. Sums are exact (`sums.py`), so the offsets have the same
bits for any partitioning.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from nimc_spark.engine.sums import exact_sum

TERMS = ("global", "item", "user")


@dataclass(frozen=True)
class Shrinkage:
    """λ of the item biases and of the user biases, in ratings."""

    item: float = 5.0
    user: float = 5.0


@dataclass(frozen=True)
class Baseline:
    """offset(i, j) = mean + users[i] + items[j]; users and items are DataFrame(id, offset double) or None for zeros."""

    mean: float
    users: DataFrame | None
    items: DataFrame | None


def fit_baseline(ratings: DataFrame, terms: Sequence[str], shrinkage: Shrinkage) -> Baseline:
    """Fit the terms named in `terms` on ratings(user, item, rating[, weight][, offset]); r is rating − offset.

    A user term without an item term is fitted on r − μ alone. Ratings must be finite (`profile_ratings`).
    """
    rows, mean, scale, weight_scale = _centred(ratings, "global" in terms)
    # A residual is at most twice the largest rating, and once more after the item biases.
    bounds = (3 * scale, weight_scale)
    items = users = None
    if "item" in terms:
        items = _biases(rows, "item", shrinkage.item, *bounds)
        rows = rows.join(items.withColumnRenamed("id", "item"), "item").withColumn(
            "residual", F.col("residual") - F.col("offset")
        )
    if "user" in terms:
        users = _biases(rows, "user", shrinkage.user, *bounds)
    return Baseline(mean, users, items)


def fit_means(ratings: DataFrame, shrinkage: Shrinkage) -> Baseline:
    """μ, and each side's biases on r − μ alone: what to hold a model against, not to be added up.

    As `fit_baseline` with the terms global and item, and with global and user, at half the cost.
    """
    rows, mean, scale, weight_scale = _centred(ratings, True)
    users, items = (
        _biases(rows, side, shrunken, 3 * scale, weight_scale)
        for side, shrunken in (("user", shrinkage.user), ("item", shrinkage.item))
    )
    return Baseline(mean, users, items)


def fit_popularity(ratings: DataFrame, terms: Sequence[str], beta: float) -> Baseline:
    """With the term item, offset_j = Σ_i w a_ij / (Σ_i w + β (N − n_j)): what of all N users with ratings makes the
    loss with complement weight β least if it is the whole score of item j, n_j its ratings; without it none.

    ratings(user, item, rating[, weight]) hold each pair once, the target a as rating.
    """
    if "item" not in terms:
        return Baseline(0.0, None, None)
    rows, _, scale, weight_scale = _centred(ratings, False)
    users = ratings.select("user").distinct().count()
    weights = exact_sum(F.col("w"), weight_scale) + beta * (F.lit(users) - F.count("*"))
    share = F.try_divide(exact_sum(F.col("w") * F.col("residual"), scale), weights)
    return Baseline(
        0.0, None, rows.groupBy(F.col("item").alias("id")).agg(F.coalesce(share, F.lit(0.0)).alias("offset"))
    )


def _centred(ratings: DataFrame, on_mean: bool) -> tuple[DataFrame, float, float, float]:
    """DataFrame(user, item, residual, w) of rating − offset − μ, with μ, max |rating − offset| w and max w."""
    weight = F.col("weight") if "weight" in ratings.columns else F.lit(1.0)
    target = F.col("rating") - F.col("offset") if "offset" in ratings.columns else F.col("rating")
    rows = ratings.select("user", "item", target.cast("double").alias("residual"), weight.cast("double").alias("w"))
    largest, heaviest = _first(rows, F.max(F.abs("residual")), F.max("w"))
    scale, weight_scale = max(largest * heaviest, 1e-300), max(heaviest, 1e-300)
    mean = 0.0
    if on_mean:
        total, weights = _first(
            rows, exact_sum(F.col("w") * F.col("residual"), scale), exact_sum(F.col("w"), weight_scale)
        )
        mean = total / weights if weights else 0.0
        rows = rows.withColumn("residual", F.col("residual") - mean)
    return rows, mean, scale, weight_scale


def _biases(rows: DataFrame, column: str, shrinkage: float, scale: float, weight_scale: float) -> DataFrame:
    weights = exact_sum(F.col("w"), weight_scale) + shrinkage
    bias = F.try_divide(exact_sum(F.col("w") * F.col("residual"), scale), weights)
    # Null where all weights are 0 and nothing shrinks: such an id has no training rating that counts.
    return rows.groupBy(F.col(column).alias("id")).agg(F.coalesce(bias, F.lit(0.0)).alias("offset"))


def _first(rows: DataFrame, *columns: Column) -> tuple[float, ...]:
    row = rows.agg(*columns).first()
    return tuple(0.0 if value is None else float(value) for value in row or ())
