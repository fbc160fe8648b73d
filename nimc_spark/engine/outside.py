"""Where the items' features are evaluated: in the blocks, or once a pass outside of them (`data/outside.py`).

In the blocks every task reads the item parts and every lane runs back over them. Item histories have an entry a rating,
so that a pass over L lanes would cost L·|Ω| entries and every partition would hold |Ω| of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from enum import Enum
from functools import partial
from math import ceil

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from nimc_spark.data.codec import decode_part
from nimc_spark.data.oracle import PassOracle
from nimc_spark.data.outside import OutsideItems, entries, transposed, with_row_numbers
from nimc_spark.engine.blocks import (
    RECORD_SCHEMA,
    BlockSet,
    Columns,
    Encoding,
    GridLimits,
    IndexedSide,
    Records,
    RecordSet,
    SideData,
    encoding,
    lane_record,
    part_of_table,
    placement,
    side_rows,
)
from nimc_spark.engine.context import described
from nimc_spark.engine.grouped import apply_grouped
from nimc_spark.engine.passes_at import PassesAt, collected, oracle_of
from nimc_spark.engine.profile import RatingsProfile
from nimc_spark.kernels.features import Entries
from nimc_spark.kernels.model import SideName

# Up to here the driver holds Y and Yᵀ, 12 bytes an entry each in float32, and two more jobs a pass cost more than its
# own products (docs/adr/013-items-outside.md).
DRIVER_ENTRIES = 10_000_000


class ItemsAt(Enum):
    """Where the items' features are evaluated."""

    BLOCKS = "in the blocks"
    DRIVER = "outside the blocks, on the driver"
    JOBS = "outside the blocks, in jobs of their own"


def items_at(profile: RatingsProfile, data: Mapping[SideName, SideData], limits: GridLimits) -> ItemsAt:
    """It follows from the sizes of the data alone, as all that decides in which order sums are added."""
    count = _history_entries(profile, data)
    if count <= limits.ratings_per_lane:
        return ItemsAt.BLOCKS
    return ItemsAt.DRIVER if count <= DRIVER_ENTRIES else ItemsAt.JOBS


def _history_entries(profile: RatingsProfile, data: Mapping[SideName, SideData]) -> int:
    return profile.count * len(data[SideName.ITEMS].histories)


def sides_in_blocks(at: ItemsAt, data: Mapping[SideName, SideData]) -> dict[SideName, SideData]:
    """The sides as the blocks have them: items evaluated outside have one-hot ids and their offsets there."""
    if at is ItemsAt.BLOCKS:
        return dict(data)
    items = data[SideName.ITEMS]
    ids = SideData(uses_id=True, offsets=items.offsets, constant=items.constant, unrated=items.unrated)
    return {**data, SideName.ITEMS: ids}


@contextmanager
def pass_oracle(
    at: ItemsAt,
    ratings: DataFrame,
    profile: RatingsProfile,
    blocks: BlockSet,
    data: Mapping[SideName, SideData],
    dtype: str,
    limits: GridLimits,
    passes: PassesAt,
) -> Iterator[PassOracle]:
    """Passes over the blocks that were built of `sides_in_blocks`, with the items' features of `data`."""
    inner = oracle_of(blocks, passes)
    if at is ItemsAt.BLOCKS:
        yield inner
        return
    count = blocks.sides[SideName.ITEMS].count
    lanes = ceil(_history_entries(profile, data) / limits.ratings_per_lane)
    with ExitStack() as kept:
        with described(ratings.sparkSession, "nimc: build the lanes of items"):
            items = kept.enter_context(_kept(_item_lanes(ratings, blocks, data, dtype, lanes), lanes))
            features = kept.enter_context(_kept(_feature_lanes(items.records.whole, dtype, lanes), lanes))
            if at is ItemsAt.DRIVER:
                outside = OutsideItems(inner, collected(items), collected(features), count)
                kept.close()
            else:
                spread = PassesAt.EXECUTORS
                outside = OutsideItems(inner, oracle_of(items, spread), oracle_of(features, spread), count)
        yield outside


def _item_lanes(
    ratings: DataFrame, blocks: BlockSet, data: Mapping[SideName, SideData], dtype: str, lanes: int
) -> DataFrame:
    """Y as the user parts of lanes: item j is in lane j mod `lanes`, so that the popular ones are spread."""
    items = blocks.sides[SideName.ITEMS]
    lanes = min(lanes, items.count)
    place = F.floor(F.col("index") / lanes).cast("int").alias("position")
    index = items.index.select("id", (F.col("index") % lanes).alias("part"), place, "index")
    spread = IndexedSide(index, tuple(len(range(lane, items.count, lanes)) for lane in range(lanes)))
    columns = Columns({**blocks.sides, SideName.ITEMS: spread}, ratings)
    rows = side_rows(spread, columns, data[SideName.ITEMS], SideName.ITEMS)
    bound = encoding(columns, data[SideName.ITEMS], SideName.ITEMS, dtype)
    return apply_grouped(rows.groupBy("part"), _build_item_lane, RECORD_SCHEMA, encoding=bound)


def _build_item_lane(table: pa.Table, *, encoding: Encoding) -> pa.Table:
    table = table.sort_by("position").combine_chunks()
    part = with_row_numbers(part_of_table(table, encoding), table.column("index").to_numpy())
    return lane_record(table.column("part")[0].as_py(), part)


def _feature_lanes(items: DataFrame, dtype: str, lanes: int) -> DataFrame:
    """Yᵀ as the user parts of lanes: feature r is in lane r mod `lanes`."""
    number = {"float32": "float", "float64": "double"}[dtype]
    found = items.mapInArrow(partial(_entries, lanes=lanes), f"lane int, row int, column int, value {number}")
    return apply_grouped(found.groupBy("lane"), _build_feature_lane, RECORD_SCHEMA)


def _entries(batches: Iterable[pa.RecordBatch], *, lanes: int) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        for payload in batch.column("payload"):
            row, column, value = entries(decode_part(payload.as_buffer()))
            lane, row, column = (numbers.astype(np.int32) for numbers in (column % lanes, row, column))
            yield pa.RecordBatch.from_pydict({"lane": lane, "row": row, "column": column, "value": value})


def _build_feature_lane(table: pa.Table) -> pa.Table:
    row, column, value = (table.column(name).to_numpy() for name in ("row", "column", "value"))
    return lane_record(table.column("lane")[0].as_py(), transposed(Entries(row, column, value)))


@contextmanager
def _kept(records: DataFrame, lanes: int) -> Iterator[RecordSet]:
    """The records, placed and kept by Spark until the end."""
    slots, at_home = placement(lanes, records.sparkSession)
    placed = records.withColumn("slot", at_home).repartitionById(slots, "slot").sortWithinPartitions("lane")
    with Records.held(placed.drop("slot")) as kept:
        yield RecordSet(kept, frozenset(row.lane for row in kept.names.select("lane").collect()), frozenset())
