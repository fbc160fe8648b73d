"""Second-order passes at 1e6 ratings and p = 2000 parameters, 40 attributes a side, rank 24 and linear terms.

JᵀJ pass / kernel       `GaussNewton` on executors over the same evaluation in this process on two threads
Hv pass / plain pass    a product with the Gauss-Newton matrix over loss and gradient, both on executors
"""

from __future__ import annotations

from contextlib import closing
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from pyspark.sql import SparkSession

from benchmarks.problem import Setting, blocks, every_record, start, write
from benchmarks.report import Row, in_turns, row
from nimc_spark.data.local import LocalOracle
from nimc_spark.engine.blocks import GridLimits
from nimc_spark.engine.spark_oracle import SparkOracle
from nimc_spark.kernels.curvature import GaussNewton, Product
from nimc_spark.kernels.statistics import LossGradient, Statistic

_SETTING = Setting(1_000_000, 6040, 3883, 40, 40, 24)
_THREADS = 2


def run(spark: SparkSession) -> list[Row]:
    """Rows of the ratios, then of every action."""
    model = _SETTING.model
    point, direction = start(model), start(model, seed=3)
    matrix, product, gradient = GaussNewton(), Product(direction, exact=False), LossGradient()
    with TemporaryDirectory() as folder:
        write(_SETTING, Path(folder))
        with closing(blocks(spark, _SETTING, Path(folder), GridLimits())) as block_set:
            places = {"pass": SparkOracle(spark, block_set), "kernel": LocalOracle(every_record(block_set), _THREADS)}
            statistics: dict[str, Statistic] = {"JᵀJ": matrix, "Hv": product, "gradient": gradient}
            actions = {
                f"{name} {place}": partial(oracle.run, statistic, model, [point])
                for name, statistic in statistics.items()
                for place, oracle in places.items()
            }
            times = {name: [r.clock for r in own] for name, own in in_turns(actions, 5, 1, warm_up=2).items()}

    def ratios(over: str, under: str) -> list[float]:
        return [a / b for a, b in zip(times[over], times[under], strict=True)]

    return [
        row(f"JᵀJ pass / kernel on {_THREADS} threads", ratios("JᵀJ pass", "JᵀJ kernel"), target="≤ 1.5, aim 1.2"),
        row("Hv pass / plain pass", ratios("Hv pass", "gradient pass")),
        row("JᵀJ pass / plain pass", ratios("JᵀJ pass", "gradient pass"), ".0f"),
        *(row(f"{name}, ms", [1e3 * t for t in own], ".0f") for name, own in times.items()),
    ]
