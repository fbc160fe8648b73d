"""Item parts that a core's own cache holds, against item parts as large as the grid lets them be (decision 025):
5e6 ratings, 100k users with 64 attributes, rank 32, loss and gradient.

kernel    `LocalOracle` over the records on two threads
pass      `SparkOracle`
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from pyspark.sql import SparkSession

from benchmarks.problem import M, Setting, blocks, every_record, start, write
from benchmarks.report import Row, in_turns, row
from nimc_spark.data.local import LocalOracle
from nimc_spark.data.oracle import PassOracle
from nimc_spark.engine.blocks import GridLimits
from nimc_spark.engine.spark_oracle import SparkOracle
from nimc_spark.kernels.statistics import LossGradient

_RATINGS, _ITEMS = 5_000_000, (4_000, 20_000, 100_000)
_THREADS = 2


def run(spark: SparkSession) -> list[Row]:
    """Rows of each number of items."""
    return [found for items in _ITEMS for found in _measured(spark, replace(M, ratings=_RATINGS, items=items))]


def _measured(spark: SparkSession, setting: Setting) -> list[Row]:
    point, model = start(setting.model), setting.model
    with TemporaryDirectory() as folder, ExitStack() as kept:
        write(setting, Path(folder))
        oracles: dict[str, PassOracle] = {}
        parts = {}
        for name, limits in (("tiles", GridLimits()), ("whole", GridLimits().without_tiles)):
            block_set = kept.enter_context(closing(blocks(spark, setting, Path(folder), limits)))
            oracles[f"pass, {name}"] = SparkOracle(spark, block_set)
            oracles[f"kernel, {name}"] = LocalOracle(every_record(block_set), _THREADS)
            parts[name] = len({block.item_part for block in block_set.blocks})

        def action(oracle: PassOracle) -> Callable[[], object]:
            return lambda: oracle.run(LossGradient(), model, [point])

        found = in_turns({name: action(oracle) for name, oracle in oracles.items()}, rounds=7, calls=1, warm_up=3)
    rows = []
    for what in ("kernel", "pass"):
        pairs = zip(found[f"{what}, tiles"], found[f"{what}, whole"], strict=True)
        cut = f"{parts['tiles']} item parts for {parts['whole']}"
        rows.append(
            row(f"{setting.items:,} items: {what} / without tiles", [a.clock / b.clock for a, b in pairs], note=cut)
        )
        rows.append(
            row(f"{setting.items:,} items: {what}, ms", [1e3 * a.clock for a in found[f"{what}, tiles"]], ".0f")
        )
    return rows
