"""Ids alone on MovieLens-100k's u1 split: `NIMC()` with its defaults against Spark's ALS at the best of a grid.

u1.test is the first 20000 rows of u.data, so the split needs no other file. ALS's best is chosen on the test rows, in
its favour; its unseen users and items are dropped, and its RMSE with the global mean in their place stands beside.
"""

from __future__ import annotations

import time
from ctypes.util import find_library
from itertools import product
from typing import NamedTuple

import numpy as np
import pandas as pd
from pyspark.ml.recommendation import ALS
from pyspark.sql import DataFrame, SparkSession

from benchmarks.report import Row
from nimc_spark.ml import NIMC
from scripts.demo_data import find

_TEST_ROWS = 20_000
_RANKS = (10, 20, 50)
_REG_PARAMS = (0.05, 0.08, 0.1, 0.15, 0.2)
_SEED = 1
_TARGET = "≤ 0.925 and below ALS"
_COLUMNS = ["user", "item", "rating"]


class _Fit(NamedTuple):
    """One setting of ALS: RMSE over the rows it scored, over all rows, rows it dropped, seconds of the fit."""

    rank: int
    reg_param: float
    rmse: float
    filled: float
    dropped: int
    seconds: float


def run(spark: SparkSession) -> list[Row]:
    """Rows of NIMC and of ALS on the same rows."""
    train, test = _split(spark)
    truth = test.toPandas()
    nimc, seconds, passes = _nimc(train, test)
    als = [_als(train, test, truth, *setting) for setting in product(_RANKS, _REG_PARAMS)]
    best = min(als, key=lambda fit: fit.rmse)
    grid = f"best of rank {_RANKS} × regParam {_REG_PARAMS}: rank {best.rank}, regParam {best.reg_param}"
    spread = f"{min(f.rmse for f in als):.4f}", f"{max(f.rmse for f in als):.4f}"
    return [
        Row("u1: RMSE, NIMC() with its defaults", f"{nimc:.4f}", target=_TARGET, note="every row scored"),
        Row("u1: RMSE, Spark ALS", f"{best.rmse:.4f}", *spread, note=f"{grid}; {best.dropped} rows dropped"),
        Row("u1: RMSE, Spark ALS, dropped rows as the mean", f"{best.filled:.4f}", note="the same fit, every row"),
        Row("u1: RMSE, NIMC − ALS", f"{nimc - best.rmse:+.4f}", target="< 0"),
        Row("u1: fit of NIMC, s", f"{seconds:.1f}", note=f"{passes} passes; the first fit of the session"),
        Row("u1: fit of ALS at its best, s", f"{best.seconds:.1f}", note=_blas()),
        Row("u1: fits of ALS over the grid, s", f"{sum(f.seconds for f in als):.1f}", note=f"{len(als)} fits"),
    ]


def _split(spark: SparkSession) -> tuple[DataFrame, DataFrame]:
    data = find()
    header = 0 if data.layout == "recbole" else None
    table = pd.read_csv(data.files["ratings"], sep="\t", header=header).iloc[:, :3].set_axis(_COLUMNS, axis=1)
    test, train = table.iloc[:_TEST_ROWS], table.iloc[_TEST_ROWS:]
    train_df, test_df = (spark.createDataFrame(part).coalesce(2).persist() for part in (train, test))
    train_df.count(), test_df.count()
    return train_df, test_df


def _nimc(train: DataFrame, test: DataFrame) -> tuple[float, float, int]:
    began = time.monotonic()
    model = NIMC(seed=_SEED).fit(train)
    seconds = time.monotonic() - began
    return _rmse(model.transform(test).select("rating", "prediction").toPandas()), seconds, model.summary.passes


def _als(train: DataFrame, test: DataFrame, truth: pd.DataFrame, rank: int, reg_param: float) -> _Fit:
    began = time.monotonic()
    model = ALS(rank=rank, regParam=reg_param, seed=_SEED, coldStartStrategy="drop").fit(train)
    seconds = time.monotonic() - began
    scored = model.transform(test).toPandas()
    every = truth.merge(scored, how="left", on=_COLUMNS)
    mean = train.agg({"rating": "avg"}).toPandas().iloc[0, 0]
    filled = _rmse(every.fillna({"prediction": mean}))
    return _Fit(rank, reg_param, _rmse(scored), filled, len(truth) - len(scored), seconds)


def _rmse(frame: pd.DataFrame) -> float:
    return float(np.sqrt(np.mean(np.square(frame["rating"] - frame["prediction"]))))


def _blas() -> str:
    """Which BLAS answers ALS: Spark loads the system's, where there is one."""
    name = find_library("blas")
    return f"BLAS: {name}" if name else "no native BLAS: ALS is slower than it need be"
