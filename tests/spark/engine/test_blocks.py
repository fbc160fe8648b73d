"""Blocks hold exactly the ratings, parts exactly the entities, on a grid that the limits alone decide."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from pyspark.sql import SparkSession

from nimc_spark.data.passes import ITEM_LANE, Kind, Record
from nimc_spark.engine.blocks import BlockSet, GridLimits, SideData, grid
from nimc_spark.engine.profile import RatingsProfile
from nimc_spark.engine.spark_oracle import decode_record
from nimc_spark.kernels.features import DenseGroup, Part, SparseGroup
from nimc_spark.kernels.model import SideName
from nimc_spark.kernels.ratings import RatingBlock
from tests.spark.engine.oracle_problem import (
    DENSE_WIDTH,
    ITEMS,
    LIMITS,
    SPARSE_WIDTH,
    USERS,
    RatingProblem,
    persisted,
)


@pytest.fixture(scope="module")
def records(blocks: BlockSet) -> list[Record]:
    return [decode_record(*row) for row in blocks.records.whole.collect()]


@pytest.fixture(scope="module")
def ids(blocks: BlockSet) -> dict[SideName, dict[tuple[int, int], object]]:
    """Ids by (part, position)."""
    return {s: {(r.part, r.position): r.id for r in blocks.sides[s].index.collect()} for s in SideName}


@pytest.mark.parametrize(
    ("ratings", "items", "limits", "item_parts"),
    [
        (10_000_000, 4096, GridLimits(), 1),
        (10_000_000, 20_000, GridLimits(), 5),
        (10_000_000, 20_000, GridLimits().without_tiles, 1),
        (500_000, 20_000, GridLimits(), 2),
        (100_000, 20_000, GridLimits(), 1),
        (100_000, 1_000_000, GridLimits(), 8),
    ],
)
def test_items_are_cut_for_the_cache_where_users_have_the_ratings(
    ratings: int, items: int, limits: GridLimits, item_parts: int
) -> None:
    profile = RatingsProfile(ratings, 100_000, items, 1.0, 5.0)
    ids_alone = {side: SideData(uses_id=True) for side in SideName}
    assert grid(profile, ids_alone, "float32", limits) == (max(1, ratings // limits.ratings_per_lane), item_parts)


def parts(records: list[Record], kind: Kind) -> dict[int, Part]:
    """Parts by number; copies of an item part in several partitions count once."""
    number = {Kind.USER_PART: lambda r: r.lane, Kind.ITEM_PART: lambda r: r.item_part}[kind]
    return {number(r): r.payload for r in records if r.kind == kind and isinstance(r.payload, Part)}


def test_blocks_hold_the_ratings_and_nothing_else(
    problem: RatingProblem, blocks: BlockSet, records: list[Record], ids: dict
) -> None:
    found: Counter = Counter()
    names = set()
    for lane, kind, item_part, chunk, block in records:
        if kind != Kind.BLOCK:
            continue
        assert isinstance(block, RatingBlock)
        assert block.size <= LIMITS.ratings_per_chunk
        names.add((lane, item_part, chunk))
        users = [ids[SideName.USERS][lane, int(row)] for row in block.users()]
        items = [ids[SideName.ITEMS][item_part, int(row)] for row in block.item]
        found.update(zip(users, items, *(v.tolist() for v in (block.rating, block.weight, block.offset)), strict=True))
    assert found == Counter(problem.rows)
    assert names == blocks.blocks
    assert blocks.count == len(problem.rows)


def test_parts_hold_every_rated_entity_once(blocks: BlockSet, records: list[Record], ids: dict) -> None:
    for side, kind, count in ((SideName.USERS, Kind.USER_PART, USERS), (SideName.ITEMS, Kind.ITEM_PART, ITEMS)):
        indexed = blocks.sides[side]
        assert indexed.count == count == len(set(ids[side].values()))
        assert {number: part.rows for number, part in parts(records, kind).items()} == dict(enumerate(indexed.sizes))
        assert sorted(ids[side]) == [(p, i) for p, size in enumerate(indexed.sizes) for i in range(size)]
        index = [row["index"] for row in indexed.index.orderBy("part", "position").collect()]
        assert index == list(range(count))
    user_parts = [r.lane for r in records if r.kind == Kind.USER_PART]
    assert sorted(user_parts) == sorted(blocks.lanes)
    assert {r.lane for r in records if r.kind == Kind.ITEM_PART} == {ITEM_LANE}


def test_features_and_offsets_stand_in_their_rows(problem: RatingProblem, records: list[Record], ids: dict) -> None:
    users, items = parts(records, Kind.USER_PART), parts(records, Kind.ITEM_PART)
    for (number, row), user in ids[SideName.USERS].items():
        part = users[number]
        dense, one_hot = part.groups
        assert isinstance(dense, DenseGroup)
        np.testing.assert_array_equal(dense.values[row], problem.user_vectors.get(user, np.zeros(DENSE_WIDTH)))
        assert isinstance(one_hot, SparseGroup)
        index = sum(users[n].rows for n in range(number)) + row
        assert one_hot.columns[one_hot.indices[one_hot.indptr[row]]] == DENSE_WIDTH + index
        assert part.offset[row] == 3.0 + (0.25 * user if user % 2 == 0 else 0.0)
    for (number, row), item in ids[SideName.ITEMS].items():
        part = items[number]
        vector = part.groups[0].times(np.eye(SPARSE_WIDTH + ITEMS))[row, :SPARSE_WIDTH]
        np.testing.assert_array_equal(vector, problem.item_vectors.get(item, np.zeros(SPARSE_WIDTH)))
        assert part.offset[row] == 0.0
    assert any(isinstance(part.groups[0], SparseGroup) for part in items.values())


def test_input_partitions_change_no_byte_and_close_frees_what_was_kept(
    spark: SparkSession, problem: RatingProblem, blocks: BlockSet
) -> None:
    before = persisted(spark)
    other = problem.blocks(partitions=8)
    assert persisted(spark) == before + 4
    mine, others = ({(*row[:4], bytes(row[4])) for row in b.records.whole.collect()} for b in (blocks, other))
    assert mine == others
    other.close()
    assert persisted(spark) == before
