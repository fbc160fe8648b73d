"""`SparkOracle`: a pass over Ω as one `mapInArrow` job, with no shuffle up to 64 lanes.

Parameters go out in the closure (or a broadcast above 8 MB); for each request few sums come back, since a task merges
its lanes. What reaches the driver does not grow with |Ω|: above `MERGE_FAN` lanes executors merge those of other tasks.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial

import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from nimc_spark.data.codec import decode_block, decode_part, decode_sums, encode_sums
from nimc_spark.data.oracle import PassOracle
from nimc_spark.data.passes import (
    ITEM_LANE,
    BlockId,
    Kind,
    LaneSums,
    Record,
    RecordName,
    Request,
    joined,
    lane_sums,
    merged,
    user_piece,
)
from nimc_spark.engine.blocks import RecordSet
from nimc_spark.engine.context import Shared, described, prepare_worker, shared
from nimc_spark.engine.grouped import apply_grouped
from nimc_spark.engine.store import find, keep, touch
from nimc_spark.errors import SetupError, UsageError
from nimc_spark.kernels.model import Model, Parameters
from nimc_spark.kernels.statistics import Sums

_RESULT_DDL = (
    "lane int, request int, level int, lanes array<int>, item_parts array<int>, chunks array<int>, sums binary"
)
_RESULT = pa.schema(
    [
        ("lane", pa.int32()),
        ("request", pa.int32()),
        ("level", pa.int32()),
        ("lanes", pa.list_(pa.int32())),
        ("item_parts", pa.list_(pa.int32())),
        ("chunks", pa.list_(pa.int32())),
        ("sums", pa.binary()),
    ]
)
_Task = Callable[..., Iterator[pa.RecordBatch]]

# Above so many lanes, a power of 2, a second stage on executors merges what tasks return.
MERGE_FAN = 64
# The request of a task that has not all files it needs; its pieces are the lanes that are asked of it.
_MISSED = -1
# Passes by name go on while those that missed some are no more than this, and one in so many.
_MISSES, _PASSES_A_MISS = 5, 20
# Spark's conf, for a cluster whose scratch folders are memory, or too small.
FILES_SETTING = "spark.nimc.filesBesideTasks"


class SparkOracle(PassOracle):
    """Passes over the records of a `BlockSet` or of other lanes, wherever their partitions live.

    A pass sends tasks the names of records, whose payloads lie beside them (`store.py`). The first one sends the
    records themselves, and so does every one for lanes that it missed.
    """

    def __init__(self, spark: SparkSession, blocks: RecordSet) -> None:
        self._spark = spark
        self._blocks = blocks
        self._uses_files = _uses_files(spark)
        self._passes, self._misses = 0, 0

    @property
    def misses(self) -> int:
        """How many passes did not find all files."""
        return self._misses

    def answer(self, model: Model, requests: Sequence[Request]) -> list[Sums]:
        self._passes += 1
        sent = [Request(r.statistic, Parameters(*(w.astype(model.dtype) for w in r.parameters))) for r in requests]
        what = ", ".join(sorted({type(r.statistic).__name__ for r in requests}))
        name = f"nimc: pass {self._passes} ({what})"
        with shared(self._spark, sent, len(pickle.dumps(sent))) as handle, described(self._spark, name):
            found = self._results(model, handle)
        self._check(found, len(sent))
        return merged(found, len(sent))

    def _results(self, model: Model, requests: Shared) -> list[LaneSums]:
        records = self._blocks.records
        by_name = self._misses <= _MISSES + self._passes // _PASSES_A_MISS
        if not (self._uses_files and by_name):
            return self._run(records.whole, partial(_task, dataset=None), model, requests)
        if not records.have_files:
            records.have_files = True
            return self._run(records.whole, partial(_task, dataset=records.dataset), model, requests)
        found = self._run(records.names, partial(_task_by_name, dataset=records.dataset), model, requests)
        missed = [piece.lane for own in found if own.request == _MISSED for piece in own.pieces]
        if not missed:
            return found
        self._misses += 1
        rest = records.whole.where(F.col("lane").isin(ITEM_LANE, *missed))
        again = self._run(rest, partial(_task, dataset=records.dataset), model, requests)
        return [own for own in found if own.request != _MISSED] + again

    def _run(self, records: DataFrame, task: _Task, model: Model, requests: Shared) -> list[LaneSums]:
        results = records.mapInArrow(partial(task, model=model, requests=requests), _RESULT_DDL)
        return [_lane_sums(row) for row in _few_results(results, len(self._blocks.lanes)).toArrow().to_pylist()]

    def _check(self, found: Sequence[LaneSums], requests: int) -> None:
        """Every piece exactly once for each request: a lost or doubled task must never pass for a result."""
        expected = sorted(self._blocks.pieces)
        for index in range(requests):
            seen = sorted(piece for r in found if r.request == index for piece in r.pieces)
            if seen != expected:
                raise SetupError(
                    f"a pass returned {len(seen)} of {len(expected)} user parts and rating blocks, or other ones: "
                    "the cluster lost or repeated part of a stage; run the job again"
                )


def _uses_files(spark: SparkSession) -> bool:
    value = (spark.conf.get(FILES_SETTING, "true") or "").lower()
    if value not in ("true", "false"):
        raise UsageError(f"{FILES_SETTING} = {value!r}: true or false")
    return value == "true"


def decode_record(lane: int, kind: int, item_part: int, chunk: int, payload: bytes | pa.Buffer) -> Record:
    """A stored row as a record with its part or block."""
    decoded = decode_block(payload) if kind == Kind.BLOCK else decode_part(payload)
    return Record(lane, kind, item_part, chunk, decoded)


def _names(batch: pa.RecordBatch) -> list[RecordName]:
    return [RecordName(*row) for row in zip(*(batch.column(n).to_pylist() for n in RecordName._fields), strict=True)]


def _records(batches: Iterable[pa.RecordBatch], dataset: str | None) -> Iterator[Record]:
    """The records of a task, left beside it as files of a data set for the passes to come."""
    for batch in batches:
        for name, payload in zip(_names(batch), batch.column("payload"), strict=True):
            if dataset is not None:
                keep(dataset, name, payload.as_buffer())
            yield decode_record(*name, payload.as_buffer())


def _task(
    batches: Iterable[pa.RecordBatch], *, model: Model, requests: Shared, dataset: str | None
) -> Iterator[pa.RecordBatch]:
    prepare_worker()
    for result in joined(lane_sums(_records(batches, dataset), model, requests.value)):
        yield _result_row(result)


def _task_by_name(
    batches: Iterable[pa.RecordBatch], *, model: Model, requests: Shared, dataset: str
) -> Iterator[pa.RecordBatch]:
    prepare_worker()
    touch(dataset)
    found = [(name, find(dataset, name)) for batch in batches for name in _names(batch)]
    records = [decode_record(*name, payload) for name, payload in found if payload is not None]
    if len(records) == len(found):
        results = joined(lane_sums(records, model, requests.value))
    else:
        lanes = sorted({name.lane for name, _ in found} - {ITEM_LANE})
        results = [LaneSums(lane, _MISSED, (user_piece(lane),), {}) for lane in lanes]
    for result in results:
        yield _result_row(result)


def _result_row(result: LaneSums) -> pa.RecordBatch:
    lanes, item_parts, chunks = ([b[i] for b in result.pieces] for i in range(3))
    row = {
        "lane": result.lane,
        "request": result.request,
        "level": result.level,
        "lanes": lanes,
        "item_parts": item_parts,
        "chunks": chunks,
        "sums": encode_sums(result.sums),
    }
    return pa.RecordBatch.from_pylist([row], schema=_RESULT)


def _lane_sums(row: dict[str, object]) -> LaneSums:
    pieces = tuple(BlockId(*b) for b in zip(row["lanes"], row["item_parts"], row["chunks"], strict=True))  # type: ignore[call-overload]
    return LaneSums(row["lane"], row["request"], pieces, decode_sums(row["sums"]), row["level"])  # type: ignore[arg-type]


def _few_results(results: DataFrame, lanes: int) -> DataFrame:
    """About MERGE_FAN results a request: the lower levels of the tree are merged on executors."""
    width = 1
    while lanes > MERGE_FAN * width:
        width *= MERGE_FAN
        runs = results.withColumn("run", F.floor(F.col("lane") / width)).groupBy("run", "request")
        results = apply_grouped(runs, _merge_run, _RESULT_DDL)
    return results


def _merge_run(table: pa.Table) -> pa.Table:
    found = sorted((_lane_sums(row) for row in table.drop_columns("run").to_pylist()), key=lambda r: r.lane)
    return pa.Table.from_batches([_result_row(node) for node in joined(found)])
