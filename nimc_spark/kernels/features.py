"""The feature rows of one part of a side, in named groups of columns, dense or sparse.

Conventions
    n        rows (users or items) of the part
    d        columns of the whole side, all groups side by side
    W        (d, c) parameters of the side, float32 or float64, C order
    X W      (n, c) in the dtype of the features
    Xᵀ H     never as a (d, c) array: one `Rows` a group, touched columns only
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array

Array = npt.NDArray[np.floating]
Index = npt.NDArray[np.integer]


class Rows(NamedTuple):
    """Some rows of a (d, c) array that is zero elsewhere: `indices` (m,) strictly increasing, `values` (m, c)."""

    indices: Index
    values: npt.NDArray[np.float64]


class Entries(NamedTuple):
    """Nonzeros of a matrix: row, column and value (m,)."""

    row: Index
    column: Index
    value: Array


@dataclass(frozen=True)
class DenseGroup:
    """Columns start … start+w of a side: values (n, w), C order."""

    start: int
    values: Array

    def times(self, weights: Array) -> Array:
        """X W of this group, (n, c)."""
        product: Array = self.values @ weights[self.start : self.start + self.values.shape[1]]
        return product

    def transpose_times(self, rows: Array) -> Rows:
        """Xᵀ H of this group, H (n, c)."""
        indices = np.arange(self.start, self.start + self.values.shape[1])
        return Rows(indices, (self.values.T @ rows).astype(np.float64))

    def squared(self) -> DenseGroup:
        """X∘X in float64."""
        return DenseGroup(self.start, np.square(self.values, dtype=np.float64))

    def entries(self) -> Entries:
        """The nonzeros, by their columns of the side."""
        row, column = self.values.nonzero()
        return Entries(row, self.start + column, self.values[row, column])

    def dense(self, width: int) -> npt.NDArray[np.float64]:
        """The group as (n, d) float64 over all `width` columns of its side."""
        full = np.zeros((len(self.values), width))
        full[:, self.start : self.start + self.values.shape[1]] = self.values
        return full

    def finite(self) -> bool:
        return bool(np.isfinite(self.values).all())


@dataclass(frozen=True)
class SparseGroup:
    """A CSR matrix (n, m) over the m columns that the part touches; `columns` (m,) are their places in the side.

    Its products run in the order of the stored entries, so a row's result does not depend on its neighbours: scoring,
    whose batches are cut anyhow, uses this form for dense data too.
    """

    columns: Index
    indptr: Index
    indices: Index
    data: Array

    def _matrix(self) -> csr_array:
        return csr_array((self.data, self.indices, self.indptr), shape=(len(self.indptr) - 1, len(self.columns)))

    def times(self, weights: Array) -> Array:
        """X W of this group, (n, c)."""
        product: Array = self._matrix() @ weights.take(self.columns, axis=0)
        return product

    def transpose_times(self, rows: Array) -> Rows:
        """Xᵀ H of this group, H (n, c)."""
        return Rows(self.columns, (self._matrix().T @ rows).astype(np.float64))

    def squared(self) -> SparseGroup:
        """X∘X in float64."""
        return replace(self, data=np.square(self.data, dtype=np.float64))

    def entries(self) -> Entries:
        """The stored entries, by their columns of the side."""
        row = np.repeat(np.arange(len(self.indptr) - 1), np.diff(self.indptr))
        return Entries(row, self.columns[self.indices], self.data)

    def dense(self, width: int) -> npt.NDArray[np.float64]:
        """The group as (n, d) float64 over all `width` columns of its side."""
        full = np.zeros((len(self.indptr) - 1, width))
        full[:, self.columns] = self._matrix().toarray()
        return full

    def finite(self) -> bool:
        return bool(np.isfinite(self.data).all())


Group = DenseGroup | SparseGroup


@dataclass(frozen=True)
class Part:
    """The users (or items) of one part: offset (n,) float64 and the feature groups, in the order of the side's columns.

    The offset of user i and that of item j add up to the offset of the pair's score.
    """

    offset: npt.NDArray[np.float64]
    groups: tuple[Group, ...]

    @property
    def rows(self) -> int:
        return len(self.offset)


def add_rows(rows: Sequence[Rows]) -> Rows:
    """The sum of one or more, added from left to right, with the union of their indices."""
    first, *others = rows
    if all(np.array_equal(first.indices, more.indices) for more in others):
        return Rows(first.indices, sum((more.values for more in others), start=first.values))
    # One sum for all: adding two at a time would copy what is there once for each of them.
    present = np.zeros(1 + max(int(more.indices.max(initial=0)) for more in rows), bool)
    for more in rows:
        present[more.indices] = True
    place = np.cumsum(present) - 1
    values = np.zeros((int(place[-1]) + 1, first.values.shape[1]))
    for more in rows:
        values[place[more.indices]] += more.values
    return Rows(np.flatnonzero(present), values)


def rows_apart(rows: Sequence[Rows]) -> tuple[Rows, list[Rows]]:
    """The rows whose index is in one of `rows` alone, together; and what is left of each."""
    count = np.bincount(np.concatenate([more.indices for more in rows]))
    alone = [count[more.indices] == 1 for more in rows]
    single = [Rows(more.indices[own], more.values[own]) for more, own in zip(rows, alone, strict=True)]
    return add_rows(single), [Rows(m.indices[~own], m.values[~own]) for m, own in zip(rows, alone, strict=True)]


def stack_rows(groups: list[Rows], columns: int) -> Rows:
    """Rows of disjoint index ranges, in increasing order, as one; no group at all gives zero rows."""
    if not groups:
        return Rows(np.empty(0, np.int64), np.empty((0, columns)))
    return Rows(np.concatenate([g.indices for g in groups]), np.concatenate([g.values for g in groups]))


def dense_rows(rows: Rows, height: int) -> npt.NDArray[np.float64]:
    """The (height, c) array that `rows` stands for."""
    full = np.zeros((height, rows.values.shape[1]))
    full[rows.indices] = rows.values
    return full
