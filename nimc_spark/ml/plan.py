"""What training will take, from sizes alone: the grid, bytes, memory and time, before any block is built.

    parts and blocks   feature rows of users and items, and for each rating a place, itself, its weight and its offset
    a pass sends       p numbers in the blocks' dtype a start, to every task
    a pass returns     the touched rows of the gradient, and JᵀJ of lm, float64, of each lane and start
    the driver keeps   `DRIVER_VECTORS` vectors (p,) float64 a start

Users, items and columns of ids are counted approximately, as training does to choose its grid. Times are made of those
of a rating, of an entry of dense features and of an empty job, all measured here and now: an order of magnitude.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from math import ceil
from typing import Any, NamedTuple

import numpy as np
from pyspark.ml.functions import vector_to_array
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from scipy.sparse import csr_array

from nimc_spark.data.local import LocalOracle, Observations, records_of_arrays
from nimc_spark.data.threads import processors
from nimc_spark.engine.blocks import DENSE_SHARE, SideData, grid
from nimc_spark.engine.context import task_slots
from nimc_spark.engine.passes_at import PassesAt
from nimc_spark.engine.spark_oracle import MERGE_FAN
from nimc_spark.kernels.model import Model, SideName
from nimc_spark.kernels.statistics import LossGradient
from nimc_spark.ml.params import NIMCParams
from nimc_spark.ml.problem import DRIVER_VECTORS, Prepared, parameter_count, prepared
from nimc_spark.ml.sides import SideInput

# Bytes of an index into columns, and of what is kept for each column that a sparse group touches.
_PLACE, _COLUMN = 4, 8
# Python with numpy, Arrow and the kernels loaded, before any data.
_WORKER = 200 << 20
_SAMPLE_ROWS = 1000
# Of ratings in a task of a shuffle, 50 to 100 MB.
_PARTITION_ROWS = 2_000_000
# Of the problem by which the rate of this machine is measured.
_RATED_USERS, _RATED_ITEMS, _RATINGS = 2000, 500, 200_000
_DENSE_COLUMNS = 64


@dataclass(frozen=True)
class TrainingPlan:
    """Sizes in bytes; `seconds` are of a pass, `passes` the most that are allowed; `items_at`, `passes_at`
    as in the summary."""

    ratings: int
    users: int
    items: int
    user_columns: int
    item_columns: int
    parameters: int
    solver: str
    dtype: str
    items_at: str
    passes_at: str
    lanes: int
    item_parts: int
    blocks: int
    task_reads: int
    pass_sends: int
    pass_returns: int
    task_memory: int
    driver_memory: int
    passes: int
    seconds: float

    def figures(self) -> dict[str, Any]:
        """All numbers, for a result line."""
        return asdict(self)

    def conf(self, tasks_an_executor: int, partitions: int) -> dict[str, str]:
        """Spark's settings that this needs beside those of the session, whose shuffles have so many `partitions`."""
        returned = _megabytes(2 * self.pass_returns + 2 * self.pass_sends)
        return {
            "spark.driver.maxResultSize": f"{max(1024, returned)}m",
            "spark.driver.memory": f"{1024 + 2 * returned}m",
            "spark.executor.memoryOverhead": f"{_megabytes(tasks_an_executor * self.task_memory)}m",
            "spark.sql.shuffle.partitions": str(max(partitions, ceil(self.ratings / _PARTITION_ROWS))),
        }


def training_plan(params: NIMCParams, dataset: DataFrame, inputs: Mapping[SideName, SideInput]) -> TrainingPlan:
    """The plan of training on a ratings DataFrame as the Params say, with no pass over it.

    Raises what training would raise before its first pass: UsageError also for more parameters than the driver holds.
    """
    with prepared(params, dataset, inputs) as ready:
        return _planned(params, ready)


def _planned(params: NIMCParams, ready: Prepared) -> TrainingPlan:
    profile, dtype = ready.profile, ready.plan.dtype
    starts, size = params.getOrDefault("starts"), np.dtype(dtype).itemsize
    ids = {SideName.USERS: profile.users, SideName.ITEMS: profile.items}
    columns = {side: data.columns(ids[side], ids[side.other]) for side, data in ready.data.items()}
    in_blocks = ready.in_blocks
    cut = grid(profile, in_blocks, dtype, ready.plan.limits)
    filled = {side: _filled(in_blocks[side]) for side in SideName}
    own = {side: _side_bytes(in_blocks[side], filled[side], ids[side], profile.count, size) for side in SideName}
    rated = profile.count * (_PLACE + size * (1 + len({"weight", "offset"} & set(ready.ratings.columns))))
    rated += _PLACE * profile.users * cut.item_parts
    lane = ceil((own[SideName.USERS] + rated) / cut.user_parts)
    model_columns = params.getOrDefault("rank") + int(params.getOrDefault("linear"))
    touched = _touched(in_blocks, ids, profile.count, cut.user_parts)
    parameters = parameter_count(params, profile, ready.data)
    matrix = 4 * parameters**2 if ready.plan.solver == "lm" else 0
    sent, returned = starts * parameters * size, starts * (8 * touched * model_columns + matrix)
    rows = ceil(profile.users / cut.user_parts) + profile.items
    scores = starts * rows * (model_columns + 1) * (2 * size + 8)
    on_driver = ready.plan.passes is PassesAt.DRIVER
    # The records, and the scores of as many lanes as are worked at.
    held = sum(own.values()) + rated + processors() * scores
    histories = sum(len(data.histories) for data in in_blocks.values())
    work = _Work(
        starts * profile.count * (1 + histories), {s: starts * ids[s] * filled[s].columns for s in SideName}, filled
    )
    return TrainingPlan(
        ratings=profile.count,
        users=profile.users,
        items=profile.items,
        user_columns=columns[SideName.USERS],
        item_columns=columns[SideName.ITEMS],
        parameters=parameters,
        solver=ready.plan.solver,
        dtype=dtype,
        items_at=ready.plan.items.value,
        passes_at=ready.plan.passes.value,
        lanes=cut.user_parts,
        item_parts=cut.item_parts,
        blocks=sum(own.values()) + rated,
        task_reads=lane + own[SideName.ITEMS],
        pass_sends=sent,
        pass_returns=min(cut.user_parts, MERGE_FAN) * returned,
        task_memory=_WORKER + 2 * (lane + own[SideName.ITEMS]) + sent + returned + scores,
        driver_memory=_WORKER + starts * DRIVER_VECTORS * 8 * parameters + (held if on_driver else 0),
        passes=params.getOrDefault("maxIter"),
        seconds=_seconds(params, ready, work, cut.user_parts),
    )


class _Filled(NamedTuple):
    """Columns of a row of declared features that a pass works at: all if they are stored dense, else the nonzeros."""

    columns: float
    dense: bool


class _Work(NamedTuple):
    """What a pass works at: entries of ratings and histories, and of each side's declared features."""

    entries: int
    features: Mapping[SideName, float]
    filled: Mapping[SideName, _Filled]

    def of(self, dense: bool, tasks: int) -> float:
        """Entries that are dense, or sparse, on all tasks: each evaluates its users, and all items."""
        own = {side: self.features[side] if self.filled[side].dense == dense else 0.0 for side in SideName}
        return own[SideName.USERS] + tasks * own[SideName.ITEMS] + (0 if dense else self.entries)


def _filled(data: SideData) -> _Filled:
    if data.features is None:
        return _Filled(0.0, False)
    nonzero = _nonzeros(data.features)
    dense = nonzero > DENSE_SHARE * data.width
    return _Filled(data.width if dense else nonzero, dense)


def _side_bytes(data: SideData, filled: _Filled, ids: int, ratings: int, size: int) -> int:
    """Of the feature rows of a side, its offsets included."""
    total = 8 * ids + data.vectors_width * size * ids
    if data.features is not None:
        total += ceil(
            ids * filled.columns * size if filled.dense else ids * (filled.columns * (_PLACE + size) + _PLACE)
        )
    if data.uses_id:
        total += ids * (_COLUMN + 2 * _PLACE + size)
    return total + len(data.histories) * ratings * (_PLACE + size)


def _nonzeros(features: DataFrame) -> float:
    """Mean number of nonzero entries of a row, by the first rows."""
    entries = F.size(F.filter(vector_to_array(F.col("features")), lambda x: x != 0))
    row = features.limit(_SAMPLE_ROWS).agg(F.avg(entries)).first()
    return float(row[0] or 0.0) if row is not None else 0.0


def _touched(data: Mapping[SideName, SideData], ids: Mapping[SideName, int], ratings: int, lanes: int) -> int:
    """Rows of U and V that a lane's gradient has, at the most."""
    users = data[SideName.USERS].columns(ceil(ids[SideName.USERS] / lanes), ids[SideName.ITEMS])
    items = data[SideName.ITEMS].columns(ids[SideName.ITEMS], ids[SideName.USERS])
    return users + items


def _seconds(params: NIMCParams, ready: Prepared, work: _Work, lanes: int) -> float:
    """Of a pass: an empty job if it is one, and the kernel on as many cores as work at once."""
    spark, on_driver = ready.ratings.sparkSession, ready.plan.passes is PassesAt.DRIVER
    tasks = (
        min(processors(), lanes * int(params.getOrDefault("starts"))) if on_driver else min(lanes, task_slots(spark))
    )
    sparse, dense = (_rate(params, ready.plan.dtype, kind) * work.of(kind, tasks) for kind in (False, True))
    return round((0.0 if on_driver else _empty_job(spark, tasks)) + (sparse + dense) / tasks, 6)


def _empty_job(spark: SparkSession, tasks: int) -> float:
    """Seconds of the second of two jobs that do nothing in Python."""
    nothing = spark.range(0, tasks, 1, tasks).mapInArrow(lambda batches: batches, "id long")
    return _second_time(lambda: nothing.count())


def _rate(params: NIMCParams, dtype: str, dense: bool) -> float:
    """Seconds of the kernel in this process on one thread: a rating, ids alone; or an entry of dense features."""
    random = np.random.default_rng(0)
    ratings = _RATED_USERS if dense else _RATINGS
    user, item = (random.integers(0, n, ratings) for n in (_RATED_USERS, _RATED_ITEMS))
    users, items = (
        [random.normal(size=(n, _DENSE_COLUMNS)) if dense else csr_array(np.eye(n))]
        for n in (_RATED_USERS, _RATED_ITEMS)
    )
    observations = Observations(user, item, random.normal(size=ratings))
    passes = LocalOracle(records_of_arrays(users, items, observations, dtype))
    widths = (_DENSE_COLUMNS, _DENSE_COLUMNS) if dense else (_RATED_USERS, _RATED_ITEMS)
    model = Model(params.getOrDefault("rank"), *widths, dtype=dtype)
    point = model.unravel(random.normal(size=model.size))
    entries = (_RATED_USERS + _RATED_ITEMS) * _DENSE_COLUMNS if dense else ratings
    return _second_time(lambda: passes.run(LossGradient(), model, [point])) / entries


def _second_time(work: Any) -> float:
    work()
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def _megabytes(size: int) -> int:
    return ceil(size / (1 << 20))
