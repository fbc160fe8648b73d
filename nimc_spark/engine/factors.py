"""Ids with features → factor rows: one side of the model, applied to a DataFrame.

A factor row is P̂ or Q̂ of `kernels/model.py`, k + 2 numbers, so that a score is the inner product of two of them. Rows
are computed in float64 by sparse products, whose bits do not depend on how a DataFrame was cut into batches.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pyspark.sql import DataFrame
from pyspark.sql import functions as F
from pyspark.sql import types as T

from nimc_spark.engine.blocks import BlockSet, SideData, sparse_group
from nimc_spark.engine.context import Shared, prepare_worker, retained
from nimc_spark.engine.pairs import MODEL
from nimc_spark.engine.vectors import csr_of_vectors
from nimc_spark.kernels.features import Group, Part, SparseGroup
from nimc_spark.kernels.model import Model, SideName, forward


@dataclass(frozen=True)
class SideModel:
    """One side of a trained model, small enough for the driver.

    declared (w, c) float64: parameters of the declared feature columns; ids: Arrow table (id, offset double, weights
    list<double>[, vector list<double>]) of every trained id, weights null where ids are no features, vector what
    training found of the id's last declared features, null for zeros; `constant` is added to every offset; `default`
    (k+2,) is the factor row of an id of which nothing is known.
    """

    side: SideName
    model: Model
    declared: npt.NDArray[np.float64]
    ids: pa.Table
    constant: float
    default: tuple[float, ...]


def trained_ids(blocks: BlockSet, side: SideName, data: SideData, weights: npt.NDArray[np.float64]) -> pa.Table:
    """The `ids` table of a side from its trained parameters W (d, c), ordered by index."""
    rows = blocks.sides[side].index.select("id", "index")
    if data.offsets is not None:
        rows = rows.join(data.offsets, "id", "left").fillna({"offset": 0.0})
    else:
        rows = rows.withColumn("offset", F.lit(0.0))
    if data.vectors is not None:
        rows = rows.join(data.vectors, "id", "left")
    table = rows.toArrow().sort_by("index").combine_chunks()
    own = weights[data.declared_width :]
    values = pa.array(own.ravel() if data.uses_id else np.empty(0))
    ends = np.arange(table.num_rows + 1, dtype=np.int32) * (own.shape[1] if data.uses_id else 0)
    lists = pa.ListArray.from_arrays(pa.array(ends), values)
    if not data.uses_id:
        lists = pa.nulls(table.num_rows, pa.list_(pa.float64()))
    vectors = {"vector": table.column("vector")} if data.vectors is not None else {}
    return pa.table({"id": table.column("id"), "offset": table.column("offset"), "weights": lists, **vectors})


def factor_rows(side: SideModel, ids: DataFrame, features: DataFrame | None) -> DataFrame:
    """DataFrame(id, factors array<double>, source string) of every id that has features or was trained.

    `ids` is the DataFrame of side.ids, `features` DataFrame(id, features vector) or None where the side declares none.
    """
    rows = ids
    if features is None:
        rows = rows.withColumn("features", F.lit(None).cast("array<double>"))
    else:
        rows = features.select("id", "features").join(rows, "id", "outer")
    schema = T.StructType(
        [
            rows.schema["id"],
            T.StructField("factors", T.ArrayType(T.DoubleType(), False), False),
            T.StructField("source", T.StringType(), False),
        ]
    )
    declared = retained(ids.sparkSession, side.declared, side.declared.nbytes)
    body = partial(_task, side=side.side, model=side.model, declared=declared, constant=side.constant)
    return rows.mapInArrow(body, schema)


def _task(
    batches: Iterable[pa.RecordBatch], *, side: SideName, model: Model, declared: Shared, constant: float
) -> Iterator[pa.RecordBatch]:
    prepare_worker()
    for batch in batches:
        yield _factor_batch(batch, side, model, declared.value, constant)


def _factor_batch(
    batch: pa.RecordBatch, side: SideName, model: Model, declared: npt.NDArray[np.float64], constant: float
) -> pa.RecordBatch:
    n = batch.num_rows
    offset = batch.column("offset").fill_null(0.0).to_numpy(zero_copy_only=False) + constant
    groups: list[Group] = []
    if pa.types.is_struct(batch.schema.field("features").type):
        groups.append(sparse_group(csr_of_vectors(batch.column("features")), "float64"))
    if "vector" in batch.schema.names:
        groups.append(_vector_group(batch.column("vector"), len(declared)))
    weights = declared
    lists = batch.column("weights")
    has_row = lists.is_valid().to_numpy(zero_copy_only=False)
    if has_row.any():
        # The ids' own rows travel with them: stack below the declared rows and point each id at its own.
        own = lists.flatten().to_numpy(zero_copy_only=False).reshape(-1, model.columns)
        weights = np.vstack([declared, own])
        pointer = np.concatenate([[0], np.cumsum(has_row)])
        columns = len(declared) + np.arange(len(own))
        groups.append(SparseGroup(columns, pointer, np.arange(len(own)), np.ones(len(own))))
    part = Part(offset, tuple(groups))
    factors = forward(model, side, part, weights).scores
    ends = np.arange(n + 1, dtype=np.int32) * factors.shape[1]
    lists = pa.ListArray.from_arrays(pa.array(ends), pa.array(factors.ravel()))
    return pa.RecordBatch.from_arrays([batch.column("id"), lists, pa.array([MODEL] * n)], ["id", "factors", "source"])


def _vector_group(column: pa.Array, declared: int) -> SparseGroup:
    """Lists of equal length, null for zeros, as the last of the declared columns."""
    present = column.is_valid().to_numpy(zero_copy_only=False)
    data = column.flatten().to_numpy(zero_copy_only=False)
    width = len(data) // max(1, int(present.sum()))
    pointer = np.concatenate([[0], np.cumsum(present)]) * width
    return SparseGroup(
        declared - width + np.arange(width), pointer, np.tile(np.arange(width), int(present.sum())), data
    )
