"""The one small seam to sparkContext; through Spark Connect, where there is none, each has a substitute."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Protocol

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql.utils import is_remote

# Up to here a closure is as fast as a broadcast and leaves nothing to clean up (measured).
CLOSURE_BYTES = 8 << 20
# This very number, and no other large one, is no limit: then Spark does not ask for the size of a batch.
_NO_LIMIT = 2**31 - 1


class Shared(Protocol):
    """A value that tasks read as `.value`."""

    @property
    def value(self) -> Any: ...


class _Inline:
    """A value that travels in the closure."""

    def __init__(self, value: Any) -> None:
        self.value = value


@contextmanager
def shared(spark: SparkSession, value: Any, size: int) -> Iterator[Shared]:
    """`value` for the tasks of one job: in the closure if small, else as a broadcast that is destroyed at the end.

    `size` is its size in bytes.
    """
    if size <= CLOSURE_BYTES or is_remote():
        yield _Inline(value)
        return
    broadcast = spark.sparkContext.broadcast(value)
    try:
        yield broadcast
    finally:
        broadcast.destroy()


def retained(spark: SparkSession, value: Any, size: int) -> Shared:
    """`value` for a DataFrame that is evaluated later: a broadcast lives as long as the DataFrame."""
    if size <= CLOSURE_BYTES or is_remote():
        return _Inline(value)
    broadcast: Shared = spark.sparkContext.broadcast(value)
    return broadcast


def described(spark: SparkSession, text: str) -> AbstractContextManager[None]:
    """Jobs started inside are shown as `text` in the Spark UI."""
    return _with_property(spark, "spark.job.description", text)


def batches_by_rows(spark: SparkSession) -> AbstractContextManager[None]:
    """Jobs started inside send batches of `spark.sql.execution.arrow.maxRecordsPerBatch` rows to Python, whatever their
    bytes, unless the session sets `maxBytesPerBatch`. To see to the bytes Spark asks for the size of a batch before
    each row that it adds, which takes longer than to add it (decision 023). For rows that are not large, those of the
    caller's own Python functions in the plan among them."""
    return _with_property(spark, "spark.sql.execution.arrow.maxBytesPerBatch", str(_NO_LIMIT))


@contextmanager
def _with_property(spark: SparkSession, name: str, value: str) -> Iterator[None]:
    """Jobs started inside, and their tasks, have this property; through Connect they have not."""
    if is_remote():
        yield
        return
    context = spark.sparkContext
    before = context.getLocalProperty(name)
    context.setLocalProperty(name, value)
    try:
        yield
    finally:
        context.setLocalProperty(name, before)  # type: ignore[arg-type]


def without_history(df: DataFrame) -> DataFrame:
    """The same rows with a plan of one node, over the same RDD: what is lost is computed again as before.

    Spark copies, compares and schedules the whole plan for every job over a DataFrame. For one that thousands of short
    jobs read, that costs more than the jobs (docs/performance.md). Through Connect the DataFrame comes back as it is.
    """
    if is_remote():
        return df
    spark, plan = df.sparkSession, df._jdf
    rows = plan.queryExecution().toRdd()
    return DataFrame(spark._jsparkSession.internalCreateDataFrame(rows, plan.schema(), False), spark)


@contextmanager
def held(df: DataFrame) -> Iterator[DataFrame]:
    """`df`, computed once and kept by Spark until the end, read through a plan of one node."""
    with persisted(df) as cached:
        yield without_history(cached)


@contextmanager
def persisted(df: DataFrame) -> Iterator[DataFrame]:
    """`df`, computed once and kept by Spark until the end."""
    cached = df.persist()
    try:
        yield cached
    finally:
        cached.unpersist()


def task_slots(spark: SparkSession) -> int:
    """How many tasks the cluster runs at once; decides placement only, never a result."""
    if is_remote():
        return int(spark.conf.get("spark.sql.shuffle.partitions", "200") or 200)
    return int(spark.sparkContext.defaultParallelism)


_FROZEN: list[bool] = []


def prepare_worker() -> None:
    """Once per Python worker: move what is loaded out of the collector, which Spark runs after every task."""
    if not _FROZEN:
        gc.freeze()
        _FROZEN.append(True)
