"""Many small independent problems as Spark tasks: a function over a list, the results in its order."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import TypeVar

import pyarrow as pa
from pyspark.sql import SparkSession

from nimc_spark.data.threads import one_blas_thread
from nimc_spark.engine.context import prepare_worker

A = TypeVar("A")
R = TypeVar("R")

_SCHEMA = "number long, payload binary"


def map_tasks(spark: SparkSession, function: Callable[[A], R], arguments: Sequence[A]) -> list[R]:
    """[function(a) for a in arguments], a Spark task each, on one BLAS thread.

    `function` is module-level; arguments and results are small and picklable (they stay in this application).
    """
    if not arguments:
        return []
    rows = [(number, bytearray(pickle.dumps(argument))) for number, argument in enumerate(arguments)]
    frame = spark.createDataFrame(rows, _SCHEMA).repartitionByRange(len(rows), "number")
    table = frame.mapInArrow(partial(_task, function=function), _SCHEMA).toArrow().sort_by("number")
    if table.column("number").to_pylist() != list(range(len(rows))):
        raise RuntimeError("the cluster lost or repeated some of the tasks")
    return [pickle.loads(payload) for payload in table.column("payload").to_pylist()]


def _task(batches: Iterable[pa.RecordBatch], *, function: Callable[[A], R]) -> Iterator[pa.RecordBatch]:
    prepare_worker()
    for batch in batches:
        for row in batch.to_pylist():
            with one_blas_thread():
                result = function(pickle.loads(row["payload"]))
            yield pa.RecordBatch.from_pydict({"number": [row["number"]], "payload": [pickle.dumps(result)]})
