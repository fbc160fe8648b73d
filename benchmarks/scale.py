"""Growth: passes, blocks and the driver's memory from 1e6 to 5e7 ratings (the last with FULL=1), attributes alone.

pass / kernel       `SparkOracle` over `LocalOracle` on two threads with the same records, loss and gradient
blocks / pass       building the records from Parquet files, over a pass
slope               log of the times' ratio over log of the sizes' ratio: 1 is linear
driver              memory of the Python driver after passes, above what it had before the blocks were built
planned / measured  what `plan` said before there was a block, over what came; of a pass where training would run it
"""

from __future__ import annotations

import ctypes
import gc
import math
import os
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import pyarrow as pa
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from benchmarks.passes import empty_job
from benchmarks.problem import M, Setting, blocks, every_record, start, write
from benchmarks.report import Round, Row, in_turns, row
from nimc_spark.data.local import LocalOracle
from nimc_spark.engine.blocks import BlockSet, GridLimits
from nimc_spark.engine.passes_at import PassesAt
from nimc_spark.engine.spark_oracle import SparkOracle
from nimc_spark.kernels.statistics import LossGradient
from nimc_spark.ml import NIMC
from nimc_spark.ml.plan import TrainingPlan, training_plan

SIZES = (1_000_000, 10_000_000)
FULL_SIZES = (*SIZES, 50_000_000)
_THREADS = 2
_BUILDS = 3
_BLOCKS = "≤ 30, aim 15"


def run(spark: SparkSession) -> list[Row]:
    """Rows of each size, then those that compare sizes."""
    rows: list[Row] = []
    passes: dict[int, list[float]] = {}
    for ratings in FULL_SIZES if os.environ.get("FULL") == "1" else SIZES:
        times, own = _measured(spark, replace(M, ratings=ratings))
        passes[ratings] = [r.clock for r in times["pass"]]
        rows += own
    for small, large in pairwise(passes):
        slopes = [math.log(b / a) / math.log(large / small) for a, b in zip(passes[small], passes[large], strict=True)]
        rows.append(row(f"slope of a pass, {small:.0e} to {large:.0e}", slopes, target="1 ± 0.15 from 1e7 on"))
    return rows


def _measured(spark: SparkSession, setting: Setting) -> tuple[dict[str, list[Round]], list[Row]]:
    name = f"{setting.ratings:.0e}"
    with TemporaryDirectory() as folder:
        write(setting, Path(folder))
        before = _memory()
        building = [_building(spark, setting, Path(folder)) for _ in range(_BUILDS - 1)]
        began = time.perf_counter()
        with closing(blocks(spark, setting, Path(folder), GridLimits())) as block_set:
            building.append(time.perf_counter() - began)
            oracle, model = SparkOracle(spark, block_set), setting.model
            parameters = start(model)
            oracle.run(LossGradient(), model, [parameters])
            driver, size = _memory() - before, _bytes(block_set)
            local = LocalOracle(every_record(block_set), _THREADS)
            tasks = block_set.records.whole.rdd.getNumPartitions()
            actions: dict[str, Callable[[], object]] = {
                "pass": lambda: oracle.run(LossGradient(), model, [parameters]),
                "kernel": lambda: local.run(LossGradient(), model, [parameters]),
                "empty": empty_job(spark.range(0, tasks, 1, tasks)),
            }
            times = in_turns(actions, rounds=7, calls=1, warm_up=3)
            planned, lanes = _planned(spark, setting, Path(folder)), len(block_set.lanes)
    place = "kernel" if planned.passes_at == PassesAt.DRIVER.value else "pass"
    passes = [r.clock for r in times[place]]
    return times, [
        *_ratios(name, times),
        row(f"{name}: seconds of a pass, planned / measured", [planned.seconds / p for p in passes]),
        row(f"{name}: bytes of blocks, planned / measured", [planned.blocks / size]),
        row(f"{name}: lanes, planned / measured", [planned.lanes / lanes]),
        row(f"{name}: blocks / pass", [b / median(r.clock for r in times["pass"]) for b in building], ".1f", _BLOCKS),
        row(f"{name}: bytes a rating in parts and blocks", [size / setting.ratings], ".1f", "≤ 12, aim 10"),
        row(f"{name}: driver, MB", [driver / 2**20], ".0f", "within 100 of each other"),
        row(f"{name}: passes that missed files", [oracle.misses], ".0f"),
    ]


def _building(spark: SparkSession, setting: Setting, folder: Path) -> float:
    """Seconds that the blocks take; they are freed."""
    began = time.perf_counter()
    blocks(spark, setting, folder, GridLimits()).close()
    return time.perf_counter() - began


def _ratios(name: str, times: dict[str, list[Round]]) -> list[Row]:
    together = list(zip(times["pass"], times["kernel"], times["empty"], strict=True))
    ratios = [p.clock / k.clock for p, k, _ in together]
    above = [(p.clock - k.clock) / e.clock for p, k, e in together]
    rows = [
        row(f"{name}: pass / kernel on {_THREADS} threads", ratios, target="≤ 1.5, aim 1.2 at 1e7"),
        row(f"{name}: (pass − kernel) / empty job", above, target="≤ 1.3, aim 1.1 at 1e6"),
    ]
    return rows + [row(f"{name}: {what}, ms", [1e3 * r.clock for r in own], ".0f") for what, own in times.items()]


def _planned(spark: SparkSession, setting: Setting, folder: Path) -> TrainingPlan:
    """What `plan` says of the same files."""
    sides = {name: [{"kind": "passthrough", "column": "values"}] for name in ("userFeatures", "itemFeatures")}
    users, items = (
        spark.read.parquet(str(folder / side)).withColumnRenamed("id", column)
        for side, column in (("users", "user"), ("items", "item"))
    )
    nimc = NIMC(rank=setting.rank, **sides).setUsers(users).setItems(items)
    return training_plan(nimc, spark.read.parquet(str(folder / "ratings")), nimc.inputs(spark))


def _bytes(block_set: BlockSet) -> int:
    """Of all records, each once."""
    once = block_set.records.whole.dropDuplicates(["lane", "kind", "item_part", "chunk"])
    found = once.agg(F.sum(F.octet_length("payload"))).first()
    return int(found[0]) if found else 0


def _memory() -> int:
    """Bytes that this process holds in memory, but for what its allocators keep of what is free."""
    gc.collect()
    pa.default_memory_pool().release_unused()
    ctypes.CDLL(None).malloc_trim(0)
    pages = Path("/proc/self/statm").read_text(encoding="ascii").split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")
