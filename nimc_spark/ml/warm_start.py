"""A start from an earlier model, whose ids, feature columns and rank need not be those of the new one.

A row of parameters is matched by what it is of: a feature column by its group and name, an id by itself, a history's
row by its weights and the other side's id. Rows that the earlier model has not, units beyond its rank, and rows of
singular vectors of the ratings, which are others each time, stay as they were.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from nimc_spark.engine.blocks import IndexedSide
from nimc_spark.engine.features import FittedFeatures
from nimc_spark.errors import UsageError
from nimc_spark.kernels.model import Model, Parameters, SideName
from nimc_spark.ml.sides import TrainingSide

if TYPE_CHECKING:
    from nimc_spark.ml.training import Trained

Matrix = npt.NDArray[np.float64]
# Of a row: its segment, and what it is of there.
_COLUMN, _ID = "column", "id"


class _Segment(NamedTuple):
    """Rows of one kind, from `start` on: `keys` are what they are of."""

    kind: str
    start: int
    keys: pa.Array


def warm_start(
    start: Parameters,
    model: Model,
    sides: Mapping[SideName, TrainingSide],
    indexed: Mapping[SideName, IndexedSide],
    earlier: Trained,
) -> Parameters:
    """`start` with the earlier model's rows where there are any.

    Raises UsageError for an earlier model with another activation: its numbers mean something else.
    """
    for side in SideName:
        was, now = earlier.model.activation(side), model.activation(side)
        if was != now:
            raise UsageError(f"the model to start from has {was} for {side.value}, not {now}: give the same activation")
    ids = {
        side: own.index.select("id", "index").toArrow().sort_by("index").column("id") for side, own in indexed.items()
    }
    units = min(model.rank, earlier.model.rank)
    columns = [*range(units), *([-1] if model.linear and earlier.model.linear else [])]
    found = []
    for side in SideName:
        weights = start.side(side).copy()
        there, rows = {s.kind: s for s in _earlier(earlier, side)}, _earlier_rows(earlier, side)
        for segment in _segments(sides[side], ids[side], ids[side.other]):
            if segment.kind in there:
                new, old = _matched(segment, there[segment.kind])
                weights[np.ix_(new, columns)] = rows[np.ix_(old, columns)]
        found.append(weights)
    return Parameters(*found)


def _segments(side: TrainingSide, ids: pa.ChunkedArray, others: pa.ChunkedArray) -> Iterator[_Segment]:
    """The rows of a side that is to be trained, in the order of its layout."""
    yield _Segment(_COLUMN, 0, _column_names(side.features))
    place = side.data.declared_width
    if side.data.uses_id:
        yield _Segment(_ID, place, ids)
        place += len(ids)
    for weights in side.data.histories:
        yield _Segment(weights, place, others)
        place += len(others)


def _earlier(earlier: Trained, side: SideName) -> Iterator[_Segment]:
    """The same of the earlier model, over `_earlier_rows`."""
    own = earlier.sides[side]
    yield _Segment(_COLUMN, 0, _column_names(earlier.features[side]))
    place = len(own.declared)
    if own.ids.column("weights").null_count == 0:
        yield _Segment(_ID, place, own.ids.column("id"))
        place += own.ids.num_rows
    if own.history is not None:
        for weights in own.history.weights:
            yield _Segment(weights, place, earlier.sides[side.other].ids.column("id"))
            place += own.history.others


def _earlier_rows(earlier: Trained, side: SideName) -> Matrix:
    own, columns = earlier.sides[side], earlier.model.columns
    lists = own.ids.column("weights")
    by_id = np.zeros((0, columns))
    if lists.null_count == 0:
        by_id = lists.combine_chunks().flatten().to_numpy(zero_copy_only=False).reshape(-1, columns)
    history = np.zeros((0, columns)) if own.history is None else own.history.rows
    return np.vstack([own.declared, by_id, history])


def _column_names(features: FittedFeatures) -> pa.Array:
    """group, name, and a number where a name is there several times in its group."""
    names: list[str] = []
    for group in features.groups:
        seen: dict[str, int] = {}
        for name in group.columns:
            seen[name] = seen.get(name, 0) + 1
            names.append(f"{group.name}\0{name}\0{seen[name]}")
    return pa.array(names, pa.string())


def _matched(new: _Segment, old: _Segment) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Rows of both that are of the same; ids of another type than before match nothing."""
    if new.keys.type != old.keys.type:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    keys = new.keys.combine_chunks() if isinstance(new.keys, pa.ChunkedArray) else new.keys
    places = pc.index_in(keys, value_set=old.keys)
    rows = np.flatnonzero(places.is_valid().to_numpy(zero_copy_only=False))
    return new.start + rows, old.start + places.drop_null().to_numpy().astype(np.int64)
