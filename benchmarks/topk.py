"""The ten best items of everybody: against ALS on the same sizes, and against a matrix product that only multiplies.

ALS / ours          recommendForAllUsers(10) of ALS over 10,000 users (FULL=1: and 100,000) and 20,000 items, rank 50,
                    and the same lists by ours, both from ALS's factors at hand
ours / GEMM         scores a second of the kernel over those of P Qᵀ in float64 and in float32, one thread each
without / with      time of the kernel for items that differ in direction alone, over that for items some of which are
                    liked more by everybody
"""

from __future__ import annotations

import os
from contextlib import ExitStack
from functools import partial

import numpy as np
from pyspark.ml.recommendation import ALS
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from threadpoolctl import threadpool_limits

from benchmarks.report import Row, blas, in_turns, row
from nimc_spark.engine.context import held
from nimc_spark.engine.pairs import MODEL
from nimc_spark.engine.topk import top_k
from nimc_spark.kernels.topk import Floats, top_k_tile

_USERS, _FULL_USERS, _ITEMS, _RANK, _K = (10_000,), (10_000, 100_000), 20_000, 50, 10
# Spread of items' linear terms over that of the rest of a score: 2.8 in a model of MovieLens-1M, ids alone, rank 20.
_POPULARITY = 3.0
# Users of a tile.
_TILE = 4096


def run(spark: SparkSession) -> list[Row]:
    """Rows of the kernel, then of all users on Spark."""
    sizes = _FULL_USERS if os.environ.get("FULL") == "1" else _USERS
    return [*_kernel(), *(found for users in sizes for found in _everybody(spark, users))]


def _kernel() -> list[Row]:
    random = np.random.default_rng(1)
    P, Qt = 0.3 * random.standard_normal((_TILE, _RANK + 2)), 0.3 * random.standard_normal((_RANK + 2, _ITEMS))
    P32, Qt32 = P.astype(np.float32), Qt.astype(np.float32)
    with_terms, terms = _with_linear_terms(P, Qt)
    with threadpool_limits(1):
        times = in_turns(
            {
                "ours": lambda: top_k_tile(P, Qt, _K),
                "linear": lambda: top_k_tile(with_terms, terms, _K),
                "float64": lambda: P @ Qt,
                "float32": lambda: P32 @ Qt32,
            },
            calls=3,
            warm_up=2,
        )
    ours = [own.clock for own in times["ours"]]
    scores = _TILE * _ITEMS
    rows = [row("kernel, million scores a second", [scores / own / 1e6 for own in ours], ".0f")]
    linear = [own / other.clock for own, other in zip(ours, times["linear"], strict=True)]
    rows.append(row("the same without linear terms / with", linear, note="their spread three times that of the rest"))
    for kind, target in (("float64", "≥ 0.6, aim 0.8"), ("float32", "")):
        ratios = [product.clock / own for product, own in zip(times[kind], ours, strict=True)]
        rows.append(row(f"kernel's scores a second / GEMM's, {kind}", ratios, target=target))
    return rows


def _with_linear_terms(P: Floats, Qt: Floats) -> tuple[Floats, Floats]:
    """The same factors with linear terms in two columns: 1 and the user's, the item's and 1."""
    P, Qt = P.copy(), Qt.copy()
    spread = _POPULARITY * (P[:, 2:] @ Qt[2:, :256]).std() / Qt[0].std()
    P[:, 1], Qt[0] = P[:, 0], spread * Qt[0]
    P[:, 0], Qt[1] = 1.0, 1.0
    return P, Qt


def _everybody(spark: SparkSession, count: int) -> list[Row]:
    with ExitStack() as kept:
        ratings = kept.enter_context(held(_ratings(spark, count)))
        model = ALS(rank=_RANK, maxIter=1, userCol="user", itemCol="item", ratingCol="rating", seed=1).fit(ratings)
        # Both of ALS's own tables are kept, as ours are.
        theirs = [kept.enter_context(held(own)) for own in (model.userFactors, model.itemFactors)]
        if [own.count() for own in theirs] != [count, _ITEMS]:
            raise ValueError("ALS has not as many users and items as are scored")
        users, items = (kept.enter_context(held(_as_ours(own))) for own in theirs)
        lists = top_k(users, items, _K)
        same = lists.select("user", "item").intersect(_flat(model.recommendForAllUsers(_K))).count() / (count * _K)
        times = in_turns(
            {
                "ours": lambda: drain(top_k(users, items, _K)),
                "ALS": partial(drain, model.recommendForAllUsers(_K)),
            },
            rounds=3,
            calls=1,
            warm_up=1,
        )
    clocks = {name: [own.clock for own in rounds] for name, rounds in times.items()}
    ratios = [als / own for als, own in zip(clocks["ALS"], clocks["ours"], strict=True)]
    scores = f"{count * _ITEMS:.0e} scores"
    return [
        row(f"ALS.recommendForAllUsers(10) / ours, {scores}", ratios, ".1f", "≥ 15, aim 25", blas(spark)),
        *(row(f"{scores}, {name}, s", found) for name, found in clocks.items()),
        row(f"{scores}, share of entries that both have", [same], ".5f", note="ALS scores in float32"),
    ]


def _as_ours(factors: DataFrame) -> DataFrame:
    return factors.select("id", F.col("features").cast("array<double>").alias("factors"), F.lit(MODEL).alias("source"))


def _flat(lists: DataFrame) -> DataFrame:
    """DataFrame(user, item) of ALS's lists."""
    return lists.select("user", F.explode("recommendations.item").alias("item"))


def drain(frame: DataFrame) -> None:
    """Compute all rows, and keep none."""
    frame.write.format("noop").mode("overwrite").save()


def factor_table(spark: SparkSession, count: int, seed: int, rank: int) -> DataFrame:
    """DataFrame(id, factors, source) of `count` ids; numbers between -1 and 1 drawn by id and place: items on a smooth
    curve would come in an order that suits a heap worst."""
    drawn = F.transform(F.sequence(F.lit(1), F.lit(rank + 2)), lambda c: F.xxhash64(F.col("id"), c, F.lit(seed)))
    values = F.transform(drawn, lambda number: number / F.lit(float(2**63)))
    return spark.range(count).select(
        F.col("id").cast("int").alias("id"), values.alias("factors"), F.lit(MODEL).alias("source")
    )


def _ratings(spark: SparkSession, users: int) -> DataFrame:
    """Each user and each item there at least once; ratings drawn, so that factors are not all alike."""
    ids = spark.range(400_000)
    user, item = F.pmod("id", F.lit(users)), F.pmod(F.col("id") * 7919 + F.floor(F.col("id") / users), F.lit(_ITEMS))
    return ids.select(
        user.cast("int").alias("user"),
        item.cast("int").alias("item"),
        (F.pmod(F.xxhash64("id"), F.lit(5)) + 1.0).alias("rating"),
    )
