"""An iteration of ALS against a pass of ours: 1e7 ratings, 100k users × 20k items, ids alone, rank 32.

    ALS iteration = (time of 3 iterations − time of 1) / 2        with ratings in memory, so that blocks are not counted

ALS has native BLAS where the JVM finds it, which the table says. A pass is loss and gradient, on executors.
"""

from __future__ import annotations

from contextlib import closing
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from pyspark.ml.recommendation import ALS
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from benchmarks.problem import Setting, blocks, start, write
from benchmarks.report import Row, blas, in_turns, row
from nimc_spark.engine.blocks import GridLimits
from nimc_spark.engine.context import held
from nimc_spark.engine.spark_oracle import SparkOracle
from nimc_spark.kernels.statistics import LossGradient

_SETTING = Setting(10_000_000, 100_000, 20_000, 0, 0, 32)
_SHORT, _LONG = 1, 3


def run(spark: SparkSession) -> list[Row]:
    """Rows of the ratio and of both."""
    model = _SETTING.model
    with TemporaryDirectory() as folder:
        write(_SETTING, Path(folder))
        with closing(blocks(spark, _SETTING, Path(folder), GridLimits())) as block_set:
            oracle, point = SparkOracle(spark, block_set), start(model)
            found = in_turns({"pass": lambda: oracle.run(LossGradient(), model, [point])}, 5, 1, warm_up=3)
            passes = [r.clock for r in found["pass"]]
        ids = (F.col(name).cast("int").alias(name) for name in ("user", "item"))
        with held(spark.read.parquet(f"{folder}/ratings").select(*ids, "rating")) as ratings:
            ratings.count()
            fits = {str(n): partial(_als, ratings, n) for n in (_SHORT, _LONG)}
            times = {int(n): [r.clock for r in own] for n, own in in_turns(fits, 3, 1, warm_up=1).items()}
    iterations = [(long - short) / (_LONG - _SHORT) for long, short in zip(times[_LONG], times[_SHORT], strict=True)]
    middle = median(passes)
    return [
        row("ALS iteration / our pass, 1e7, rank 32", [i / middle for i in iterations], ".1f", "aim 15", blas(spark)),
        row("ALS iteration, s", iterations),
        row("our pass, s", passes),
    ]


def _als(ratings: DataFrame, iterations: int) -> None:
    ALS(rank=_SETTING.rank, maxIter=iterations, userCol="user", itemCol="item", ratingCol="rating", seed=1).fit(ratings)
