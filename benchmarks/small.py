"""A pass over small data on the driver and as a Spark job: ids alone, rank 20, loss and gradient.

job / driver        above 1 the job is the slower; the lanes of the driver share its threads
"""

from __future__ import annotations

from contextlib import closing
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from pyspark.sql import SparkSession

from benchmarks.problem import Setting, blocks, start, write
from benchmarks.report import Row, in_turns, row
from nimc_spark.engine.blocks import GridLimits
from nimc_spark.engine.passes_at import PassesAt, oracle_of
from nimc_spark.kernels.statistics import LossGradient

_SETTINGS = {
    "1e5, 1 lane": Setting(100_000, 943, 1682, 0, 0, 20),
    "1e6, 2 lanes": Setting(1_000_000, 6040, 3883, 0, 0, 20),
    "2e6, 4 lanes": Setting(2_000_000, 12_000, 8000, 0, 0, 20),
    "4e6, 8 lanes": Setting(4_000_000, 24_000, 16_000, 0, 0, 20),
}


def run(spark: SparkSession) -> list[Row]:
    """Rows of the ratio and of both, by size."""
    return [found for name, setting in _SETTINGS.items() for found in _measured(spark, name, setting)]


def _measured(spark: SparkSession, name: str, setting: Setting) -> list[Row]:
    with TemporaryDirectory() as folder:
        write(setting, Path(folder))
        with closing(blocks(spark, setting, Path(folder), GridLimits())) as block_set:
            model, point = setting.model, start(setting.model)
            places = {at: oracle_of(block_set, at) for at in PassesAt}
            times = in_turns(
                {at.value: partial(oracle.run, LossGradient(), model, [point]) for at, oracle in places.items()}
            )
    driver, job = (times[at.value] for at in (PassesAt.DRIVER, PassesAt.EXECUTORS))
    ratios = [b.clock / a.clock for a, b in zip(driver, job, strict=True)]
    rows = [row(f"{name}: job / driver", ratios)]
    return rows + [row(f"{name}: {at}, ms", [1e3 * r.clock for r in rounds], ".1f") for at, rounds in times.items()]
