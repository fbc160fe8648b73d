"""Ids alone on MovieLens-1M: the time ALS takes to its best held-out RMSE, and ours to the same.

ALS has the best setting and number of iterations of a grid, chosen on the held-out rows in its favour; ours has its
defaults and as few passes, by steps, as reach that RMSE on the same rows. Times are of whole fits, in turns.
NIMC_ML1M names the folder of MovieLens-1M.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory

from pyspark.ml.recommendation import ALS
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from benchmarks.histories import write_ml_1m
from benchmarks.report import Row, blas, in_turns, row
from nimc_spark.engine.context import held
from nimc_spark.engine.splits import Split, split
from nimc_spark.errors import UsageError
from nimc_spark.ml import NIMC
from nimc_spark.studies.movielens_tables import rmse

_RANKS, _REG_PARAMS, _ITERATIONS = (20, 50), (0.03, 0.05, 0.08), (5, 10, 15)
_PASSES = (10, 15, 20, 30, 40, 60, 80, 120, 200)
_RANK = 20
# Nobody sees less than this.
_SAME = 2e-4


def run(spark: SparkSession) -> list[Row]:
    named = os.environ.get("NIMC_ML1M")
    if not named:
        raise UsageError("set NIMC_ML1M to the folder of MovieLens-1M")
    with TemporaryDirectory() as folder:
        write_ml_1m(Path(named), Path(folder) / "ml-1m")
        training, test = split(spark.read.parquet(f"{folder}/ml-1m"), Split("random", 0.1, 1), "user", "item")
        with held(training) as known, held(test) as held_out:
            known.count(), held_out.count()
            return _race(known, held_out)


def _race(training: DataFrame, held_out: DataFrame) -> list[Row]:
    grid = {s: _error(_als(training, *s, _ITERATIONS[-1]), held_out) for s in product(_RANKS, _REG_PARAMS)}
    best = min(grid, key=grid.__getitem__)
    short = {n: _error(_als(training, *best, n), held_out) for n in _ITERATIONS}
    theirs = min(short.values())
    iterations = next(n for n, error in short.items() if error <= theirs + _SAME)
    errors: dict[int, float] = {}
    for passes in _PASSES:
        errors[passes] = _error(_ours(training, passes), held_out)
        if errors[passes] <= theirs:
            break
    passes, ours = next(reversed(errors.items()))
    fits: dict[str, Callable[[], object]] = {
        "ALS": lambda: _als(training, *best, iterations),
        "ours": lambda: _ours(training, passes),
    }
    times = {name: [r.clock for r in rounds] for name, rounds in in_turns(fits, 3, 1, warm_up=0).items()}
    ratios = [a / b for a, b in zip(times["ALS"], times["ours"], strict=True)]
    reached = "" if ours <= theirs else "RMSE not reached"
    note = f"rank {best[0]}, regParam {best[1]}, {iterations} iterations; {blas(training.sparkSession)}"
    return [
        row("ALS to its best RMSE / ours to that, time", ratios, ".1f", "≥ 2, aim 5", reached),
        Row("RMSE of ALS at its best", f"{theirs:.4f}", note=note),
        Row("RMSE of ours", f"{ours:.4f}", note=f"rank {_RANK}, {passes} passes, λ unset"),
        *(row(f"{name}, s", found, ".1f") for name, found in times.items()),
    ]


def _als(training: DataFrame, rank: int, reg_param: float, iterations: int) -> object:
    als = ALS(rank=rank, regParam=reg_param, maxIter=iterations, userCol="user", itemCol="item", ratingCol="rating")
    return als.setColdStartStrategy("drop").setSeed(1).fit(training)


def _ours(training: DataFrame, passes: int) -> object:
    return NIMC(rank=_RANK, maxIter=passes, userCol="user", itemCol="item", ratingCol="rating", seed=1).fit(training)


def _error(model: object, held_out: DataFrame) -> float:
    return rmse(model.transform(held_out).withColumn("prediction", F.col("prediction").cast("double")))  # type: ignore[attr-defined]
