"""What the complement of one-class data adds to a pass at 1e7 ratings, on Spark.

(pass with a complement) / (plain pass)        loss and gradient, up to what the solver gets
"""

from __future__ import annotations

from contextlib import closing
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from pyspark.sql import SparkSession

from benchmarks.problem import M, blocks, start, write
from benchmarks.report import Row, in_turns, row
from nimc_spark.engine.blocks import GridLimits
from nimc_spark.engine.spark_oracle import SparkOracle
from nimc_spark.kernels.objective import Objective

_BETA = 0.1
_TARGET = "≤ 1.3"


def run(spark: SparkSession) -> list[Row]:
    """Rows of both passes and their ratio."""
    with TemporaryDirectory() as folder:
        write(M, Path(folder))
        with closing(blocks(spark, M, Path(folder), GridLimits())) as block_set:
            passes, theta = SparkOracle(spark, block_set), M.model.ravel(start(M.model))
            times = in_turns(
                {
                    name: partial(passes.bind(_objective(beta)).evaluate, [theta])
                    for name, beta in {"plain": 0.0, "complement": _BETA}.items()
                },
                rounds=9,
                calls=5,
                warm_up=4,
            )
    together = list(zip(times["complement"], times["plain"], strict=True))
    rows = [
        row("M, 1e7: pass with a complement / plain pass", [c.clock / p.clock for c, p in together], target=_TARGET)
    ]
    if all(p.processor for _, p in together):
        used = [c.processor / p.processor for c, p in together]
        rows.append(row("M, 1e7: the same in processor time", used, note="less moved by others on the machine"))
    for name, rounds in times.items():
        rows.append(row(f"M, 1e7: {name}, ms", [1e3 * r.clock for r in rounds], ".0f"))
    return rows


def _objective(beta: float) -> Objective:
    model = M.model
    return Objective(model, M.ratings, np.ones(model.size), np.ones(model.size), np.ones(model.size, dtype=bool), beta)
