"""Metrics on held-out rows: rating errors in four cells, and ranking metrics from lists alone.

    rmse = √(Σ e² / n)    mae = Σ |e| / n    e = prediction − rating
    rmse_se = √((Σ e⁴ / n − rmse⁴) / n) / (2 rmse): its standard error, were the ratings independent

For a user with R > 0 relevant items and hits at ranks r_1 < r_2 < … ≤ k, relevance being binary:

    ndcg@k   = Σ_h 1/log₂(r_h + 1)  /  Σ_{r=1}^{min(k, R)} 1/log₂(r + 1)
    recall@k = hits / R
    map@k    = mean over users of  Σ_h (h / r_h) / min(k, R)

each averaged over the users with a relevant item; one without a list counts 0. coverage = distinct items on the first k
ranks of any list / size of the catalogue; novelty = the mean over these ranks of −log₂ of the share of training users
who rated the item, in bits. All sums are exact (`sums.py`): no number depends on the partitioning.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, product
from typing import Any

from pyspark.sql import Column, DataFrame, Row
from pyspark.sql import functions as F

from nimc_spark.engine.index import align_id, id_type, quoted
from nimc_spark.engine.sums import exact_sum
from nimc_spark.errors import DataError, UsageError


def evaluate_ratings(
    scored: DataFrame,
    rating_col: str,
    prediction_cols: Mapping[str, str],
    user_known_col: str,
    item_known_col: str,
) -> dict[str, dict[str, Any]]:
    """{"known_user/new_item": {"n": rows, predictor: {"rmse", "rmse_se", "mae"}, …}, …} for the cells that have rows.

    One job.

    prediction_cols: name of a predictor → its column; the `known` columns are boolean. Errors are summed by their power
    of two, so that no scale need be known beforehand. Raises DataError for a rating or prediction that is null or not
    finite.
    """
    predictors = [
        F.struct(F.lit(name).alias("predictor"), (quoted(column) - quoted(rating_col)).cast("double").alias("error"))
        for name, column in prediction_cols.items()
    ]
    known = [quoted(user_known_col).alias("user_known"), quoted(item_known_col).alias("item_known")]
    errors = scored.select(*known, F.inline(F.array(*predictors)))
    size = F.abs("error")
    sound = F.coalesce(size < F.lit(math.inf), F.lit(False))
    binade = F.when(sound & (size > 0), F.floor(F.log2(size)).cast("int"))
    # Within [1/2, 4) whatever the last bit of the logarithm.
    mantissa = size / F.pow(F.lit(2.0), F.col("binade"))
    sums = (
        errors.withColumn("sound", sound)
        .withColumn("binade", binade)
        .groupBy("user_known", "item_known", "predictor", "sound", "binade")
        .agg(
            F.count("*").alias("n"),
            exact_sum(mantissa, 4.0).alias("absolute"),
            exact_sum(mantissa * mantissa, 16.0).alias("squared"),
            exact_sum(mantissa * mantissa * mantissa * mantissa, 256.0).alias("fourth"),
        )
        .collect()
    )
    return _cells(sums, prediction_cols)


def _cells(sums: Sequence[Row], prediction_cols: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    for row in sums:
        if not row["sound"]:
            column = prediction_cols[row["predictor"]]
            raise DataError(f"{row['n']} rows have a null or non-finite rating or prediction in column {column!r}")
    cells: dict[str, dict[str, Any]] = {}
    for user_known, item_known in product((True, False), repeat=2):
        for name in prediction_cols:
            key = (user_known, item_known, name)
            group = [row for row in sums if (row["user_known"], row["item_known"], row["predictor"]) == key]
            if group:
                n = sum(row["n"] for row in group)
                absolute, squared, fourth = (_total(group, *sum_of) for sum_of in _SUMS)
                mean = squared / n
                spread = math.sqrt(max(fourth / n - mean * mean, 0.0) / n)
                error = spread / (2 * math.sqrt(mean)) if mean else 0.0
                cell = cells.setdefault(cell_name(user_known, item_known), {"n": n})
                cell[name] = {"rmse": math.sqrt(mean), "rmse_se": error, "mae": absolute / n}
    return cells


def cell_name(user_known: bool, item_known: bool) -> str:
    """ "known_user/new_item" and the like."""
    return f"{'known' if user_known else 'new'}_user/{'known' if item_known else 'new'}_item"


# The sums and the power of the error in each.
_SUMS = (("absolute", 1), ("squared", 2), ("fourth", 4))


def _total(group: Sequence[Row], name: str, power: int) -> float:
    return math.fsum(math.ldexp(row[name], power * row["binade"]) for row in group if row["binade"] is not None)


# Of an item that one of 2⁶⁴ users rated.
_MOST_BITS = 64.0


@dataclass(frozen=True)
class CalibrationBin:
    """Held-out rows whose predictions are alike: how many, and the means of predictions and of ratings."""

    n: int
    prediction: float
    rating: float


def calibration(scored: DataFrame, rating_col: str, prediction_col: str, bins: int) -> list[CalibrationBin]:
    """The rows cut by prediction into `bins` bins of equal width, without those that are empty; two jobs."""
    rating, prediction = quoted(rating_col).cast("double"), quoted(prediction_col).cast("double")
    found = scored.agg(F.min(prediction), F.max(prediction), F.max(F.abs(rating)), F.max(F.abs(prediction))).first()
    if found is None or found[0] is None:
        return []
    low, high, *largest = found
    bound = max(*largest, 1e-300)
    place = F.floor((prediction - F.lit(low)) / F.lit(max((high - low) / bins, 1e-300)))
    rows = (
        scored.groupBy(F.least(place, F.lit(bins - 1)).alias("bin"))
        .agg(F.count("*").alias("n"), exact_sum(prediction, bound).alias("p"), exact_sum(rating, bound).alias("r"))
        .orderBy("bin")
        .collect()
    )
    return [CalibrationBin(row["n"], row["p"] / row["n"], row["r"] / row["n"]) for row in rows]


def item_information(ratings: DataFrame) -> DataFrame:
    """DataFrame(item, information double): −log₂ of the share of the users of ratings(user, item, …) who rated it."""
    users = ratings.agg(F.count_distinct("user").cast("double").alias("users"))
    own = ratings.groupBy("item").agg(F.count_distinct("user").alias("own"))
    return own.crossJoin(users).select("item", F.log2(F.col("users") / F.col("own")).alias("information"))


def evaluate_ranking(
    recommendations: DataFrame, relevant: DataFrame, k: int, catalogue_size: int
) -> dict[str, float | int]:
    """{"ndcg@k", "recall@k", "map@k", "coverage", "users"} of lists(user, rank, item[, information]), k written as its
    number, and with the `information` of each item (at most `_MOST_BITS`) also "novelty", NaN without a list.

    relevant: DataFrame(user, item), repeated pairs count once, pairs with a null are left out. `users` is the number of
    users with a relevant item; without any, the three means are NaN. Raises UsageError for k or a catalogue below 1.
    """
    if k < 1 or catalogue_size < 1:
        raise UsageError(f"k is {k} and the catalogue has {catalogue_size} items: both must be at least 1")
    lists = recommendations.where(F.col("rank") <= k)
    sides = [
        align_id(F.col(side), id_type(relevant, side), id_type(recommendations, side)).alias(f"__nimc_{side}")
        for side in ("user", "item")
    ]
    # Keyed by the relevant pair's own ids: one that no list can hold still counts.
    wanted = relevant.select("user", "item").dropna().distinct().withColumns({"a": sides[0], "b": sides[1]})
    hits = lists.select(F.col("user").alias("a"), F.col("item").alias("b"), "rank")
    users = (
        wanted.join(hits, ["a", "b"], "left")
        .groupBy("user")
        .agg(F.count("*").alias("R"), F.array_sort(F.collect_list("rank")).alias("ranks"))
    )
    bits = F.col("information") if "information" in lists.columns else F.lit(None).cast("double")
    coverage = lists.agg(
        F.count_distinct("item").alias("items"), F.count("*").alias("rows"), exact_sum(bits, _MOST_BITS).alias("bits")
    )
    means = users.agg(F.count("*").alias("users"), *[exact_sum(c, 1.0).alias(n) for n, c in _per_user(k).items()])
    row = means.crossJoin(coverage).first()
    if row is None:
        raise DataError("an aggregate came back without its row")
    count = row["users"]
    found = {f"{name}@{k}": row[name] / count if count else math.nan for name in ("ndcg", "recall", "map")}
    found |= {"coverage": row["items"] / catalogue_size}
    if "information" in lists.columns:
        found["novelty"] = row["bits"] / row["rows"] if row["rows"] else math.nan
    return {**found, "users": count}


def _per_user(k: int) -> dict[str, Column]:
    """The three numbers of one user from (R, ranks ascending), summed in rank order."""
    ranks, zero = F.col("ranks"), F.lit(0.0)
    possible = F.least(F.lit(k), F.col("R")).cast("int")
    discounts = [1 / math.log2(rank + 1) for rank in range(1, k + 1)]
    discount, ideal = (F.array(*map(F.lit, values)) for values in (discounts, accumulate(discounts)))
    gain = F.aggregate(ranks, zero, lambda total, rank: total + F.element_at(discount, rank))
    precisions = F.transform(ranks, lambda rank, place: (place + F.lit(1)) / rank)
    return {
        "ndcg": gain / F.element_at(ideal, possible),
        "recall": F.size(ranks) / F.col("R"),
        "map": F.aggregate(precisions, zero, lambda total, precision: total + precision) / possible,
    }
