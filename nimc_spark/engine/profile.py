"""What must be known of the ratings before training, in one job; bad rows are an error here, with their number."""

from __future__ import annotations

from dataclasses import dataclass

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from nimc_spark.errors import DataError

# Squares of larger numbers, or of their inverses, are no numbers of float32.
LARGEST = 1e18


@dataclass(frozen=True)
class RatingsProfile:
    """|Ω|, about how many users and items there are (to size the grid), and the range of rating − offset."""

    count: int
    users: int
    items: int
    lowest: float
    highest: float


def profile_ratings(ratings: DataFrame) -> RatingsProfile:
    """Profile of ratings(user, item, rating[, weight][, offset]).

    Raises DataError for an empty table, weights that are all 0, null ids, and ratings, weights or offsets that are
    null, not finite, beyond ±1e18 or (weights) negative: the number of rows of each is in the message.
    """
    faults = _faults(ratings)
    target = F.col("rating") - F.col("offset") if "offset" in ratings.columns else F.col("rating")
    heaviest = F.max("weight") if "weight" in ratings.columns else F.lit(1.0)
    row = ratings.agg(
        F.count(F.lit(1)).alias("count"),
        # Merging these sketches does not depend on order: the same number for any partitioning.
        F.approx_count_distinct("user").alias("users"),
        F.approx_count_distinct("item").alias("items"),
        F.min(target).alias("lowest"),
        F.max(target).alias("highest"),
        heaviest.alias("heaviest"),
        *(F.count_if(condition).alias(f"fault{i}") for i, condition in enumerate(faults.values())),
    ).first()
    if row is None or row["count"] == 0:
        raise DataError("there are no ratings to train on: the ratings are empty")
    found = [f"{row[f'fault{i}']} rows with {name}" for i, name in enumerate(faults) if row[f"fault{i}"]]
    if found:
        raise DataError(f"the ratings have {', '.join(found)}; remove them, or let the prepare job quarantine them")
    if row["heaviest"] == 0:
        raise DataError("there are no ratings to train on: all weights are 0")
    if row["heaviest"] < 1 / LARGEST:
        raise DataError(f"all weights are below {1 / LARGEST:g}: multiply them, their proportions alone count")
    return RatingsProfile(row["count"], row["users"], row["items"], row["lowest"], row["highest"])


def _faults(ratings: DataFrame) -> dict[str, Column]:
    faults = {"a null user": F.col("user").isNull(), "a null item": F.col("item").isNull()}
    for name in ("rating", "weight", "offset"):
        if name in ratings.columns:
            value = F.col(name)
            infinite = F.abs(value) == float("inf")
            faults[f"a null, NaN or infinite {name}"] = value.isNull() | F.isnan(value) | infinite
            faults[f"a {name} beyond ±{LARGEST:g}"] = ~F.isnan(value) & ~infinite & (F.abs(value) > LARGEST)
    if "weight" in ratings.columns:
        faults["a negative weight"] = F.col("weight") < 0
    return faults
