"""Why a pair has its score: what each feature of a side adds to it.

    contribution of feature f of x:   s(x, y) − s(x without f, y) = (P̂(x) − P̂(x without f))ᵀ Q̂(y)

without f: its columns of x are 0. With the identity these are the terms of the sum that the score is; with another
activation they say what would be missed. A feature is a column by its name for people (`genre=Drama`, `age`), an id's
own column (`id`), one member of its histories (`history=<id>`), or the singular vectors of the ratings together
(`rating_svd`). Constants are no reasons.

A batch has rows of `known_rows` with `others`, of each the factor rows that it is paired with; sums run in column
order, so that the bits do not depend on how a DataFrame was cut.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import numpy.typing as npt
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

REASONS_DDL = "array<struct<side string, feature string, contribution double>>"
_ENTRY = pa.struct([("side", pa.string()), ("feature", pa.string()), ("contribution", pa.float64())])
# Pairs of one id that are worked at together, and ids: the product of both and of an id's features is in memory.
_PAIRS, _ROWS = 512, 64
_CONST = "const"


@dataclass(frozen=True)
class ColumnNames:
    """Names of a side's columns: `declared` those of the table's features, `others` the ids of the other side as text,
    where histories are made of them."""

    declared: tuple[str, ...]
    others: pa.Array

    def features(self, columns: Index, side: SideModel) -> Index:
        """The feature (number) of each column: histories of one id are one, and so are singular vectors."""
        tabled, declared, fixed = len(self.declared), len(side.declared), len(side.fixed)
        feature = np.minimum(columns, tabled)
        past = columns >= declared
        if side.history is not None:
            feature[past] = tabled + 2 + (columns[past] - declared) % side.history.others
        feature[columns >= fixed] = tabled + 1
        return feature

    def names(self, features: Index) -> pa.Array:
        """Names of features by their numbers."""
        listed = pa.array([*self.declared, "rating_svd", "id"])
        histories = pc.binary_join_element_wise("history", self.others, "=")
        return pa.concat_arrays([listed, histories]).take(pa.array(features))

    def constant(self, features: Index) -> npt.NDArray[np.bool_]:
        """Whether a feature is the same for all."""
        places = [place for place, name in enumerate(self.declared) if name == _CONST]
        return np.isin(features, places)


def side_reasons(side: SideModel, rows: DataFrame, pairs: DataFrame, names: ColumnNames, n: int) -> DataFrame:
    """DataFrame(id, other, reasons): of each pair the n features of this side that add most to its score, if they add.

    rows: `known_rows`. pairs: DataFrame(id, other, factors), each pair once, with the factor rows of the other side. An
    id without a row has no reasons, and its pairs do not come back.
    """
    order = Window.partitionBy("id").orderBy("other")
    run = F.floor((F.row_number().over(order) - 1) / _PAIRS)
    entry = F.struct("other", "factors")
    runs = pairs.withColumn("run", run).groupBy("id", "run").agg(F.collect_list(entry).alias("others")).drop("run")
    own = replace(side, ids=side.ids.schema.empty_table())
    fixed = retained(rows.sparkSession, (own, names), own.fixed.nbytes + names.others.nbytes)
    schema = T.StructType([*pairs.select("id", "other").schema.fields, _reasons_field()])
    return runs.join(rows, "id").mapInArrow(partial(_task, shared=fixed, n=n), schema)


def strongest(reasons: Column, n: int) -> Column:
    """The n that add most of an array of reasons; of equal ones the first by side and feature."""
    keyed = F.transform(reasons, lambda r: F.struct(-r["contribution"], r["side"], r["feature"], r.alias("reason")))
    return F.slice(F.transform(F.sort_array(keyed), lambda r: r["reason"]), 1, n)


def _reasons_field() -> T.StructField:
    parsed = T.DataType.fromDDL(f"reasons {REASONS_DDL}")
    assert isinstance(parsed, T.StructType)
    return parsed["reasons"]


def _task(batches: Iterable[pa.RecordBatch], *, shared: Shared, n: int) -> Iterator[pa.RecordBatch]:
    prepare_worker()
    side, names = shared.value
    for batch in batches:
        for first in range(0, batch.num_rows, _ROWS):
            yield _explained(batch.take(pa.array(range(first, min(first + _ROWS, batch.num_rows)))), side, names, n)


def _explained(batch: pa.RecordBatch, side: SideModel, names: ColumnNames, n: int) -> pa.RecordBatch:
    """A row a pair, with its n best reasons of this side."""
    row, feature, changes = _changes(batch, side, names)
    lists = batch.column("others")
    pair_row = np.repeat(np.arange(batch.num_rows), pc.list_value_length(lists).to_numpy())
    entries = lists.flatten()
    Q = factor_matrix(_field(entries, "factors"))
    # Every pair with every feature of its row.
    first, last = np.searchsorted(row, pair_row), np.searchsorted(row, pair_row, "right")
    pair = np.repeat(np.arange(len(pair_row)), last - first)
    place = np.arange(len(pair)) + np.repeat(first - np.concatenate([[0], np.cumsum(last - first)[:-1]]), last - first)
    added = np.zeros(len(pair))
    for column in range(Q.shape[1]):
        added += changes[place, column] * Q[pair, column]
    best = _best(pair, added, feature[place], n)
    ends = np.searchsorted(pair[best], np.arange(len(pair_row) + 1)).astype(np.int32)
    chosen = names.names(feature[place[best]])
    sides = pa.array([side.side.value] * len(best), pa.string())
    reasons = pa.StructArray.from_arrays([sides, chosen, pa.array(added[best])], fields=list(_ENTRY))
    return pa.RecordBatch.from_arrays(
        [
            batch.column("id").take(pa.array(pair_row)),
            _field(entries, "other"),
            pa.ListArray.from_arrays(pa.array(ends), reasons),
        ],
        names=["id", "other", "reasons"],
    )


def _changes(
    batch: pa.RecordBatch, side: SideModel, names: ColumnNames
) -> tuple[Index, Index, npt.NDArray[np.float64]]:
    """Row, feature and P̂(x) − P̂(x without it) (m, k+2) of every feature of every row that is no constant, in order."""
    part, weights = batch_part(batch, side)
    found = [group.entries() for group in part.groups]
    row, column, value = (np.concatenate([e[i] for e in found]) for i in range(3))
    feature = names.features(column, side)
    kept = np.flatnonzero(~names.constant(feature))
    order = kept[np.lexsort((column[kept], feature[kept], row[kept]))]
    row, feature = row[order], feature[order]
    first = np.flatnonzero(np.diff(row, prepend=-1) | np.diff(feature, prepend=-1))
    moved = value[order, None] * weights[column[order]]
    moved = np.add.reduceat(moved, first, axis=0) if len(first) else moved
    row, feature = row[first], feature[first]
    z, nothing = inputs(part, weights), np.zeros(len(row))
    with_it = scores(side.model, side.side, z[row], nothing)
    return row, feature, with_it - scores(side.model, side.side, z[row] - moved, nothing)


def _best(pair: Index, added: npt.NDArray[np.float64], feature: Index, n: int) -> Index:
    """Places of the n largest that are above 0 of each pair, pair by pair; of equal ones that of the first feature."""
    order = np.lexsort((feature, -added, pair))
    order = order[added[order] > 0]
    sorted_pair = pair[order]
    rank = np.arange(len(order)) - np.searchsorted(sorted_pair, sorted_pair)
    return order[rank < n]


def _field(entries: pa.StructArray, name: str) -> pa.Array:
    return pc.struct_field(entries, name)
