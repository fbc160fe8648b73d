"""Histories: the other side's ids that an id has ratings with, as features of it.

    equal       x_j = 1/√n                     for each of the n ids j that it has ratings with
    residuals   x_j = (r_j − μ − b_j)/√n       r_j the rating, b_j the bias of j: of the other side, never its own

An id that the other side was not trained on is left out, and does not count in n; of a pair with several ratings the
mean counts. The ratings are those of training, and when scoring those that the caller gives as context, so that a user
who rated after the training is personal all the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from nimc_spark.engine.vectors import Csr, Numbers
from nimc_spark.kernels.model import SideName

Weights = Literal["equal", "residuals"]


@dataclass(frozen=True)
class HistoryData:
    """The histories of a side in column order, and what residuals are taken from: μ, and DataFrame(id, offset) of the
    other side's biases, None for zeros."""

    weights: tuple[Weights, ...]
    mean: float = 0.0
    biases: DataFrame | None = None


def history_lists(ratings: DataFrame, side: SideName, others: DataFrame, mean: float) -> DataFrame:
    """DataFrame(id, history array<struct<index int, value double>>) of ratings(user, item, rating).

    `others` is DataFrame(id, index[, bias]) of the other side; value is rating − mean − bias.
    """
    own, other = side.one, side.other.one
    bias = F.col("bias") if "bias" in others.columns else F.lit(0.0)
    entry = F.struct(F.col("index").cast("int").alias("index"), (F.col("rating") - mean - bias).alias("value"))
    known = ratings.join(others.withColumnRenamed("id", other), other)
    return known.groupBy(F.col(own).alias("id")).agg(F.collect_list(entry).alias("history"))


def csr_of_histories(column: pa.Array, weights: Weights, start: int = 0) -> Csr:
    """Rows of x from lists of (index, value) in any order, null or empty for none; x_j is in column start + j."""
    lengths = pc.fill_null(pc.list_value_length(column), 0).to_numpy(zero_copy_only=False)
    entries = column.flatten()
    index, value = (pc.struct_field(entries, name).to_numpy(zero_copy_only=False) for name in ("index", "value"))
    row = np.repeat(np.arange(len(column)), lengths)
    order = np.lexsort((value, index, row))
    row, index, value = row[order], index[order], value[order]
    first = np.flatnonzero(_changes(row) | _changes(index))
    sizes = np.diff(np.append(first, len(row)))
    row, index = row[first], index[first]
    n = np.bincount(row, minlength=len(column))
    mean = np.add.reduceat(value, first) / sizes if len(first) else value
    data = (np.ones(len(row)) if weights == "equal" else mean) / np.sqrt(n[row])
    return Csr(np.concatenate([[0], np.cumsum(n)]), (start + index).astype(np.int32), data)


def stacked_histories(column: pa.Array, weights: Sequence[Weights], start: int, others: int) -> list[Csr]:
    """The histories of a side one after the other, each over `others` columns, the first from column `start`."""
    return [csr_of_histories(column, kind, start + place * others) for place, kind in enumerate(weights)]


def _changes(values: Numbers) -> Numbers:
    """True where a value differs from the one before, and at the first."""
    changed: Numbers = np.ones(len(values), bool)
    changed[1:] = values[1:] != values[:-1]
    return changed
