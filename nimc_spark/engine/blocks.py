"""Ω and the features of both sides → the records that every pass reads.

Ω is cut on a grid of user parts × item parts. A part stores its feature rows once; a block holds the ratings of one
cell as local CSR. A user part and its blocks are a lane. The grid follows from the data's size and `GridLimits` alone,
never from the cluster, so that the sums of a pass have the same bits wherever they run.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import pairwise
from math import ceil
from typing import Any, NamedTuple
from uuid import uuid4

import numpy as np
import pyarrow as pa
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from nimc_spark.data.codec import encode_block, encode_part
from nimc_spark.data.passes import ITEM_LANE, BlockId, Kind, user_piece
from nimc_spark.engine.context import batches_by_rows, described, held, persisted, task_slots, without_history
from nimc_spark.engine.grouped import apply_grouped
from nimc_spark.engine.history import HistoryData, Weights, history_lists, stacked_histories
from nimc_spark.engine.index import index_ids
from nimc_spark.engine.profile import RatingsProfile
from nimc_spark.engine.store import forget
from nimc_spark.engine.vectors import Csr, Numbers, csr_of_vectors, matrix_of_lists, without_null_lists
from nimc_spark.kernels.features import DenseGroup, Group, Index, Part, SparseGroup
from nimc_spark.kernels.model import SideName
from nimc_spark.kernels.ratings import RatingBlock

RECORD_SCHEMA = "lane int, kind int, item_part int, chunk int, payload binary"
# Above this share of nonzeros a dense matrix product beats the sparse one.
DENSE_SHARE = 0.25
# An index of so many ids has some tens of megabytes.
_BROADCAST_IDS = 500_000
_UNLIMITED = 2**62
# Of one entry: its index and its number, float64 at most.
_HISTORY_BYTES = 12


@dataclass(frozen=True)
class GridLimits:
    """What decides the grid: ratings a lane and a block row hold, and rows (users or items) and bytes of a part.

    One row of a DataFrame stays well below the 64 MB it may have (a block has 8 bytes a rating). An item part has about
    `items_per_tile` items, whose scores and sums a core's own cache holds, unless a user's ratings in it would be fewer
    than `ratings_per_run` on average (decision 025).
    """

    ratings_per_lane: int = 500_000
    ratings_per_chunk: int = 4_000_000
    rows_per_part: int = 131_072
    bytes_per_part: int = 32 << 20
    items_per_tile: int = 4096
    ratings_per_run: int = 2

    def rows(self, width: int, dtype: str) -> int:
        """Rows of a part of `width` dense columns that stay within both limits."""
        return max(1, min(self.rows_per_part, self.bytes_per_part // max(1, width * np.dtype(dtype).itemsize)))

    def tiles(self, profile: RatingsProfile) -> int:
        """Item parts for the sake of the cache."""
        runs = profile.count // (self.ratings_per_run * max(1, profile.users))
        return min(ceil(profile.items / self.items_per_tile), runs)

    @property
    def without_tiles(self) -> GridLimits:
        """For passes that do more for each user and item of a block than for its ratings, as those with matrices."""
        return replace(self, items_per_tile=_UNLIMITED)


@dataclass(frozen=True)
class SideData:
    """One side's input: features DataFrame(id, features vector) or None, of `width` columns; ids as features or not.

    vectors is DataFrame(id, vector array<double>) or None, of `vectors_width` columns between features and ids; offsets
    is DataFrame(id, offset double) or None; `constant` is added to every offset of the side. `unrated` is DataFrame(id)
    of ids that belong to the side without a rating, as the items of a complement do; None for none. The histories, each
    as wide as the other side has ids, are the last columns.
    """

    features: DataFrame | None = None
    width: int = 0
    uses_id: bool = False
    offsets: DataFrame | None = None
    constant: float = 0.0
    unrated: DataFrame | None = None
    vectors: DataFrame | None = None
    vectors_width: int = 0
    history: HistoryData | None = None

    @property
    def declared_width(self) -> int:
        """Columns before those of the ids."""
        return self.width + self.vectors_width

    @property
    def histories(self) -> tuple[Weights, ...]:
        return () if self.history is None else self.history.weights

    def columns(self, own: int, others: int) -> int:
        """All columns of a side of `own` ids, the other side having `others`."""
        return self.declared_width + own * int(self.uses_id) + others * len(self.histories)


@dataclass(frozen=True)
class IndexedSide:
    """The ids of a side: DataFrame(id, part, position, index), kept by Spark, and the rows of each part."""

    index: DataFrame
    sizes: tuple[int, ...]

    @property
    def count(self) -> int:
        return sum(self.sizes)


@dataclass
class Records:
    """Records in the order in which tasks read them, and their names in the same partitions, both kept by Spark.

    `dataset` is a name that no other records have; `have_files` once a pass has left their payloads beside its tasks.
    """

    whole: DataFrame
    names: DataFrame
    dataset: str = field(init=False, default_factory=lambda: uuid4().hex)
    have_files: bool = field(init=False, default=False)

    @staticmethod
    @contextmanager
    def held(placed: DataFrame) -> Iterator[Records]:
        """The placed records, until the end."""
        with persisted(placed) as records, persisted(records.drop("payload")) as names:
            held = Records(without_history(records), without_history(names))
            try:
                yield held
            finally:
                held.remove_files()

    def remove_files(self) -> None:
        """Where tasks can be sent: what they do not reach goes with its executor."""
        if self.have_files:
            self.have_files = False
            # Whatever stopped the passes, such as a lost cluster, is what the caller should hear of.
            with suppress(Exception), described(self.names.sparkSession, "nimc: remove files of blocks"):
                self.names.mapInArrow(partial(_forget, dataset=self.dataset), "nothing int").toArrow()


def _forget(batches: Iterable[pa.RecordBatch], *, dataset: str) -> Iterator[pa.RecordBatch]:
    for _ in batches:
        yield from ()
    forget(dataset)


@dataclass(frozen=True)
class RecordSet:
    """The records of whole lanes, and the lanes and blocks among them."""

    records: Records
    lanes: frozenset[int]
    blocks: frozenset[BlockId]

    @property
    def pieces(self) -> frozenset[BlockId]:
        """What a pass has to return: every block, and every user part."""
        return self.blocks | {user_piece(lane) for lane in self.lanes}


@dataclass(frozen=True)
class BlockSet(RecordSet):
    """The records of Ω, kept by Spark until `close`; |Ω|; and the index of each side."""

    count: int
    sides: Mapping[SideName, IndexedSide]
    kept: ExitStack

    def close(self) -> None:
        """Free what Spark keeps."""
        self.kept.close()


@dataclass(frozen=True)
class Columns:
    """What gives the columns of ids and histories their meaning: the training ids, and ratings for histories."""

    sides: Mapping[SideName, IndexedSide]
    ratings: DataFrame


class Grid(NamedTuple):
    """The most parts that users (lanes) and items are cut into; ids placed by hash may leave one empty."""

    user_parts: int
    item_parts: int


class Cells(NamedTuple):
    """The shape of Ω on its grid: lanes × item parts × rows (users) of a lane × places (items) of an item part, both of
    the largest. A rating travels under one number, that of its cell in this order (C order)."""

    lanes: int
    item_parts: int
    rows: int
    places: int

    @property
    def of_lane(self) -> int:
        return self.item_parts * self.rows * self.places

    def number(self, lane: Column, item_part: Column, row: Column, place: Column) -> Column:
        first = lane.cast("long") * self.item_parts + item_part
        return (first * self.rows + row) * self.places + place


def grid(profile: RatingsProfile, data: Mapping[SideName, SideData], dtype: str, limits: GridLimits) -> Grid:
    """It follows from the data's sizes and the limits alone."""
    ids = {SideName.USERS: profile.users, SideName.ITEMS: profile.items}
    parts = {}
    for side, own in data.items():
        rows = limits.rows(own.declared_width, dtype)
        parts[side] = max(ceil(ids[side] / rows), _history_parts(profile, own, limits))
    lanes = ceil(profile.count / limits.ratings_per_lane)
    return Grid(max(lanes, parts[SideName.USERS]), max(limits.tiles(profile), parts[SideName.ITEMS]))


def build_blocks(
    ratings: DataFrame,
    profile: RatingsProfile,
    data: Mapping[SideName, SideData],
    dtype: str,
    limits: GridLimits,
    columns: Columns | None = None,
) -> BlockSet:
    """Records of ratings(user, item, rating[, weight][, offset]) without nulls, in any order; `profile` is theirs.

    They are in columns of their own, as training wants it, or in `columns` of an earlier set, as validation does: there
    an id that is none of its ids has zeros.
    """
    user_parts, item_parts = grid(profile, data, dtype, limits)
    spark = ratings.sparkSession
    # No batch is too large: a rating has a few numbers, and the rows of a part are within `limits` all together.
    with described(spark, "nimc: build rating blocks"), batches_by_rows(spark), ExitStack() as kept:
        users = kept.enter_context(_indexed(_ids(ratings, "user", data[SideName.USERS]), user_parts))
        items = kept.enter_context(_indexed(_ids(ratings, "item", data[SideName.ITEMS]), item_parts))
        sides = {SideName.USERS: users, SideName.ITEMS: items}
        seen = columns or Columns(sides, ratings)
        records = kept.enter_context(Records.held(_placed_records(ratings, sides, data, seen, dtype, limits)))
        found = records.names.where(F.col("kind") == int(Kind.BLOCK)).select("lane", "item_part", "chunk").collect()
        blocks = frozenset(BlockId(*row) for row in found)
        # Nothing failed: what Spark keeps lives as long as the block set.
        return BlockSet(records, frozenset(range(len(users.sizes))), blocks, profile.count, sides, kept.pop_all())


def _placed_records(
    ratings: DataFrame,
    sides: Mapping[SideName, IndexedSide],
    data: Mapping[SideName, SideData],
    columns: Columns,
    dtype: str,
    limits: GridLimits,
) -> DataFrame:
    """All records in the partitions and in the order in which tasks read them."""
    users, items = sides[SideName.USERS], sides[SideName.ITEMS]
    user_parts, item_parts = (_parts(sides[side], columns, data[side], side, dtype) for side in SideName)
    slots, at_home = placement(len(users.sizes), ratings.sparkSession)
    # Every partition has the item parts.
    everywhere = F.explode(F.sequence(F.lit(0), F.lit(slots - 1)).cast("array<int>"))
    lanes = user_parts.unionByName(_blocks(ratings, users, items, dtype, limits)).withColumn("slot", at_home)
    return (
        lanes.unionByName(item_parts.withColumn("slot", everywhere))
        .repartitionById(slots, "slot")
        .sortWithinPartitions("lane", "kind", "item_part", "chunk")
        .drop("slot")
    )


def placement(lanes: int, spark: SparkSession) -> tuple[int, Column]:
    """How many partitions so many lanes get, and that of `lane`: whole lanes, neighbours together."""
    slots = min(lanes, task_slots(spark))
    return slots, F.floor(F.col("lane") * slots / lanes).cast("int")


def _history_parts(profile: RatingsProfile, data: SideData, limits: GridLimits) -> int:
    """Parts that the histories of a side, an index and a number for each rating, need to stay within the limit."""
    return ceil(profile.count * len(data.histories) * _HISTORY_BYTES / limits.bytes_per_part)


def _ids(ratings: DataFrame, column: str, data: SideData) -> DataFrame:
    ids = ratings.select(F.col(column).alias("id"))
    return (ids if data.unrated is None else ids.unionByName(data.unrated)).distinct()


@contextmanager
def _indexed(ids: DataFrame, parts: int) -> Iterator[IndexedSide]:
    """The index of the ids, each there once, in at most `parts` parts."""
    with held(index_ids(ids, "id", parts)) as placed:
        counts: dict[int, int] = dict(placed.groupBy("part").count().collect())
        # A part that placement left empty would be a lane without users: number those that have any, in order.
        present = sorted(counts)
        sizes = tuple(int(counts[p]) for p in present)
        number = F.array_position(F.array(*(F.lit(p) for p in present)), F.col("part")).cast("int")
        start = F.element_at(F.array(*(F.lit(s) for s in _starts(sizes))), number)
        index = placed.select("id", (number - 1).alias("part"), "position", (start + F.col("position")).alias("index"))
        yield IndexedSide(index, sizes)


def _starts(sizes: Sequence[int]) -> list[int]:
    return [int(s) for s in np.cumsum([0, *sizes[:-1]])]


def _parts(indexed: IndexedSide, columns: Columns, data: SideData, side: SideName, dtype: str) -> DataFrame:
    rows = side_rows(indexed, columns, data, side)
    return apply_grouped(
        rows.groupBy("part"), _build_part, RECORD_SCHEMA, side=side, encoding=encoding(columns, data, side, dtype)
    )


def side_rows(indexed: IndexedSide, columns: Columns, data: SideData, side: SideName) -> DataFrame:
    """DataFrame(part, position, index, offset[, features][, vector][, history]) of the ids of a side, no list null;
    `index` is that of the columns, null for an id that they do not have."""
    known, others = columns.sides[side], columns.sides[side.other]
    rows = indexed.index
    if known is not indexed:
        rows = rows.drop("index").join(known.index.select("id", "index"), "id", "left")
    if data.offsets is None:
        rows = rows.withColumn("offset", F.lit(data.constant))
    else:
        offsets = data.offsets.select("id", (F.col("offset") + data.constant).alias("offset"))
        rows = rows.join(offsets, "id", "left").fillna({"offset": data.constant})
    if data.features is not None:
        rows = rows.join(data.features.select("id", "features"), "id", "left")
    if data.vectors is not None:
        rows = rows.join(data.vectors.select("id", "vector"), "id", "left")
    if data.history is not None:
        rows = rows.join(_histories(columns.ratings, side, others, data.history), "id", "left")
    return without_null_lists(rows.drop("id"))


def _histories(ratings: DataFrame, side: SideName, others: IndexedSide, history: HistoryData) -> DataFrame:
    known = others.index.select("id", "index")
    if history.biases is not None:
        known = known.join(history.biases.withColumnRenamed("offset", "bias"), "id", "left").fillna({"bias": 0.0})
    return history_lists(ratings, side, known, history.mean)


class Encoding(NamedTuple):
    """How the columns of `side_rows` become feature groups: widths of declared features and of vectors, ids and
    histories with the numbers of their columns."""

    width: int
    vectors_width: int
    ids: int
    histories: Sequence[Weights]
    others: int
    dtype: str


def encoding(columns: Columns, data: SideData, side: SideName, dtype: str) -> Encoding:
    ids = columns.sides[side].count if data.uses_id else 0
    return Encoding(data.width, data.vectors_width, ids, data.histories, columns.sides[side.other].count, dtype)


def part_of_table(table: pa.Table, encoding: Encoding) -> Part:
    """The part of rows of `side_rows`, in the order of the table."""
    width, vectors_width, ids, histories, others, dtype = encoding
    groups: list[Group] = []
    if width and "features" in table.column_names:
        groups.append(declared_group(csr_of_vectors(_array(table, "features")), width, dtype))
    if vectors_width:
        groups.append(DenseGroup(width, matrix_of_lists(_array(table, "vector"), vectors_width).astype(dtype)))
    if ids:
        groups.append(sparse_group(csr_of_ids(_array(table, "index"), width + vectors_width), dtype))
    if histories:
        lists = stacked_histories(_array(table, "history"), histories, width + vectors_width + ids, others)
        groups += [sparse_group(csr, dtype) for csr in lists]
    return Part(table.column("offset").to_numpy().astype(np.float64), tuple(groups))


def _build_part(table: pa.Table, *, side: SideName, encoding: Encoding) -> pa.Table:
    part = part_of_table(table.sort_by("position").combine_chunks(), encoding)
    number = table.column("part")[0].as_py()
    if side is SideName.USERS:
        return lane_record(number, part)
    return _records([(ITEM_LANE, Kind.ITEM_PART, number, 0, encode_part(part))])


def lane_record(number: int, part: Part) -> pa.Table:
    """The user part of a lane."""
    return _records([(number, Kind.USER_PART, 0, 0, encode_part(part))])


def declared_group(csr: Csr, width: int, dtype: str) -> Group:
    """The declared features of a part's rows: dense where many entries are nonzero, else over touched columns."""
    if len(csr.data) > DENSE_SHARE * csr.rows * width:
        values = np.zeros((csr.rows, width), dtype)
        values[np.repeat(np.arange(csr.rows), np.diff(csr.indptr)), csr.indices] = csr.data
        return DenseGroup(0, values)
    return sparse_group(csr, dtype)


def sparse_group(csr: Csr, dtype: str) -> SparseGroup:
    columns, places = np.unique(csr.indices, return_inverse=True)
    return SparseGroup(
        columns.astype(np.int64), csr.indptr.astype(np.int32), places.astype(np.int32), csr.data.astype(dtype)
    )


def csr_of_ids(index: pa.Array, start: int) -> Csr:
    """The one-hot ids of rows with these places, null for none, from column `start` on."""
    known = index.is_valid().to_numpy(zero_copy_only=False)
    places = index.drop_null().to_numpy().astype(np.int32)
    return Csr(np.concatenate([[0], np.cumsum(known)]), start + places, np.ones(len(places)))


def _blocks(ratings: DataFrame, users: IndexedSide, items: IndexedSide, dtype: str, limits: GridLimits) -> DataFrame:
    user, item = _small(users).index.alias("u"), _small(items).index.alias("i")
    shape = Cells(len(users.sizes), len(items.sizes), max(users.sizes), max(items.sizes))
    cells = (
        ratings.alias("r")
        .join(user, F.col("r.user") == F.col("u.id"))
        .join(item, F.col("r.item") == F.col("i.id"))
        .select(
            shape.number(F.col("u.part"), F.col("i.part"), F.col("u.position"), F.col("i.position")).alias("cell"),
            *(f"r.{name}" for name in ratings.columns if name not in ("user", "item")),
        )
    )
    # A partition a lane: Python sorts what it gets, so that Spark need not.
    lane = F.call_function("div", F.col("cell"), F.lit(shape.of_lane)).cast("int")
    build = partial(_build_lanes, shape=shape, sizes=users.sizes, dtype=dtype, chunk=limits.ratings_per_chunk)
    return cells.repartitionById(shape.lanes, lane).mapInArrow(build, RECORD_SCHEMA)


def _small(side: IndexedSide) -> IndexedSide:
    """The side, sent to every executor in a join where that is less than to deal out all ratings by its ids."""
    return replace(side, index=F.broadcast(side.index)) if side.count <= _BROADCAST_IDS else side


def _build_lanes(
    batches: Iterable[pa.RecordBatch], *, shape: Cells, sizes: Sequence[int], dtype: str, chunk: int
) -> Iterator[pa.RecordBatch]:
    """The blocks of the lanes that a partition has whole; lane l has sizes[l] users."""
    held = list(batches)
    if held:
        table = pa.Table.from_batches(held)
        cell: Index = table.column("cell").to_numpy()
        values = {n: _floats(table, n, dtype) for n in ("rating", "weight", "offset") if n in table.column_names}
        order = _total_order(cell, list(values.values()))
        cell, values = cell[order], {name: own[order] for name, own in values.items()}
        lanes = cell // shape.of_lane
        for first, last in pairwise(np.flatnonzero(np.diff(lanes, prepend=-1, append=-1))):
            own = {name: of[first:last] for name, of in values.items()}
            number = int(lanes[first])
            yield from _build_lane(number, cell[first:last], own, shape, sizes[number], chunk).to_batches()


def _build_lane(lane: int, cell: Index, values: Mapping[str, Numbers], shape: Cells, rows: int, chunk: int) -> pa.Table:
    _, item_part, row, place = np.unravel_index(cell, shape)
    place = place.astype(np.int32)
    records = []
    for first, last in pairwise(np.flatnonzero(np.diff(item_part, prepend=-1, append=-1))):
        for number, start in enumerate(range(first, last, chunk)):
            cut = slice(start, min(start + chunk, last))
            pointer = np.searchsorted(row[cut], np.arange(rows + 1)).astype(np.int32)
            block = RatingBlock(pointer, place[cut], **{name: own[cut] for name, own in values.items()})
            records.append((lane, Kind.BLOCK, item_part[start], number, encode_block(block)))
    return _records(records)


def _total_order(cell: Index, values: Sequence[Numbers]) -> Index:
    """By cell, and repeated pairs by their values, whatever order a shuffle left them in."""
    order = np.argsort(cell)
    repeats = np.diff(cell[order], prepend=-1) == 0
    first, *others = values
    return np.lexsort((*others, first, cell)) if repeats.any() else order


def _floats(table: pa.Table, name: str, dtype: str) -> Numbers:
    values: Numbers = table.column(name).to_numpy()
    return values.astype(dtype)


def _array(table: pa.Table, name: str) -> pa.Array:
    column = table.column(name)
    return column.chunk(0) if column.num_chunks == 1 else pa.concat_arrays(column.chunks)


def _records(rows: Sequence[tuple[Any, ...]]) -> pa.Table:
    lane, kind, item_part, chunk, payload = zip(*rows, strict=True)
    int32 = pa.int32()
    return pa.table(
        {
            "lane": pa.array(lane, int32),
            "kind": pa.array([int(k) for k in kind], int32),
            "item_part": pa.array(item_part, int32),
            "chunk": pa.array(chunk, int32),
            "payload": pa.array(payload, pa.binary()),
        }
    )
