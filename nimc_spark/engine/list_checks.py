"""What lists of recommendations look like as a whole, before anybody reads them.

    sameness = (s − s₀) / (1 − s₀)    s = Σ_j n_j (n_j − 1) / (U (U − 1) L),  s₀ = L / N

n_j: lists that hold item j, of U lists with L items on average, from N items. s is the share of a list that another
user's has too, s₀ that share where every item is used alike: sameness is 0 then, and 1 if all have the same list.

    overlap = Σ_u |now_u ∩ before_u| / Σ_u min(|now_u|, |before_u|)       over the users of both
    drift   = |mean score now − mean score before| / standard deviation before

Sums of scores are exact (`sums.py`): no number depends on the partitioning.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from pyspark.sql import DataFrame, Row
from pyspark.sql import functions as F

from nimc_spark.engine.pairs import BASELINE
from nimc_spark.engine.sums import exact_sum
from nimc_spark.errors import DataError


class ListMeasures(NamedTuple):
    """Of all lists: `wanted` are rows up to k a user, `full` users with k rows or more; `faulty` those with an item or
    a rank twice, ranks that are not 1, 2, …, or over k rows."""

    rows: int
    wanted: int
    users: int
    full: int
    faulty: int
    not_finite: int
    baseline: int
    items: int
    sameness: float


def measure_lists(lists: DataFrame, k: int, items: int) -> ListMeasures:
    """Measures lists(user, rank, item, score, score_source) drawn from `items` items, reading them twice."""
    finite = F.coalesce(F.abs("score") < F.lit(math.inf), F.lit(False))
    # Lists of a few entries each: to count distinct ones Spark would shuffle every row three times.
    length, ranks, chosen = F.count("*"), F.sort_array(F.collect_list("rank")), F.collect_list("item")
    once = F.size(F.array_distinct(chosen)) == length
    sound = (length <= k) & once & (ranks == F.sequence(F.lit(1), length.cast("int")))
    by_user = lists.groupBy("user").agg(
        length.alias("length"),
        F.least(length, F.lit(k)).alias("wanted"),
        sound.alias("sound"),
        F.count_if(~finite).alias("not_finite"),
        F.count_if(F.col("score_source") == BASELINE).alias("baseline"),
    )
    sums = (F.coalesce(F.sum(name), F.lit(0)) for name in ("length", "wanted", "not_finite", "baseline"))
    flags = (F.count_if(F.col("length") >= k), F.count_if(~F.col("sound")))
    rows, wanted, not_finite, baseline, users, full, faulty = _first(by_user.agg(*sums, F.count("*"), *flags))
    used, n = lists.groupBy("item").agg(F.count("*").alias("n")), F.col("n")
    distinct, pairs = _first(used.agg(F.count("*"), F.sum((n * (n - 1)).cast("decimal(38,0)"))))
    sameness = _sameness(int(pairs or 0), users, rows, items)
    return ListMeasures(rows, wanted, users, full, faulty, not_finite, baseline, distinct, sameness)


def overlap(lists: DataFrame, before: DataFrame) -> float:
    """Of `lists` with those `before`, both (user, item), with ids of one type; NaN without a user in both."""
    both = lists.select("user", "item").join(before.select("user", "item"), ["user", "item"]).count()
    lengths = [df.groupBy("user").agg(F.count("*").alias(name)) for name, df in (("now", lists), ("then", before))]
    possible = _first(lengths[0].join(lengths[1], "user").agg(F.sum(F.least("now", "then"))))[0]
    return both / possible if possible else math.nan


def score_drift(lists: DataFrame, before: DataFrame) -> float:
    """Of the scores of `lists` from those `before`, both read twice; NaN where those before are all one."""
    (now, _), (then, deviation) = _moments(lists), _moments(before)
    return abs(now - then) / deviation if deviation else math.nan


def _sameness(pairs: int, users: int, rows: int, items: int) -> float:
    """0 for a single list, and for lists that hold all there is."""
    if users < 2 or rows >= users * items:
        return 0.0
    length = rows / users
    shared, least = pairs / (users * (users - 1) * length), length / items
    return max((shared - least) / (1 - least), 0.0)


def _moments(lists: DataFrame) -> tuple[float, float]:
    """Mean and standard deviation of the finite scores."""
    scores = lists.where(F.abs("score") < F.lit(math.inf))
    scale = _first(scores.agg(F.max(F.abs("score"))))[0] or 0.0
    score = F.col("score")
    n, total, squares = _first(
        scores.agg(F.count("*"), exact_sum(score, scale), exact_sum(score * score, scale * scale))
    )
    if not n:
        return math.nan, math.nan
    mean = total / n
    return mean, math.sqrt(max(squares / n - mean * mean, 0.0))


def _first(df: DataFrame) -> Row:
    row = df.first()
    if row is None:
        raise DataError("an aggregate came back without its row")
    return row
