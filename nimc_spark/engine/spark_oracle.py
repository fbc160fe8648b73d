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
from nimc_spark.data.passes import BlockId, Kind, LaneSums, Record, RecordName, Request, joined, lane_sums, merged, root
from nimc_spark.engine.blocks import RecordSet
from nimc_spark.engine.context import Shared, described, prepare_worker, shared
from nimc_spark.engine.grouped import apply_grouped
from nimc_spark.engine.store import find, keep, touch
from nimc_spark.errors import SetupError
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
Task = Callable[..., Iterator[pa.RecordBatch]]
# Above so many lanes, a power of 2, a second stage on executors merges what tasks return.
MERGE_FAN = 64
# Of a request that no task has: what it needed was not beside it.
_MISSED = -1
# Passes by name go on while misses are no more than this and one in so many passes.
_MISSES, _PASSES_A_MISS = 5, 20


class SparkOracle(PassOracle):
    """Passes over the records of a `BlockSet` or of other lanes, wherever their partitions live.

    A pass sends tasks the names of records, whose payloads lie beside them (`store.py`); the first one, and one that
    misses some, sends the records themselves.
    """

    def __init__(self, spark: SparkSession, blocks: RecordSet) -> None:
        self._spark = spark
        self._blocks = blocks
        self._passes = 0
        self.misses = 0

    def answer(self, model: Model, requests: Sequence[Request]) -> list[Sums]:
        self._passes += 1
        sent = [Request(r.statistic, Parameters(*(w.astype(model.dtype) for w in r.parameters))) for r in requests]
        what = ", ".join(sorted({type(r.statistic).__name__ for r in requests}))
        name = f"nimc: pass {self._passes} ({what})"
        with shared(self._spark, sent, len(pickle.dumps(sent))) as handle, described(self._spark, name):
            found = self._by_name(model, handle)
            if found is None:
                found = self._run(self._blocks.records.whole, _task, model, handle)
        self._check(found, len(sent))
        return merged(found, len(sent))

    def _by_name(self, model: Model, requests: Shared) -> list[LaneSums] | None:
        """What a pass by names gives; None where it missed some, or would."""
        if self._passes == 1 or self.misses > _MISSES + self._passes // _PASSES_A_MISS:
            return None
        found = self._run(self._blocks.records.names, _task_by_name, model, requests)
        if all(own.request != _MISSED for own in found):
            return found
        self.misses += 1
        return None

    def _run(self, records: DataFrame, task: Task, model: Model, requests: Shared) -> list[LaneSums]:
        bound = partial(task, model=model, requests=requests, dataset=self._blocks.dataset)
        results = _few_results(records.mapInArrow(bound, _RESULT_DDL), len(self._blocks.lanes))
        return [_lane_sums(row) for row in results.toArrow().to_pylist()]

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


def decode_record(lane: int, kind: int, item_part: int, chunk: int, payload: bytes | pa.Buffer) -> Record:
    """A stored row as a record with its part or block."""
    decoded = decode_block(payload) if kind == Kind.BLOCK else decode_part(payload)
    return Record(lane, kind, item_part, chunk, decoded)


def _names(batch: pa.RecordBatch) -> list[RecordName]:
    return [RecordName(*row) for row in zip(*(batch.column(n).to_pylist() for n in RecordName._fields), strict=True)]


def _records(batches: Iterable[pa.RecordBatch], dataset: str) -> Iterator[Record]:
    """The records of a task, each left beside it for the passes to come."""
    for batch in batches:
        for name, payload in zip(_names(batch), batch.column("payload"), strict=True):
            keep(dataset, name, payload.as_buffer())
            yield decode_record(*name, payload.as_buffer())


def _task(
    batches: Iterable[pa.RecordBatch], *, model: Model, requests: Shared, dataset: str
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
    if any(payload is None for _, payload in found):
        yield _result_row(LaneSums(_MISSED, _MISSED, (), {}))
        return
    records = (decode_record(*name, payload) for name, payload in found if payload is not None)
    for result in joined(lane_sums(records, model, requests.value)):
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
    """At most MERGE_FAN results a request: the lower levels of the tree are merged on executors."""
    width = 1
    while lanes > MERGE_FAN * width:
        width *= MERGE_FAN
        runs = results.withColumn("run", F.floor(F.col("lane") / width)).groupBy("run", "request")
        results = apply_grouped(runs, _merge_run, _RESULT_DDL)
    return results


def _merge_run(table: pa.Table) -> pa.Table:
    found = sorted((_lane_sums(row) for row in table.drop_columns("run").to_pylist()), key=lambda r: r.lane)
    # Of misses one says it all.
    total = found[0] if found[0].request == _MISSED else root(found)
    return pa.Table.from_batches([_result_row(total)])
