"""The exact K best items of every user, from two factor tables, with exclusions applied before the K are taken.

    top_k(i) = the first K of { j : (i, j) not excluded } by (score(i, j) descending, item id ascending)

Users and items are cut into parts, one packed row each; every (user part, item part) is one tile, scored by
`kernels/topk.py`; lists from several item parts are merged exactly. A score has the same bits whatever the cut.
The memory of a task is that of a tile (`TileLimits`), or of a few that travel in one Arrow batch.

Conventions: a factor table is DataFrame(id <native type>, factors array<double> of one width, source string), each id
once; both tables are read twice (measured, then packed), so give stored or persisted ones.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from math import ceil
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import DataFrame, Row, Window
from pyspark.sql import functions as F
from pyspark.sql import types as T

from nimc_spark.engine.context import prepare_worker, task_slots
from nimc_spark.engine.index import align_id, id_type, part_of
from nimc_spark.engine.pairs import BASELINE, MODEL, combined_source, dot_product, factor_matrix
from nimc_spark.engine.vectors import has_unusable
from nimc_spark.errors import DataError, UsageError
from nimc_spark.kernels.topk import Exclusions, top_k_tile

# What one excluded pair takes in a packed row, with an id of ordinary length on each side.
PAIR_BYTES = 32
# What one entry of a list takes while its tile is scored: an int32 position and a float64 score.
ENTRY_BYTES = 12
# Items of up to this size go to every executor whole; above, both sides are dealt out as shuffle files.
BROADCAST_BYTES = 64 << 20
# Reading all items costs a user part about as much as scoring half as many users.
_LEAST_USERS = 512


@dataclass(frozen=True)
class TileLimits:
    """At most about `users` users and `nbytes` bytes in a packed row of either side, and items of up to `shared` bytes
    sent whole; results do not depend on them."""

    users: int = 4096
    nbytes: int = 8 << 20
    shared: int = BROADCAST_BYTES


def top_k(
    users: DataFrame,
    items: DataFrame,
    k: int,
    exclude: DataFrame | None = None,
    limits: TileLimits | None = None,
    candidates: DataFrame | None = None,
) -> DataFrame:
    """DataFrame(user, rank int from 1, item, score double, score_source string).

    exclude: DataFrame(user, item) of pairs never recommended (seen, deny). candidates: DataFrame(user, item); a user
    who is in it chooses among these alone. In both, ids of other types are matched by value, and pairs of unknown ids
    are ignored. A user with fewer than k candidates gets them all.
    score_source is "model" where both sides' factors are the model's, else "baseline".
    Raises UsageError for k < 1, DataError for null or non-finite factors and for sides of different widths.
    """
    if isinstance(k, bool) or not isinstance(k, int) or k < 1:
        raise UsageError(f"k is {k!r}: the number of items to recommend must be an integer of at least 1")
    if candidates is not None:
        own = _typed_pairs(candidates, users, items)
        free = users.join(own.select(F.col("user").alias("id")).distinct(), "id", "anti")
        return top_k(free, items, k, exclude, limits).unionByName(_top_k_among(own, users, items, k, exclude))
    user_type, item_type = id_type(users, "id"), id_type(items, "id")
    pairs = None if exclude is None else _typed_pairs(exclude, users, items)
    limits = limits or TileLimits()
    user_parts, item_parts = _part_counts(users, items, pairs, k, limits)
    packed_users = _packed(users, "user", user_parts, transposed=False)
    packed_items = _packed(items, "item", item_parts, transposed=True)
    excluded = F.lit(None)
    if pairs is not None:
        packed_users = packed_users.join(_excluded(pairs, user_parts, item_parts), "user_part", "left")
        # A join may have put several parts together.
        packed_users = packed_users.repartitionById(user_parts, F.col("user_part"))
        excluded = F.try_element_at("excluded", F.col("item_part"))
    if item_parts * limits.nbytes <= limits.shared:
        tiles = packed_users.crossJoin(F.broadcast(packed_items))
    else:
        # Packed once into shuffle files: a Cartesian product computes its inputs anew for every tile.
        if pairs is None:
            packed_users = packed_users.repartitionById(user_parts, F.col("user_part"))
        tiles = packed_users.crossJoin(packed_items.repartitionById(item_parts, F.col("item_part")))
    tiles = tiles.select("user", "item", excluded.cast(_pairs_type(user_type, item_type)).alias("excluded"))
    lists = tiles.mapInArrow(partial(_score_tiles, k=k), _list_schema(user_type, item_type))
    return lists if item_parts == 1 else _merged(lists, k)


def _top_k_among(
    candidates: DataFrame, users: DataFrame, items: DataFrame, k: int, exclude: DataFrame | None
) -> DataFrame:
    """The lists of users who choose among pairs of their own; as many scores as pairs."""
    pairs = candidates.distinct()
    if exclude is not None:
        pairs = pairs.join(_typed_pairs(exclude, users, items), ["user", "item"], "anti")
    for side, table in (("user", users), ("item", items)):
        renamed = {"id": side, "factors": f"{side}_factors", "source": f"{side}_source"}
        pairs = pairs.join(table.select("id", "factors", "source").withColumnsRenamed(renamed), side)
    score = dot_product(F.col("user_factors"), F.col("item_factors"))
    source = combined_source(F.col("user_source"), F.col("item_source"))
    return _merged(pairs.select("user", "item", score.alias("score"), source.alias("score_source")), k)


def _typed_pairs(pairs: DataFrame, users: DataFrame, items: DataFrame) -> DataFrame:
    sides = (("user", users), ("item", items))
    if not isinstance(pairs, DataFrame) or not {"user", "item"} <= set(pairs.columns):
        found = ", ".join(pairs.columns) if isinstance(pairs, DataFrame) else type(pairs).__name__
        raise DataError(f"pairs to exclude or to choose among are a DataFrame(user, item), found {found}")
    columns = [align_id(F.col(name), id_type(pairs, name), id_type(table, "id")).alias(name) for name, table in sides]
    return pairs.select(*columns).dropna()


def _part_counts(
    users: DataFrame, items: DataFrame, pairs: DataFrame | None, k: int, limits: TileLimits
) -> tuple[int, int]:
    """Numbers of user parts and item parts, from one small job that also checks the factors."""
    measures = _measured("user", users).unionAll(_measured("item", items))
    if pairs is not None:
        nothing = F.lit(None)
        measures = measures.unionAll(pairs.agg(F.lit("exclude"), F.count("*"), nothing, nothing, nothing, nothing))
    found = {row["side"]: row for row in measures.collect()}
    user, item = found["user"], found["item"]
    for side in (user, item):
        _check_side(side)
    if user["rows"] and item["rows"] and user["widest"] != item["widest"]:
        raise DataError(f"user factors have width {user['widest']}, item factors {item['widest']}: must agree")
    row_bytes = 8 * (user["widest"] or 0)
    excluded = found["exclude"]["rows"] if pairs is not None else 0
    user_bytes = user["rows"] * (row_bytes + ENTRY_BYTES * min(k, item["rows"])) + PAIR_BYTES * excluded
    user_parts = max(1, ceil(user["rows"] / limits.users), ceil(user_bytes / limits.nbytes))
    # As many as tasks run at once, or twice that and so on, unless they become too small to be worth it.
    slots = task_slots(users.sparkSession)
    even = min(ceil(user_parts / slots) * slots, ceil(user["rows"] / _LEAST_USERS))
    user_parts = max(user_parts, even)
    return min(user_parts, max(1, user["rows"])), max(1, ceil(item["rows"] * row_bytes / limits.nbytes))


def _measured(side: str, table: DataFrame) -> DataFrame:
    identifier, bad = F.col("id").cast("string"), F.col("factors").isNull() | has_unusable(F.col("factors"))
    return table.agg(
        F.lit(side).alias("side"),
        F.count("*").alias("rows"),
        F.count_if(bad).alias("bad"),
        F.min(F.when(bad, identifier)).alias("example"),
        F.min(F.size("factors")).alias("narrowest"),
        F.max(F.size("factors")).alias("widest"),
    )


def _check_side(side: Row) -> None:
    name, bad, rows = side["side"], side["bad"], side["rows"]
    if bad:
        raise DataError(
            f"{bad} of {rows} {name}s have null or non-finite factors, first {name} {side['example']!r}: "
            "every factor must be a finite number"
        )
    if side["narrowest"] != side["widest"]:
        raise DataError(f"{name} factors have widths from {side['narrowest']} to {side['widest']}: must have one")


def _packed(table: DataFrame, side: str, parts: int, transposed: bool) -> DataFrame:
    """One row a part: (<side>_part int, <side> struct<ids in order, factors binary, modelled binary>)."""
    schema = T.StructType(
        [
            T.StructField("part", T.IntegerType()),
            T.StructField("ids", T.ArrayType(id_type(table, "id"))),
            T.StructField("factors", T.BinaryType()),
            T.StructField("modelled", T.BinaryType()),
        ]
    )
    modelled = (F.col("source") == MODEL).alias("modelled")
    placed = table.select(part_of(F.col("id"), parts).alias("part"), "id", "factors", modelled)
    packed = placed.repartitionById(parts, "part").mapInArrow(partial(_pack, transposed=transposed), schema)
    return packed.select(F.col("part").alias(f"{side}_part"), F.struct("ids", "factors", "modelled").alias(side))


def _pack(batches: Iterator[pa.RecordBatch], *, transposed: bool) -> Iterator[pa.RecordBatch]:
    """The rows of the parts of a partition, of each all ids."""
    held = list(batches)
    if not held:
        return
    table = pa.Table.from_batches(held).sort_by([("part", "ascending"), ("id", "ascending")]).combine_chunks()
    parts = table.column("part").to_numpy()
    cuts = np.flatnonzero(np.diff(parts, prepend=-1, append=-1))
    for first, last in pairwise(cuts):
        yield _packed_row(table.slice(first, last - first), transposed)


def _packed_row(part: pa.Table, transposed: bool) -> pa.RecordBatch:
    """The row of one part. `modelled` has a byte an id, 1 where its factors are the model's."""
    number, ids, factors, modelled = (_array(part, name) for name in ("part", "id", "factors", "modelled"))
    matrix = factor_matrix(factors)
    matrix = np.ascontiguousarray(matrix.T if transposed else matrix)
    flags = modelled.to_numpy(zero_copy_only=False).astype(np.uint8)
    columns = {
        "part": number.slice(0, 1),
        "ids": pa.ListArray.from_arrays(pa.array([0, len(ids)], pa.int32()), ids),
        "factors": pa.array([matrix.tobytes()], pa.binary()),
        "modelled": pa.array([flags.tobytes()], pa.binary()),
    }
    return pa.RecordBatch.from_pydict(columns)


def _array(table: pa.Table, name: str) -> pa.Array:
    chunks = table.column(name).combine_chunks()
    return chunks.chunk(0) if isinstance(chunks, pa.ChunkedArray) else chunks


def _pairs_type(user_type: T.DataType, item_type: T.DataType) -> T.StructType:
    return T.StructType(
        [T.StructField("users", T.ArrayType(user_type)), T.StructField("items", T.ArrayType(item_type))]
    )


def _excluded(pairs: DataFrame, user_parts: int, item_parts: int) -> DataFrame:
    """DataFrame(user_part, excluded map<item part, struct<users, items>>): a tile takes out its own pairs only."""
    cells = (
        pairs.groupBy(
            part_of(F.col("user"), user_parts).alias("user_part"), part_of(F.col("item"), item_parts).alias("item_part")
        )
        .agg(F.collect_list("user").alias("users"), F.collect_list("item").alias("items"))
        .select("user_part", F.struct("item_part", F.struct("users", "items")).alias("entry"))
    )
    return cells.groupBy("user_part").agg(F.map_from_entries(F.collect_list("entry")).alias("excluded"))


def _list_schema(user_type: T.DataType, item_type: T.DataType) -> T.StructType:
    return T.StructType(
        [
            T.StructField("user", user_type),
            T.StructField("rank", T.IntegerType()),
            T.StructField("item", item_type),
            T.StructField("score", T.DoubleType()),
            T.StructField("score_source", T.StringType()),
        ]
    )


def _score_tiles(batches: Iterator[pa.RecordBatch], *, k: int) -> Iterator[pa.RecordBatch]:
    prepare_worker()
    for batch in batches:
        for place in range(batch.num_rows):
            users, items, excluded = (batch.column(name)[place] for name in ("user", "item", "excluded"))
            yield _score_tile(users, items, excluded, k)


def _score_tile(users: pa.StructScalar, items: pa.StructScalar, excluded: pa.StructScalar, k: int) -> pa.RecordBatch:
    user_ids, item_ids = users["ids"].values, items["ids"].values
    P = np.frombuffer(users["factors"].as_buffer()).reshape(len(user_ids), -1)
    Qt = np.frombuffer(items["factors"].as_buffer()).reshape(-1, len(item_ids))
    taken = _local_csr(user_ids, item_ids, excluded) if excluded.is_valid else None
    positions, scores = top_k_tile(P, Qt, min(k, len(item_ids)), taken)
    row, rank = np.nonzero(positions >= 0)
    column = positions[row, rank]
    by_model = _flags(users)[row] & _flags(items)[column]
    return pa.RecordBatch.from_arrays(
        [
            user_ids.take(pa.array(row)),
            pa.array(rank.astype(np.int32) + np.int32(1)),
            item_ids.take(pa.array(column)),
            pa.array(scores[row, rank]),
            pa.array([BASELINE, MODEL]).take(pa.array(by_model)),
        ],
        names=["user", "rank", "item", "score", "score_source"],
    )


def _flags(side: pa.StructScalar) -> Any:
    return np.frombuffer(side["modelled"].as_buffer(), np.uint8)


def _local_csr(user_ids: pa.Array, item_ids: pa.Array, excluded: pa.StructScalar) -> Exclusions:
    """Excluded pairs as ascending positions in the tile; ids the tile does not hold and repetitions fall away."""
    rows = pc.fill_null(pc.index_in(excluded["users"].values, user_ids), -1).to_numpy().astype(np.int64)
    columns = pc.fill_null(pc.index_in(excluded["items"].values, item_ids), -1).to_numpy().astype(np.int64)
    known = (rows >= 0) & (columns >= 0)
    cells = np.unique(rows[known] * len(item_ids) + columns[known])
    counts = np.bincount(cells // len(item_ids), minlength=len(user_ids))
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64), (cells % len(item_ids)).astype(np.int32)


def _merged(lists: DataFrame, k: int) -> DataFrame:
    order = Window.partitionBy("user").orderBy(F.col("score").desc(), F.col("item").asc())
    ranked = lists.withColumn("rank", F.row_number().over(order)).where(F.col("rank") <= k)
    return ranked.select("user", "rank", "item", "score", "score_source")
