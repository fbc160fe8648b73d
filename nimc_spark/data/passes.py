"""One pass over records of parts and blocks: the same code in one process and in every Spark task.

Conventions
    Record       one stored part or block; `lane` −1 is for item parts, which come before every lane that uses them
    order        records of a task are sorted by (lane, kind, item_part, chunk): item parts, then whole lanes
    Request      a statistic at a set of parameters; a pass answers a list of them
    LaneSums     what a lane, or some neighbours, give for one request, with the pieces seen

Lanes are merged in a binary tree of fixed shape: a node of level l with number i has the lanes from i 2^l up to
(i + 1) 2^l, and is the sum of its halves; where the right half has no lane, it is its left half. A task merges what it
holds whole, the driver the rest, so that few sums travel, and their bits do not depend on who has merged them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from enum import IntEnum
from functools import reduce
from itertools import groupby
from typing import NamedTuple

import numpy as np

from nimc_spark.data.threads import one_blas_thread
from nimc_spark.kernels.features import Part, Rows, add_rows, rows_apart
from nimc_spark.kernels.model import Model, Parameters
from nimc_spark.kernels.ratings import RatingBlock
from nimc_spark.kernels.statistics import Lane, Sides, Statistic, Sums, merge, rows_of

ITEM_LANE = -1
# Of the tree: no more than 2³¹ lanes.
_LEVELS = 31


class Kind(IntEnum):
    ITEM_PART = 0
    USER_PART = 1
    BLOCK = 2


class BlockId(NamedTuple):
    """A piece of a lane: a block of the grid by its lane (= user part), item part, and chunk where one cell holds too
    many ratings; or the user part itself, `user_piece`."""

    lane: int
    item_part: int
    chunk: int


def user_piece(lane: int) -> BlockId:
    """The name of a lane's user part among the pieces that a pass has to return."""
    return BlockId(lane, -1, 0)


class RecordName(NamedTuple):
    """What tells a record from the others of its data set; records of a task come in this order."""

    lane: int
    kind: int
    item_part: int
    chunk: int


class Record(NamedTuple):
    lane: int
    kind: int
    item_part: int
    chunk: int
    payload: Part | RatingBlock


class Request(NamedTuple):
    statistic: Statistic
    parameters: Parameters


class LaneSums(NamedTuple):
    """`lane` is the first of the lanes of a node of the tree, a lane alone has level 0."""

    lane: int
    request: int
    pieces: tuple[BlockId, ...]
    sums: Sums
    level: int = 0

    def goes_before(self, other: LaneSums) -> bool:
        """Whether both are the halves of a node, this one the left."""
        left, right = self.lane >> self.level, other.lane >> other.level
        return (self.request, self.level) == (other.request, other.level) and left % 2 == 0 and right == left + 1

    def plus(self, right: LaneSums) -> LaneSums:
        """The node whose left half this is."""
        pieces = self.pieces + right.pieces
        return LaneSums(self.lane, self.request, pieces, merge(self.sums, right.sums), self.level + 1)


def lane_sums(records: Iterable[Record], model: Model, requests: Sequence[Request]) -> Iterator[LaneSums]:
    """The sums of every whole lane among the records, for each request, in lane order."""
    item_parts: dict[int, Part] = {}
    sides = [Sides(model, request.parameters) for request in requests]
    for number, group in groupby(records, key=lambda record: record.lane):
        if number == ITEM_LANE:
            item_parts = {r.item_part: r.payload for r in group if isinstance(r.payload, Part)}
            continue
        lane, pieces = _assemble(number, group, item_parts)
        for index, (request, side) in enumerate(zip(requests, sides, strict=True)):
            with one_blas_thread():
                sums = request.statistic.of(lane, side)
            yield LaneSums(number, index, pieces, sums)


def _assemble(number: int, group: Iterable[Record], item_parts: dict[int, Part]) -> tuple[Lane, tuple[BlockId, ...]]:
    users: Part | None = None
    blocks: list[tuple[int, Part, RatingBlock]] = []
    names: list[BlockId] = []
    for record in group:
        if isinstance(record.payload, Part):
            users = record.payload
            names.append(user_piece(number))
        else:
            blocks.append((record.item_part, item_parts[record.item_part], record.payload))
            names.append(BlockId(number, record.item_part, record.chunk))
    if users is None:
        raise ValueError(f"lane {number} came without its user part")
    return Lane(users, tuple(blocks), tuple(item_parts.items())), tuple(names)


def joined(results: Iterable[LaneSums]) -> list[LaneSums]:
    """Results in the order of their lanes, halves merged as soon as both are there: what is left are few nodes."""
    waiting: dict[int, list[LaneSums]] = {}
    for result in results:
        nodes = waiting.setdefault(result.request, [])
        node = result
        while nodes and nodes[-1].goes_before(node):
            node = nodes.pop().plus(node)
        nodes.append(node)
    return [node for nodes in waiting.values() for node in nodes]


def merged(results: Iterable[LaneSums], requests: int) -> list[Sums]:
    """One sum per request of all lanes, whatever order they arrived in, and merged as far as they may be."""
    ordered = sorted(results, key=lambda r: (r.request, r.lane))
    return [root([r for r in ordered if r.request == index]).sums for index in range(requests)]


def root(nodes: Sequence[LaneSums]) -> LaneSums:
    """The sum of a request's neighbouring nodes in order; where a right half has no lane the left one rises alone."""
    apart, nodes = _set_apart(joined(nodes))
    for level in range(_LEVELS):
        if len(nodes) == 1:
            break
        nodes = joined(node._replace(level=level + 1) if node.level == level else node for node in nodes)
    # More than one is left where a lane came twice, which is no result anyway: its pieces tell.
    whole = reduce(LaneSums.plus, nodes)
    sums: Sums = {name: add_rows([rows_of(whole.sums, name), rows]) for name, rows in apart.items()}
    return whole._replace(sums={**whole.sums, **sums})


def _set_apart(nodes: Sequence[LaneSums]) -> tuple[dict[str, Rows], list[LaneSums]]:
    """Rows that are in one node alone, by the names of their sums, and the nodes without them.

    Nothing is added to them, and merging would copy them at each level of the tree.
    """
    apart: dict[str, Rows] = {}
    left: list[Sums] = [dict(node.sums) for node in nodes]
    for name, first in nodes[0].sums.items():
        if not isinstance(first, Rows) or len(nodes) == 1:
            continue
        every = [rows_of(node.sums, name) for node in nodes]
        if not all(np.array_equal(first.indices, rows.indices) for rows in every):
            apart[name], shared = rows_apart(every)
            for sums, rows in zip(left, shared, strict=True):
                sums[name] = rows
    return apart, [node._replace(sums=sums) for node, sums in zip(nodes, left, strict=True)]
