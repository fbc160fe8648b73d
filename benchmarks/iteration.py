"""An iteration of others against a pass of ours, loss and gradient on executors.

    iteration = (time of 3 iterations − time of 1) / 2        with ratings in memory, so that blocks are not counted

ids alone       1e7 ratings, 100k users × 20k items, rank 32: ALS, with native BLAS where the JVM finds it, which the
                table says; and cmfrec's ALS in one process on two threads, where it is installed
attributes      1e5 ratings, attributes and rank as in setting S: Spark's FMRegressor, all rows in each iteration
                (one over all 1e6 of S took more than a minute on one core)
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from functools import partial
from importlib import import_module
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import pandas as pd
from pyspark.ml.feature import VectorAssembler
from pyspark.ml.functions import array_to_vector
from pyspark.ml.recommendation import ALS
from pyspark.ml.regression import FMRegressor
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from benchmarks.problem import S, Setting, blocks, start, write
from benchmarks.report import Row, blas, in_turns, row
from nimc_spark.engine.blocks import GridLimits
from nimc_spark.engine.context import held
from nimc_spark.engine.spark_oracle import SparkOracle
from nimc_spark.kernels.statistics import LossGradient
from nimc_spark.studies.peers import installed

_IDS = Setting(10_000_000, 100_000, 20_000, 0, 0, 32)
_SOME = replace(S, ratings=100_000)
_SHORT, _LONG = 1, 3
_THREADS = 2


def run(spark: SparkSession) -> list[Row]:
    """Rows of the ratios and of both sides of each."""
    return [*_ids_alone(spark), *_attributes(spark)]


def _ids_alone(spark: SparkSession) -> list[Row]:
    with TemporaryDirectory() as folder:
        write(_IDS, Path(folder))
        passes = _passes(spark, _IDS, Path(folder))
        ids = (F.col(name).cast("int").alias(name) for name in ("user", "item"))
        with held(spark.read.parquet(f"{folder}/ratings").select(*ids, "rating")) as ratings:
            ratings.count()
            rows = _rows("ALS", _iterations(partial(_als, ratings)), passes, "1e7, rank 32", "aim 15", blas(spark))
        if installed("cmfrec"):
            own = _iterations(partial(_cmfrec, pd.read_parquet(f"{folder}/ratings")))
            rows += _rows("cmfrec", own, passes, "1e7, rank 32", "", f"one process, {_THREADS} threads")[:2]
    return rows


def _attributes(spark: SparkSession) -> list[Row]:
    with TemporaryDirectory() as folder:
        write(_SOME, Path(folder))
        passes = _passes(spark, _SOME, Path(folder))
        joined = spark.read.parquet(f"{folder}/ratings")
        for side, name in (("users", "user"), ("items", "item")):
            vectors = array_to_vector(F.col("values")).alias(side)
            joined = joined.join(spark.read.parquet(f"{folder}/{side}").select(F.col("id").alias(name), vectors), name)
        assembled = VectorAssembler(inputCols=["users", "items"], outputCol="features").transform(joined)
        with held(assembled.select("features", "rating").repartition(_THREADS)) as ratings:
            ratings.count()
            iterations = _iterations(partial(_machine, ratings))
    return _rows("FMRegressor", iterations, passes, f"1e5, rank {_SOME.rank}", "", "Spark's factorization machine")


def _passes(spark: SparkSession, setting: Setting, folder: Path) -> list[float]:
    """Seconds of passes."""
    model = setting.model
    with closing(blocks(spark, setting, folder, GridLimits())) as block_set:
        oracle, point = SparkOracle(spark, block_set), start(model)
        found = in_turns({"pass": lambda: oracle.run(LossGradient(), model, [point])}, 5, 1, warm_up=3)
    return [r.clock for r in found["pass"]]


def _iterations(fit: Callable[[int], object]) -> list[float]:
    """Seconds of one iteration of `fit(iterations)`."""
    fits = {str(n): partial(fit, n) for n in (_SHORT, _LONG)}
    times = {int(n): [r.clock for r in own] for n, own in in_turns(fits, 3, 1, warm_up=1).items()}
    return [(long - short) / (_LONG - _SHORT) for long, short in zip(times[_LONG], times[_SHORT], strict=True)]


def _rows(name: str, iterations: list[float], passes: list[float], of: str, target: str, note: str) -> list[Row]:
    middle = median(passes)
    return [
        row(f"{name} iteration / our pass, {of}", [i / middle for i in iterations], ".1f", target, note),
        row(f"{name} iteration, s", iterations),
        row(f"our pass, {of}, s", passes),
    ]


def _als(ratings: DataFrame, iterations: int) -> None:
    ALS(rank=_IDS.rank, maxIter=iterations, userCol="user", itemCol="item", ratingCol="rating", seed=1).fit(ratings)


def _cmfrec(ratings: pd.DataFrame, iterations: int) -> None:
    named = ratings.rename(columns={"user": "UserId", "item": "ItemId", "rating": "Rating"})
    import_module("cmfrec").CMF(k=_IDS.rank, niter=iterations, nthreads=_THREADS, verbose=False).fit(named)


def _machine(ratings: DataFrame, iterations: int) -> None:
    # No tolerance: as many iterations as are asked for.
    FMRegressor(labelCol="rating", factorSize=_SOME.rank, maxIter=iterations, tol=0.0, solver="gd", seed=1).fit(ratings)
