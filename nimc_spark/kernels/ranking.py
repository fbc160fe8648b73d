"""NDCG of users' lists as a statistic of a pass: what a search over settings judges models that rank by."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_array

from nimc_spark.kernels.features import Index
from nimc_spark.kernels.ratings import rating_weights
from nimc_spark.kernels.statistics import Lane, Sides, Sums
from nimc_spark.kernels.topk import top_k_tile


@dataclass(frozen=True)
class ListGains:
    """gains (2,) = [Σ_i NDCG@k of user i, number of users i], over users with a relevant item.

        DCG = Σ_{r ≤ k: the item at rank r is relevant} 1/log₂(r + 1)       NDCG@k = DCG / its largest value

    A list is the k best of all items of the lane, but for those known before: pairs whose rating has weight 0. A rating
    above 0 of positive weight makes its item relevant.
    """

    k: int

    def of(self, lane: Lane, sides: Sides) -> Sums:
        scores = {number: sides.items(number, part).scores for number, part in lane.items}
        first = dict(zip(scores, np.cumsum([0, *(len(q) for q in scores.values())]), strict=False))
        shape = lane.users.rows, sum(map(len, scores.values()))
        relevant, known = (_pairs(lane, first, shape, of_weight) for of_weight in (True, False))
        count = np.diff(relevant.indptr)
        asked = np.flatnonzero(count)
        if not len(asked):
            return {"gains": np.zeros(2)}
        P = sides.users(lane.users).scores[asked].astype(np.float64)
        Qt = np.ascontiguousarray(np.vstack(list(scores.values())).T, dtype=np.float64)
        left_out = known[asked]
        best, _ = top_k_tile(P, Qt, self.k, (left_out.indptr.astype(np.int64), left_out.indices.astype(np.int32)))
        discount = 1 / np.log2(np.arange(self.k) + 2)
        hits = _contains(relevant[asked], best)
        possible = np.cumsum(discount)[np.minimum(count[asked], self.k) - 1]
        return {"gains": np.array([float((hits @ discount / possible).sum()), float(len(asked))])}


def _pairs(lane: Lane, first: dict[int, int], shape: tuple[int, int], weighted: bool) -> csr_array:
    """(users, items) of a lane: the pairs rated above 0 with a weight, or the pairs without one; indices ascend."""
    rows: list[Index] = [np.empty(0, np.int64)]
    columns: list[Index] = [np.empty(0, np.int64)]
    for number, _, block in lane.blocks:
        w = rating_weights(block)
        chosen = (w > 0) & (block.rating > 0) if weighted else w == 0
        rows.append(block.users()[chosen])
        columns.append(block.item[chosen] + np.int64(first[number]))
    row, column = np.concatenate(rows), np.concatenate(columns)
    pairs = csr_array((np.ones(len(row), np.int32), (row, column)), shape=shape)
    pairs.sum_duplicates()
    return pairs


def _contains(pairs: csr_array, best: np.ndarray) -> np.ndarray:
    """(n, k) 1 where item best_ir is a pair of row i; places of −1 hold none."""
    keys = np.repeat(np.arange(pairs.shape[0]), np.diff(pairs.indptr)) * pairs.shape[1] + pairs.indices
    asked = np.arange(len(best))[:, None] * pairs.shape[1] + best
    return (np.isin(asked, keys) & (best >= 0)).astype(np.float64)
