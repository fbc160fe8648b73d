"""`LocalOracle`: the passes of a data set held in this process. The reference for every distributed result."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise, product

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array

from nimc_spark.data.oracle import PassOracle
from nimc_spark.data.passes import ITEM_LANE, Kind, LaneSums, Record, Request, lane_sums, merged
from nimc_spark.data.threads import one_blas_thread
from nimc_spark.kernels.features import Array, DenseGroup, Group, Index, Part, SparseGroup
from nimc_spark.kernels.model import Model
from nimc_spark.kernels.ratings import RatingBlock
from nimc_spark.kernels.statistics import Sums

Features = Sequence[Array | csr_array]


class LocalOracle(PassOracle):
    """Passes over records in memory, in one process, where BLAS has one thread.

    `records` may come in any order; they are the same parts and blocks that Spark tasks read. Lanes are dealt to up to
    `threads` threads, and several requests run beside each other: kernels, scipy's and numpy's products release the
    GIL. The bits are the same for any number of threads, since lanes are merged in their order.
    """

    def __init__(self, records: Iterable[Record], threads: int = 1) -> None:
        ordered = sorted(records, key=lambda r: r[:4])
        lanes = sorted({r.lane for r in ordered} - {ITEM_LANE})
        self._threads = threads
        self._shares = [
            [r for r in ordered if r.lane == ITEM_LANE or r.lane in mine]
            for mine in (set(lanes[first::threads]) for first in range(min(threads, len(lanes))))
        ]

    def answer(self, model: Model, requests: Sequence[Request]) -> list[Sums]:
        def of(work: tuple[list[Record], int]) -> list[LaneSums]:
            records, number = work
            return [found._replace(request=number) for found in lane_sums(records, model, [requests[number]])]

        work = list(product(self._shares, range(len(requests))))
        with one_blas_thread():
            if self._threads == 1 or len(work) == 1:
                found = [of(one) for one in work]
            else:
                with ThreadPoolExecutor(min(self._threads, len(work))) as pool:
                    found = list(pool.map(of, work))
        return merged([lane for lanes in found for lane in lanes], len(requests))


@dataclass(frozen=True)
class Observations:
    """Ω as arrays (r,): rows of the user and of the item, rating, and weight and offset where there are any."""

    user: Index
    item: Index
    rating: npt.NDArray[np.float64]
    weight: npt.NDArray[np.float64] | None = None
    offset: npt.NDArray[np.float64] | None = None

    def take(self, chosen: Index) -> Observations:
        optional = (None if v is None else v[chosen] for v in (self.weight, self.offset))
        return Observations(self.user[chosen], self.item[chosen], self.rating[chosen], *optional)


def records_of_arrays(
    users: Features, items: Features, observations: Observations, dtype: str, lanes: int = 1, item_parts: int = 1
) -> list[Record]:
    """The records of a problem given as arrays: each side's feature groups (n, w), dense or CSR, side by side.

    Users are cut into `lanes` runs and items into `item_parts` runs of neighbours.
    """
    user_cuts = np.linspace(0, users[0].shape[0], lanes + 1).astype(int)
    item_cuts = np.linspace(0, items[0].shape[0], item_parts + 1).astype(int)
    records = []
    for number, (first, last) in enumerate(pairwise(item_cuts)):
        records.append(Record(ITEM_LANE, Kind.ITEM_PART, number, 0, _part(items, first, last, dtype)))
    for lane, (first, last) in enumerate(pairwise(user_cuts)):
        records.append(Record(lane, Kind.USER_PART, 0, 0, _part(users, first, last, dtype)))
        for number, (low, high) in enumerate(pairwise(item_cuts)):
            user, item = observations.user, observations.item
            chosen = np.flatnonzero((user >= first) & (user < last) & (item >= low) & (item < high))
            if len(chosen):
                block = _block(observations.take(chosen), first, last, low, dtype)
                records.append(Record(lane, Kind.BLOCK, number, 0, block))
    return records


def _part(features: Features, first: int, last: int, dtype: str) -> Part:
    groups: list[Group] = []
    start = 0
    for matrix in features:
        rows = matrix[first:last]
        if isinstance(rows, np.ndarray):
            groups.append(DenseGroup(start, np.ascontiguousarray(rows, dtype)))
        else:
            columns, places = np.unique(rows.indices, return_inverse=True)
            groups.append(SparseGroup(start + columns, rows.indptr, places.astype(np.int32), rows.data.astype(dtype)))
        start += matrix.shape[1]
    return Part(np.zeros(last - first), tuple(groups))


def _block(o: Observations, first: int, last: int, low: int, dtype: str) -> RatingBlock:
    # A total order: repeated pairs come in the same order whatever the input's.
    given = [v for v in (o.weight, o.offset) if v is not None]
    o = o.take(np.lexsort((*given, o.rating, o.item, o.user)))
    pointer = np.searchsorted(o.user, np.arange(first, last + 1)).astype(np.int32)
    optional = (None if v is None else v.astype(dtype) for v in (o.weight, o.offset))
    return RatingBlock(pointer, (o.item - low).astype(np.int32), o.rating.astype(dtype), *optional)
