"""One block of ratings, and the middle of a pass over it: loss, E Q̂ and Eᵀ P̂.

    e_ij = w_ij (P̂_i · Q̂_j + offset_ij − a_ij)        loss = ½ Σ_Ω w_ij (P̂_i · Q̂_j + offset_ij − a_ij)²

Sums are plain: the mean over |Ω| enters once, on the driver. Each user's P̂ row and each item's Q̂ row is computed once
a pass, never once a rating (math: evaluate by user and item), so a rating costs 2(k+2) multiply-adds here.
"""

from __future__ import annotations

from dataclasses import dataclass

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

    def target(self) -> Array:
        """(r,) rating − offset: what P̂ᵀQ̂ is fitted to."""
        return self.rating if self.offset is None else self.rating - self.offset


def middle(block: RatingBlock, p: Array, q: Array) -> tuple[float, Array, Array]:
    """loss (a float64 sum), E Q̂ (n_users, k+2) and Eᵀ P̂ (n_items, k+2) in the dtype of `p` and `q`."""
    return (_middle_numba if HAVE_NUMBA else middle_numpy)(block, p, q)


def middle_numpy(block: RatingBlock, p: Array, q: Array) -> tuple[float, Array, Array]:
    """The numpy twin of the compiled loop: the same sums, in another order within a block."""
    error = inner_products(block, p, q) - block.target()
    weighted = error if block.weight is None else error * block.weight
    loss = 0.5 * float(np.dot(weighted.astype(np.float64), error.astype(np.float64)))
    e = csr_array((weighted, block.item, block.row_pointer), shape=(len(p), len(q)))
    return loss, e @ q, e.T @ p


def inner_products(block: RatingBlock, p: Array, q: Array) -> Array:
    """(r,) P̂_i · Q̂_j of each rating of the block, summed in column order."""
    users = block.users()
    total = np.zeros(block.size, p.dtype)
    for column in range(p.shape[1]):
        total += p[users, column] * q[block.item, column]
    return total


def _middle_numba(block: RatingBlock, p: Array, q: Array) -> tuple[float, Array, Array]:
    eq, ep = np.zeros_like(p), np.zeros_like(q)
    none = np.empty(0, p.dtype)
    weight = none if block.weight is None else block.weight
    loss = _fused(block.row_pointer, block.item, block.target(), weight, p, q, eq, ep)
    return loss, eq, ep


@jit(fastmath=REASSOCIATE)
def _fused(
    row_pointer: Index, item: Index, target: Array, weight: Array, p: Array, q: Array, eq: Array, ep: Array
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
            for c in range(columns):
                eq[i, c] += e * q[j, c]
                ep[j, c] += e * p[i, c]
    return 0.5 * loss


def rating_weights(block: RatingBlock) -> npt.NDArray[np.float64]:
    """(r,) w in float64, ones where the block stores none."""
    return np.ones(block.size) if block.weight is None else block.weight.astype(np.float64)
