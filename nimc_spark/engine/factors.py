"""Ids with features → factor rows: one side of the model, applied to a DataFrame.

A factor row is P̂ or Q̂ of `kernels/model.py`, k + 2 numbers, so that a score is the inner product of two of them. Rows
are computed in float64 by sparse products, whose bits do not depend on how a DataFrame was cut into batches.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pyspark.sql import DataFrame
from pyspark.sql import functions as F
from pyspark.sql import types as T

from nimc_spark.engine.blocks import BlockSet, SideData, sparse_group
from nimc_spark.engine.context import Shared, prepare_worker, retained
from nimc_spark.engine.history import Weights, stacked_histories
from nimc_spark.engine.pairs import MODEL
from nimc_spark.engine.vectors import csr_of_vectors, has_list, without_null_lists
from nimc_spark.kernels.features import Group, Part, SparseGroup
from nimc_spark.kernels.model import Model, SideName, forward


@dataclass(frozen=True)
class HistoryModel:
    """The parameters of a side's histories, rows (h·n, c) float64 for h histories over the n trained ids of the other
    side in their order; and the mean μ of which residuals are taken."""

    weights: tuple[Weights, ...]
    mean: float
    rows: npt.NDArray[np.float64]

    @property
    def others(self) -> int:
        """Columns of one history."""
        return len(self.rows) // len(self.weights)


@dataclass(frozen=True)
class SideModel:
    """One side of a trained model, small enough for the driver.

    declared (w, c) float64: parameters of the declared feature columns; ids: Arrow table (id, offset double, weights
    list<double>[, vector list<double>][, bias double]) of every trained id, weights null where ids are no features,
    vector what training found of the id's last declared features, null for zeros, bias that of its ratings about the
    mean, where histories of the other side want it; `constant` is added to every offset; `default` (k+2,) is the factor
    row of an id of which nothing is known.
    """

    side: SideName
    model: Model
    declared: npt.NDArray[np.float64]
    ids: pa.Table
    constant: float
    default: tuple[float, ...]
    history: HistoryModel | None = None

    @property
    def height(self) -> int:
        """Rows of `fixed`."""
        return len(self.declared) + (0 if self.history is None else len(self.history.rows))

    @property
    def fixed(self) -> npt.NDArray[np.float64]:
        """The parameters that do not travel with an id."""
        return self.declared if self.history is None else np.vstack([self.declared, self.history.rows])


def trained_history(data: SideData, ids: int, weights: npt.NDArray[np.float64]) -> HistoryModel | None:
    """What W (d, c) of a side of `ids` trained ids says of its histories."""
    if data.history is None:
        return None
    return HistoryModel(data.histories, data.history.mean, weights[data.columns(ids, 0) :])


def trained_ids(
    blocks: BlockSet, side: SideName, data: Mapping[SideName, SideData], weights: npt.NDArray[np.float64]
) -> pa.Table:
    """The `ids` table of a side from its trained parameters W (d, c), ordered by index."""
    own, others = data[side], data[side.other].history
    rows = _with_number(blocks.sides[side].index.select("id", "index"), "offset", own.offsets)
    if others is not None and others.biases is not None:
        rows = _with_number(rows, "bias", others.biases.withColumnRenamed("offset", "bias"))
    if own.vectors is not None:
        rows = rows.join(own.vectors, "id", "left")
    table = rows.toArrow().sort_by("index").combine_chunks()
    lists = pa.nulls(table.num_rows, pa.list_(pa.float64()))
    if own.uses_id:
        values = weights[own.declared_width :][: table.num_rows]
        ends = np.arange(table.num_rows + 1, dtype=np.int32) * values.shape[1]
        lists = pa.ListArray.from_arrays(pa.array(ends), pa.array(values.ravel()))
    return table.drop_columns("index").append_column("weights", lists)


def _with_number(rows: DataFrame, name: str, numbers: DataFrame | None) -> DataFrame:
    """The rows with the column `name` of DataFrame(id, name), 0 where there is none."""
    if numbers is None:
        return rows.withColumn(name, F.lit(0.0))
    return rows.join(numbers, "id", "left").fillna({name: 0.0})


def known_rows(ids: DataFrame, features: DataFrame | None, histories: DataFrame | None = None) -> DataFrame:
    """All that is known of every id that has features, was trained, or has a history, a row each for `batch_part`, with
    empty lists and vectors for what is not known.

    `ids` is the DataFrame of side.ids, `features` DataFrame(id, features vector) or None where the side declares none,
    `histories` DataFrame(id, history) of `history_lists`, likewise.
    """
    rows = ids if features is None else features.select("id", "features").join(ids, "id", "outer")
    return without_null_lists(rows if histories is None else rows.join(histories, "id", "outer"))


def factor_rows(side: SideModel, rows: DataFrame) -> DataFrame:
    """DataFrame(id, factors array<double>, source string) of every one of the `known_rows`."""
    schema = T.StructType(
        [
            rows.schema["id"],
            T.StructField("factors", T.ArrayType(T.DoubleType(), False), False),
            T.StructField("source", T.StringType(), False),
        ]
    )
    fixed = replace(side, ids=side.ids.schema.empty_table())
    size = side.declared.nbytes + (0 if side.history is None else side.history.rows.nbytes)
    return rows.mapInArrow(partial(_task, fixed=retained(rows.sparkSession, fixed, size)), schema)


def _task(batches: Iterable[pa.RecordBatch], *, fixed: Shared) -> Iterator[pa.RecordBatch]:
    prepare_worker()
    for batch in batches:
        yield _factor_batch(batch, fixed.value)


def _factor_batch(batch: pa.RecordBatch, side: SideModel) -> pa.RecordBatch:
    part, weights = batch_part(batch, side)
    factors = forward(side.model, side.side, part, weights).scores
    ends = np.arange(part.rows + 1, dtype=np.int32) * factors.shape[1]
    lists = pa.ListArray.from_arrays(pa.array(ends), pa.array(factors.ravel()))
    source = pa.array([MODEL] * part.rows)
    return pa.RecordBatch.from_arrays([batch.column("id"), lists, source], ["id", "factors", "source"])


def batch_part(batch: pa.RecordBatch, side: SideModel) -> tuple[Part, npt.NDArray[np.float64]]:
    """The features of `known_rows` as a part, and the parameters W of its columns: those that do not travel, and below
    them, in the order of the rows, those of the ids' own columns."""
    model, declared = side.model, len(side.declared)
    offset = batch.column("offset").fill_null(0.0).to_numpy(zero_copy_only=False) + side.constant
    groups: list[Group] = []
    if "features" in batch.schema.names:
        groups.append(sparse_group(csr_of_vectors(batch.column("features")), "float64"))
    if "vector" in batch.schema.names:
        groups.append(_vector_group(batch.column("vector"), declared))
    if side.history is not None:
        rows = stacked_histories(batch.column("history"), side.history.weights, declared, side.history.others)
        groups += [sparse_group(csr, "float64") for csr in rows]
    weights = side.fixed
    lists = batch.column("weights")
    has_row = has_list(lists)
    if has_row.any():
        # The ids' own rows travel with them: stack below the fixed ones and point each id at its own.
        own = lists.flatten().to_numpy(zero_copy_only=False).reshape(-1, model.columns)
        columns = len(weights) + np.arange(len(own))
        weights = np.vstack([weights, own])
        pointer = np.concatenate([[0], np.cumsum(has_row)])
        groups.append(SparseGroup(columns, pointer, np.arange(len(own)), np.ones(len(own))))
    return Part(offset, tuple(groups)), weights


def _vector_group(column: pa.Array, declared: int) -> SparseGroup:
    """Lists of equal length, empty for zeros, as the last of the declared columns."""
    present = has_list(column)
    data = column.flatten().to_numpy(zero_copy_only=False)
    width = len(data) // max(1, int(present.sum()))
    pointer = np.concatenate([[0], np.cumsum(present)]) * width
    return SparseGroup(
        declared - width + np.arange(width), pointer, np.tile(np.arange(width), int(present.sum())), data
    )
