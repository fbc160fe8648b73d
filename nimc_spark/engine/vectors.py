"""Spark ML vectors as Arrow sees them → CSR arrays, without a Python loop over rows."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

Numbers = npt.NDArray[Any]


class Csr(NamedTuple):
    """indptr (n+1,) int64, indices (nnz,) int32 and data (nnz,) float64 without stored zeros."""

    indptr: Numbers
    indices: Numbers
    data: Numbers

    @property
    def rows(self) -> int:
        return len(self.indptr) - 1


def matrix_of_lists(column: pa.Array, width: int) -> Numbers:
    """A column of lists of `width` numbers as (n, width) float64; a null list is a row of zeros."""
    matrix = np.zeros((len(column), width))
    matrix[column.is_valid().to_numpy(zero_copy_only=False)] = column.flatten().to_numpy().reshape(-1, width)
    return matrix


def csr_of_vectors(column: pa.Array) -> Csr:
    """A column of `VectorUDT` (struct type, size, indices, values); a null vector is a row of zeros.

    Explicit zeros are left out: they add nothing to any product.
    """
    values, indices = pc.struct_field(column, "values"), pc.struct_field(column, "indices")
    lengths = pc.fill_null(pc.list_value_length(values), 0).to_numpy(zero_copy_only=False)
    starts = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
    data = values.flatten().to_numpy(zero_copy_only=False)
    # A dense vector stores no indices: its entries' places are their indices.
    places = (np.arange(len(data)) - np.repeat(starts[:-1], lengths)).astype(np.int32)
    sparse = np.repeat(pc.is_valid(indices).to_numpy(zero_copy_only=False), lengths)
    places[sparse] = indices.flatten().to_numpy(zero_copy_only=False)
    kept = data != 0
    indptr = np.concatenate([[0], np.cumsum(kept)])[starts]
    return Csr(indptr, places[kept], data[kept])
