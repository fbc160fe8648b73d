"""What a pass costs beside its kernel, where its time goes, and what reaches the driver.

    overhead = (pass − kernel) / empty      kernel = LocalOracle over all records on one thread / partitions

`empty` is a `mapInArrow` job over `spark.range` of as many partitions that reads its input and returns nothing.
Partitions run at once, so the kernel's share of a pass is that of one partition. Processor time sums over partitions
instead: there `kernel` is LocalOracle's whole.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession

from benchmarks.problem import S, Setting, blocks, partitions, start, write
from benchmarks.report import Round, Row, in_turns, row
from nimc_spark.data.codec import decode_sums, encode_sums
from nimc_spark.data.local import LocalOracle
from nimc_spark.data.passes import ITEM_LANE, LaneSums, Record, Request, lane_sums, merged
from nimc_spark.engine.blocks import BlockSet, GridLimits
from nimc_spark.engine.spark_oracle import SparkOracle, decode_record
from nimc_spark.kernels.statistics import LossGradient

_OVERHEAD_TARGET = "≤ 1.3, aim 1.1 at 1e6"
# MovieLens-100k's shape, ids alone, as `NIMC()` trains it: one lane.
IDS = Setting(100_000, 943, 1682, 0, 0, 20)


def run(spark: SparkSession) -> list[Row]:
    """Rows for setting S, for ids alone, and for what reaches the driver."""
    return [*_timed(spark, "S, 1e6", S), *_timed(spark, "ids, 1e5", IDS), *_to_driver(spark)]


def _timed(spark: SparkSession, name: str, setting: Setting) -> list[Row]:
    with TemporaryDirectory() as folder:
        write(setting, Path(folder))
        with closing(blocks(spark, setting, Path(folder), GridLimits())) as block_set:
            times = in_turns(_actions(spark, setting, block_set))
    tasks = len(block_set.lanes)
    return [*_overhead(name, times, tasks), *_shares(name, times, tasks)]


def empty_job(df: DataFrame) -> Callable[[], object]:
    """A job that reads all of a DataFrame and returns nothing."""
    return lambda: df.mapInArrow(_drain, "nothing int").toArrow()


def _drain(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    for _ in batches:
        yield from ()


def _actions(spark: SparkSession, setting: Setting, block_set: BlockSet) -> dict[str, Callable[[], object]]:
    """The pass, the empty job, and the pieces of a pass in this process, over all partitions."""
    model, parameters = setting.model, start(setting.model)
    held = partitions(block_set)
    tasks = len(held)
    local = LocalOracle(_distinct(held))
    rows = block_set.records.whole.toArrow().to_pylist()
    records = sorted(_distinct(held), key=lambda r: r[:4])
    found = list(lane_sums(records, model, [Request(LossGradient(), parameters)]))
    encoded = [(result, encode_sums(result.sums)) for result in found]
    oracle = SparkOracle(spark, block_set)
    return {
        "empty": empty_job(spark.range(0, tasks, 1, tasks)),
        "read": empty_job(block_set.records.whole),
        "pass": lambda: oracle.run(LossGradient(), model, [parameters]),
        "kernel": lambda: local.run(LossGradient(), model, [parameters]),
        "decode": lambda: [decode_record(**r) for r in rows],
        "encode": lambda: [encode_sums(result.sums) for result in found],
        "merge": lambda: merged([_decoded(result, payload) for result, payload in encoded], 1),
    }


def _decoded(result: LaneSums, payload: bytes) -> LaneSums:
    return result._replace(sums=decode_sums(payload))


def _distinct(held: Iterable[list[Record]]) -> list[Record]:
    """Every record once: each partition has a copy of the item parts."""
    return [r for number, records in enumerate(held) for r in records if number == 0 or r.lane != ITEM_LANE]


def _overhead(name: str, times: dict[str, list[Round]], tasks: int) -> list[Row]:
    together = list(zip(times["pass"], times["kernel"], times["empty"], strict=True))
    clock = [(p.clock - k.clock / tasks) / e.clock for p, k, e in together]
    rows = [row(f"{name}: (pass − kernel) / empty job, {tasks} partitions", clock, target=_OVERHEAD_TARGET)]
    if all(e.processor for _, _, e in together):
        used = [(p.processor - k.processor) / e.processor for p, k, e in together]
        rows.append(row(f"{name}: the same in processor time", used, note="less moved by others on the machine"))
    return rows


def _shares(name: str, times: dict[str, list[Round]], tasks: int) -> list[Row]:
    """Milliseconds of the pieces; those inside a task are divided by the tasks that run at once."""
    ms = {piece: [1e3 * r.clock for r in rounds] for piece, rounds in times.items()}
    in_task = {piece: [v / tasks for v in ms[piece]] for piece in ("kernel", "decode", "encode")}
    reading = [r - e for r, e in zip(ms["read"], ms["empty"], strict=True)]
    pieces = [
        ("a pass", ms["pass"], ""),
        ("an empty job", ms["empty"], "planning, scheduling, a Python worker a task"),
        ("reading the records", reading, "an empty job over them, less an empty job: their plan, and JVM to Python"),
        ("decode", in_task["decode"], "in a task"),
        ("kernel", in_task["kernel"], "in a task"),
        ("encode", in_task["encode"], "in a task"),
        ("merge", ms["merge"], "on the driver"),
    ]
    known = sum(median(values) for _, values, _ in pieces[1:])
    rest = [v - known for v in ms["pass"]]
    pieces.append(("the rest", rest, "the closure with the parameters, more of Spark; noise"))
    return [row(f"{name}: {piece}, ms", values, ".1f", note=note) for piece, values, note in pieces]


def _to_driver(spark: SparkSession) -> list[Row]:
    """Bytes of the sums that a LossGradient pass returns, by |Ω| at two lanes, and at four times the lanes."""
    rows = []
    for ratings, lanes in ((200_000, 2), (1_000_000, 2), (1_000_000, 8)):
        size = _result_bytes(spark, replace(S, ratings=ratings), lanes)
        note = "does not grow with |Ω|" if lanes == 2 else "grows with lanes × parameters"
        rows.append(Row(f"S, {ratings:.0e} ratings, {lanes} lanes: bytes to the driver a pass", str(size), note=note))
    return rows


def _result_bytes(spark: SparkSession, setting: Setting, lanes: int) -> int:
    with TemporaryDirectory() as folder:
        write(setting, Path(folder))
        limits = GridLimits(ratings_per_lane=setting.ratings // lanes)
        with closing(blocks(spark, setting, Path(folder), limits)) as block_set:
            parameters = start(setting.model)
            return sum(
                len(encode_sums(result.sums))
                for records in partitions(block_set)
                for result in lane_sums(records, setting.model, [Request(LossGradient(), parameters)])
            )
