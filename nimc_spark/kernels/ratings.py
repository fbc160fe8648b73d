"""One block of ratings, and the middle of a pass over it: loss, E Q̂ and Eᵀ P̂.

    e_ij = w_ij (P̂_i · Q̂_j + offset_ij − a_ij)        loss = ½ Σ_Ω w_ij (P̂_i · Q̂_j + offset_ij − a_ij)²

With a complement weight β (`complement.py`) what Ω owes to the sum over all pairs is taken off here:
e_ij − β P̂_i · Q̂_j, and loss − ½ β Σ_Ω (P̂_i · Q̂_j)².

Sums are plain: the mean over |Ω| enters once, on the driver. Each user's P̂ row and each item's Q̂ row is computed once
a pass, never once a rating (math: evaluate by user and item), so a rating costs 2(k+2) multiply-adds here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array

from nimc_spark.kernels._numba import HAVE_NUMBA, REASSOCIATE, jit
from nimc_spark.kernels.features import Array, Index


@dataclass(frozen=True)
class RatingBlock:
    """Ratings of one (user part, item part) as CSR over the rows of the user part.

    row_pointer (n_users + 1,) int32 or int64, item (r,) int32 row in the item part, rating (r,) float32 or float64;
    weight and offset (r,) of the rating's dtype, or None where all weights are 1 or all offsets 0. A pair may repeat.
    """

    row_pointer: Index
    item: Index
    rating: Array
    weight: Array | None = None
    offset: Array | None = None

    @property
    def size(self) -> int:
        return len(self.rating)

    def users(self) -> Index:
        """(r,) row in the user part of each rating."""
        return np.repeat(np.arange(len(self.row_pointer) - 1), np.diff(self.row_pointer))

    def matrix(self, values: Array, items: int) -> csr_array:
        """(n_users, items) CSR with one value a rating; a repeated pair is there as often."""
        return csr_array((values, self.item, self.row_pointer), shape=(len(self.row_pointer) - 1, items))

    def target(self) -> Array:
        """(r,) rating − offset: what P̂ᵀQ̂ is fitted to."""
        return self.rating if self.offset is None else self.rating - self.offset


def middle(block: RatingBlock, p: Array, q: Array, beta: float = 0.0) -> tuple[float, Array, Array]:
    """loss (a float64 sum), E Q̂ (n_users, k+2) and Eᵀ P̂ (n_items, k+2) in the dtype of `p` and `q`."""
    return (_middle_numba if HAVE_NUMBA else middle_numpy)(block, p, q, beta)


def middle_numpy(block: RatingBlock, p: Array, q: Array, beta: float = 0.0) -> tuple[float, Array, Array]:
    """The numpy twin of the compiled loop: the same sums, in another order within a block."""
    score = inner_products(block, p, q)
    error = score - block.target()
    weighted = error if block.weight is None else error * block.weight
    loss = np.dot(weighted.astype(np.float64), error.astype(np.float64))
    loss -= beta * np.dot(score.astype(np.float64), score.astype(np.float64))
    e = block.matrix(weighted - p.dtype.type(beta) * score, len(q))
    return 0.5 * float(loss), e @ q, e.T @ p


def weighted_errors(block: RatingBlock, p: Array, q: Array, beta: float = 0.0) -> Array:
    """(r,) w (P̂_i · Q̂_j − target) − β P̂_i · Q̂_j of each rating."""
    score = inner_products(block, p, q)
    error = score - block.target()
    return (error if block.weight is None else error * block.weight) - p.dtype.type(beta) * score


class Tangent(NamedTuple):
    """Scores P̂ (n, k+2) of one side and their change dP̂ (n, k+2) along a direction."""

    scores: Array
    change: Array


def tangent_middle(
    block: RatingBlock, users: Tangent, items: Tangent, beta: float, exact: bool
) -> tuple[Array, Array, Array, Array]:
    """E Q̂, Eᵀ P̂, and their change along a direction: dE Q̂ + E dQ̂ and dEᵀ P̂ + Eᵀ dP̂, (n, k+2) each.

        dE_ij = (w_ij − β) (dP̂_i · Q̂_j + P̂_i · dQ̂_j)

    Without `exact` (Gauss-Newton) the terms with E are zero. Source: math of the Hessian, Appendix C of the NIMC paper.
    """
    return (_tangent_numba if HAVE_NUMBA else tangent_numpy)(block, users, items, beta, exact)


def tangent_numpy(
    block: RatingBlock, users: Tangent, items: Tangent, beta: float, exact: bool
) -> tuple[Array, Array, Array, Array]:
    """The numpy twin of the compiled loop."""
    (p, dp), (q, dq) = users, items
    ds = inner_products(block, dp, q) + inner_products(block, p, dq)
    w = p.dtype.type(1) if block.weight is None else block.weight
    de = block.matrix((w - p.dtype.type(beta)) * ds, len(q))
    if not exact:
        return np.zeros_like(p), np.zeros_like(q), de @ q, de.T @ p
    e = block.matrix(weighted_errors(block, p, q, beta), len(q))
    return e @ q, e.T @ p, de @ q + e @ dq, de.T @ p + e.T @ dp


def inner_products(block: RatingBlock, p: Array, q: Array) -> Array:
    """(r,) P̂_i · Q̂_j of each rating of the block, summed in column order."""
    users = block.users()
    total = np.zeros(block.size, p.dtype)
    for column in range(p.shape[1]):
        total += p[users, column] * q[block.item, column]
    return total


def _middle_numba(block: RatingBlock, p: Array, q: Array, beta: float) -> tuple[float, Array, Array]:
    eq, ep = np.zeros_like(p), np.zeros_like(q)
    loss = _fused(block.row_pointer, block.item, block.target(), _weight(block), p.dtype.type(beta), p, q, eq, ep)
    return loss, eq, ep


def _tangent_numba(
    block: RatingBlock, users: Tangent, items: Tangent, beta: float, exact: bool
) -> tuple[Array, Array, Array, Array]:
    (p, dp), (q, dq) = users, items
    eq, ep, heq, hep = np.zeros_like(p), np.zeros_like(q), np.zeros_like(p), np.zeros_like(q)
    ratings = (block.row_pointer, block.item, block.target(), _weight(block))
    _tangent_fused(*ratings, p.dtype.type(beta), exact, p, dp, q, dq, eq, ep, heq, hep)
    return eq, ep, heq, hep


def _weight(block: RatingBlock) -> Array:
    """The weights, or an empty array where all are 1."""
    return np.empty(0, block.rating.dtype) if block.weight is None else block.weight


@jit(fastmath=REASSOCIATE)
def _fused(
    row_pointer: Index, item: Index, target: Array, weight: Array, beta: Any, p: Array, q: Array, eq: Array, ep: Array
) -> float:
    columns = p.shape[1]
    weighted = len(weight) > 0
    loss = 0.0
    for i in range(len(row_pointer) - 1):
        for t in range(row_pointer[i], row_pointer[i + 1]):
            j = item[t]
            error = -target[t]
            for c in range(columns):
                error += p[i, c] * q[j, c]
            e = error * weight[t] if weighted else error
            loss += np.float64(e) * np.float64(error)
            if beta != 0:
                score = error + target[t]
                e -= beta * score
                loss -= np.float64(beta) * np.float64(score) * np.float64(score)
            for c in range(columns):
                eq[i, c] += e * q[j, c]
                ep[j, c] += e * p[i, c]
    return 0.5 * loss


@jit(fastmath=REASSOCIATE)
def _tangent_fused(
    row_pointer: Index,
    item: Index,
    target: Array,
    weight: Array,
    beta: Any,
    exact: bool,
    p: Array,
    dp: Array,
    q: Array,
    dq: Array,
    eq: Array,
    ep: Array,
    heq: Array,
    hep: Array,
) -> None:
    columns = p.shape[1]
    weighted = len(weight) > 0
    for i in range(len(row_pointer) - 1):
        for t in range(row_pointer[i], row_pointer[i + 1]):
            j = item[t]
            score = p.dtype.type(0)
            change = p.dtype.type(0)
            for c in range(columns):
                score += p[i, c] * q[j, c]
                change += dp[i, c] * q[j, c] + p[i, c] * dq[j, c]
            w = weight[t] if weighted else p.dtype.type(1)
            de = (w - beta) * change
            for c in range(columns):
                heq[i, c] += de * q[j, c]
                hep[j, c] += de * p[i, c]
            if exact:
                e = w * (score - target[t]) - beta * score
                for c in range(columns):
                    eq[i, c] += e * q[j, c]
                    ep[j, c] += e * p[i, c]
                    heq[i, c] += e * dq[j, c]
                    hep[j, c] += e * dp[i, c]


def rating_weights(block: RatingBlock) -> npt.NDArray[np.float64]:
    """(r,) w in float64, ones where the block stores none."""
    return np.ones(block.size) if block.weight is None else block.weight.astype(np.float64)
