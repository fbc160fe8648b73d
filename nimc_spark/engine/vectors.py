"""Spark ML vectors and lists as Arrow sees them → arrays, without a Python loop over rows."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql.types import ArrayType, StructField, StructType, UserDefinedType

from nimc_spark.engine.index import quoted

Numbers = npt.NDArray[Any]


class Csr(NamedTuple):
    """indptr (n+1,) int64, indices (nnz,) int32 and data (nnz,) float64 without stored zeros."""

    indptr: Numbers
    indices: Numbers
    data: Numbers

    @property
    def rows(self) -> int:
        return len(self.indptr) - 1


def without_null_lists(df: DataFrame) -> DataFrame:
    """The rows on their way to Python: a null list is an empty one, a vector struct<type, indices, values>, none of the
    three null; of a null vector empty.

    Spark asks for the size of a batch before each row that it adds, which takes as many steps as there were null lists
    in a row before it: quadratic in the batch where all are, as the indices of dense vectors (decision 023).
    """
    return df.select(*(_without_null_lists(field).alias(field.name) for field in df.schema))


def _without_null_lists(field: StructField) -> Column:
    column, kind = quoted(field.name), field.dataType
    if isinstance(kind, ArrayType):
        return F.coalesce(column, F.array().cast(kind))
    # VectorUDT itself would have every worker import pyspark.ml, half a second.
    inner = kind.sqlType() if isinstance(kind, UserDefinedType) else kind
    if not isinstance(inner, StructType):
        return column
    parts, empty = F.unwrap_udt(column), {"type": F.lit(0), "indices": F.array(), "values": F.array()}
    types = {own.name: own.dataType for own in inner}
    return F.struct(*(F.coalesce(parts[name], none.cast(types[name])).alias(name) for name, none in empty.items()))


def has_list(column: pa.Array) -> Numbers:
    """True where a list is neither null nor empty."""
    lengths: Numbers = pc.fill_null(pc.list_value_length(column), 0).to_numpy(zero_copy_only=False)
    return lengths > 0


def matrix_of_lists(column: pa.Array, width: int) -> Numbers:
    """A column of lists of `width` numbers as (n, width) float64; a null or empty list is a row of zeros."""
    matrix = np.zeros((len(column), width))
    matrix[has_list(column)] = column.flatten().to_numpy().reshape(-1, width)
    return matrix


def csr_of_vectors(column: pa.Array) -> Csr:
    """A column of `VectorUDT` (struct type, size, indices, values), or of what `without_null_lists` makes of it; a null
    or empty vector is a row of zeros.

    Explicit zeros are left out: they add nothing to any product.
    """
    values, indices = pc.struct_field(column, "values"), pc.struct_field(column, "indices")
    lengths = pc.fill_null(pc.list_value_length(values), 0).to_numpy(zero_copy_only=False)
    starts = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
    data = values.flatten().to_numpy(zero_copy_only=False)
    # A dense vector stores no indices: its entries' places are their indices.
    places = (np.arange(len(data)) - np.repeat(starts[:-1], lengths)).astype(np.int32)
    is_sparse = pc.equal(pc.fill_null(pc.struct_field(column, "type"), 0), 0)
    sparse = np.repeat(is_sparse.to_numpy(zero_copy_only=False), lengths)
    places[sparse] = indices.flatten().to_numpy(zero_copy_only=False)
    kept = data != 0
    indptr = np.concatenate([[0], np.cumsum(kept)])[starts]
    return Csr(indptr, places[kept], data[kept])
