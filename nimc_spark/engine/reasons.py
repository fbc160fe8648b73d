"""Why a pair has its score: what each feature of a side adds to it.

    contribution of feature f of x:   s(x, y) − s(x without f, y) = (P̂(x) − P̂(x without f))ᵀ Q̂(y)

without f: its columns of x are 0, which for a number is its mean. With the identity these are the terms of the sum that
the score is; with another activation they say what would be missed. A feature is a column by its name for people
(`genre=Drama`, `age`), an id's own column (`id`), one member of its histories (`history=<id>`), or the singular vectors
of the ratings together (`rating_svd`). Constants are no reasons.

Sums run in column order, so that the bits do not depend on how a DataFrame was cut.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F
from pyspark.sql import types as T

from nimc_spark.engine.context import Shared, prepare_worker, retained
from nimc_spark.engine.factors import SideModel, batch_part
from nimc_spark.engine.pairs import factor_matrix
from nimc_spark.kernels.features import Index
from nimc_spark.kernels.model import inputs, scores
from nimc_spark.kernels.topk import Floats

REASONS_TYPE = "array<struct<side:string,feature:string,contribution:double>>"
_REASON = pa.struct([("side", pa.string()), ("feature", pa.string()), ("contribution", pa.float64())])
# So many pairs of an id are worked at together: an item that is in most lists must not be one task's.
_PAIRS = 512
# Names of what is no column of a table.
_VECTORS, _ID = "rating_svd", "id"


@dataclass(frozen=True)
class FeatureNames:
    """Names of a side's features: `declared` those of the table's columns, of which those at `constant` are 1 for all;
    `others` the ids of the other side as text, where histories are made of them."""

    declared: tuple[str, ...]
    constant: tuple[int, ...]
    others: pa.Array

    def numbers(self, columns: Index, side: SideModel) -> Index:
        """The feature of each column: histories of one id are one, and so are singular vectors."""
        tabled, declared = len(self.declared), len(side.declared)
        feature = np.minimum(columns, tabled)
        past = columns >= declared
        if side.history is not None:
            feature[past] = tabled + 2 + (columns[past] - declared) % side.history.others
        feature[columns >= side.height] = tabled + 1
        return feature

    def of(self, features: Index) -> pa.Array:
        """Names of features by their numbers."""
        listed = pa.array([*self.declared, _VECTORS, _ID])
        past = features >= len(listed)
        other = self.others.take(pa.array(np.where(past, features - len(listed), 0), mask=~past))
        own = listed.take(pa.array(np.where(past, 0, features)))
        return pc.if_else(pa.array(past), pc.binary_join_element_wise("history", other, "="), own)


def side_reasons(
    side: SideModel, rows: DataFrame, pairs: DataFrame, partners: DataFrame, names: FeatureNames, n: int
) -> DataFrame:
    """DataFrame(id, other, reasons): of each pair the n features of this side that add most to its score, if they add.

    rows: `known_rows`. pairs: DataFrame(id, other), each once, other may be null. partners: DataFrame(other, factors)
    of all of these. An id without a row has no reasons, and its pairs do not come back.
    """
    order = Window.partitionBy("id").orderBy("other")
    numbered = pairs.withColumn("run", F.floor((F.row_number().over(order) - 1) / _PAIRS))
    entry = F.struct("other", "factors")
    known = partners.withColumnRenamed("other", "partner")
    joined = numbered.join(known, F.col("other").eqNullSafe(F.col("partner")))
    runs = joined.groupBy("id", "run").agg(F.collect_list(entry).alias("others"))
    # Ids with many runs are spread.
    runs = runs.join(rows, "id").repartition("id", "run").drop("run")
    own = replace(side, ids=side.ids.schema.empty_table())
    fixed = retained(rows.sparkSession, (own, names), own.fixed.nbytes + names.others.nbytes)
    kind = T.StructField("reasons", T.DataType.fromDDL(REASONS_TYPE))
    schema = T.StructType([*pairs.select("id", "other").schema.fields, kind])
    return runs.mapInArrow(partial(_task, shared=fixed, n=n), schema)


def strongest(reasons: Column, n: int) -> Column:
    """The n that add most of an array of reasons; of equal ones the first by side and feature."""
    keyed = F.transform(reasons, lambda r: F.struct(-r["contribution"], r["side"], r["feature"], r.alias("reason")))
    return F.slice(F.transform(F.sort_array(keyed), lambda r: r["reason"]), 1, n)


def _task(batches: Iterable[pa.RecordBatch], *, shared: Shared, n: int) -> Iterator[pa.RecordBatch]:
    prepare_worker()
    side, names = shared.value
    for batch in batches:
        if batch.num_rows:
            yield _explained(batch, side, names, n)


def _explained(batch: pa.RecordBatch, side: SideModel, names: FeatureNames, n: int) -> pa.RecordBatch:
    """A row for each pair of every id, with its n best reasons of this side."""
    features = _Features(batch, side, names)
    lists = batch.column("others")
    lengths, entries = pc.list_value_length(lists).to_numpy(), lists.flatten()
    Q = factor_matrix(pc.struct_field(entries, "factors"))
    cuts = np.concatenate([[0], np.cumsum(lengths)])
    best = [_best(*features.changes(row), Q[cuts[row] : cuts[row + 1]], n) for row in range(batch.num_rows)]
    chosen, added, counts = (np.concatenate([own[part] for own in best]) for part in range(3))
    ends = pa.array(np.concatenate([[0], np.cumsum(counts)]).astype(np.int32))
    sides = pa.array([side.side.value] * len(chosen), pa.string())
    reasons = pa.StructArray.from_arrays([sides, names.of(chosen), pa.array(added)], fields=list(_REASON))
    return pa.RecordBatch.from_arrays(
        [
            batch.column("id").take(pa.array(np.repeat(np.arange(batch.num_rows), lengths))),
            pc.struct_field(entries, "other"),
            pa.ListArray.from_arrays(ends, reasons),
        ],
        names=["id", "other", "reasons"],
    )


def _best(features: Index, changes: Floats, Q: Floats, n: int) -> tuple[Index, Floats, Index]:
    """Of an id's pairs, one after the other, the n features that add most and what they add, and how many they are."""
    added = np.zeros((len(Q), len(features)))
    for column in range(Q.shape[1]):
        added += Q[:, column, None] * changes[:, column]
    best = np.argsort(-added, axis=1, kind="stable")[:, :n]
    values = np.take_along_axis(added, best, axis=1)
    adds = values > 0
    return features[best[adds]], values[adds], adds.sum(axis=1)


class _Features:
    """The features of the rows of a batch that are no constants, in order, and what a row's scores lose by each."""

    def __init__(self, batch: pa.RecordBatch, side: SideModel, names: FeatureNames) -> None:
        self.side, self.names = side, names
        part, self._weights = batch_part(batch, side)
        found = [group.entries() for group in part.groups]
        row, column, self._value = (np.concatenate([e[i] for e in found]) for i in range(3))
        feature = names.numbers(column, side)
        kept = np.flatnonzero(~np.isin(feature, names.constant))
        order = kept[np.lexsort((column[kept], feature[kept], row[kept]))]
        self._column, self._feature, self._value = column[order], feature[order], self._value[order]
        self._cuts = np.searchsorted(row[order], np.arange(part.rows + 1))
        self._z = inputs(part, self._weights)

    def changes(self, row: int) -> tuple[Index, Floats]:
        """The features of a row (m,), and P̂(x) − P̂(x without each) (m, k+2)."""
        own = slice(*self._cuts[row : row + 2])
        features, first = np.unique(self._feature[own], return_index=True)
        moved = self._value[own, None] * self._weights[self._column[own]]
        moved = np.add.reduceat(moved, first, axis=0) if len(first) else moved
        z, nothing = self._z[row : row + 1], np.zeros(len(first))
        without = scores(self.side.model, self.side.side, z - moved, nothing)
        return features, scores(self.side.model, self.side.side, z, np.zeros(1)) - without
