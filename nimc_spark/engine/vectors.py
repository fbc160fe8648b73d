"""Spark ML vectors and lists as Arrow sees them → arrays, without a Python loop over rows."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql.types import ArrayType, StructField, UserDefinedType

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

    Spark asks for the size of a batch before each row that it adds, which takes as many steps as rows since the last
    list that was not null: quadratic in the batch where all are null, as the indices of dense vectors (decision 023).
    """
    return df.select(*(_without_null_lists(field).alias(field.name) for field in df.schema))


def _without_null_lists(field: StructField) -> Column:
    column, kind = quoted(field.name), field.dataType
    if isinstance(kind, ArrayType):
        return F.coalesce(column, F.array().cast(kind))
    # Not VectorUDT: workers import this module, and pyspark.ml would take each of them half a second.
    if not isinstance(kind, UserDefinedType):
        return column
    vector = F.unwrap_udt(column)
    empty = {
        "type": F.lit(0).cast("tinyint"),
        "indices": F.array().cast("array<int>"),
        "values": F.array().cast("array<double>"),
    }
    return F.struct(*(F.coalesce(vector[name], none).alias(name) for name, none in empty.items()))


def has_unusable(numbers: Column) -> Column:
    """True for an array with an entry that is null, NaN or infinite, false for null; without a lambda for each entry.

    Spark does not know, which counts as true, that an array holds no infinity where there are nulls."""
    entries = numbers.cast("array<double>")
    positive, negative, nan = (F.array_contains(entries, number) for number in (math.inf, -math.inf, math.nan))
    return numbers.isNotNull() & F.coalesce(positive | negative | nan, F.lit(True))


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
