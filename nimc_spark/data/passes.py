"""One pass over records of parts and blocks: the same code in one process and in every Spark task.

Conventions
    Record       one stored part or block; `lane` −1 is for item parts, which come before every lane that uses them
    order        records of a task are sorted by (lane, kind, item_part, chunk): item parts, then whole lanes
    Request      a statistic at a set of parameters; a pass answers a list of them
    LaneSums     what a lane gives for one request, with the pieces it has seen
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from enum import IntEnum
from itertools import groupby
from typing import NamedTuple

from nimc_spark.data.threads import one_blas_thread
from nimc_spark.kernels.features import Part
from nimc_spark.kernels.model import Model, Parameters
from nimc_spark.kernels.ratings import RatingBlock
from nimc_spark.kernels.statistics import Lane, Sides, Statistic, Sums, merge_in_order

ITEM_LANE = -1


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
    lane: int
    request: int
    pieces: tuple[BlockId, ...]
    sums: Sums


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


def merged(results: Iterable[LaneSums], requests: int) -> list[Sums]:
    """One sum per request, lanes merged in lane order whatever order they arrived in."""
    ordered = sorted(results, key=lambda r: (r.request, r.lane))
    return [merge_in_order([r.sums for r in ordered if r.request == index]) for index in range(requests)]
