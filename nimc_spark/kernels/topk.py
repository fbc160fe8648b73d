"""Exact top-K of one tile of scores, and the one dot product every score of this package is.

    s_ij = ((0 + p_i1 q_j1) + p_i2 q_j2) + … + p_ic q_jc

Multiplications and additions are rounded one by one in column order, never fused and never reordered, so that a score
has the same bits from the compiled loop, from numpy and from SQL, whatever the tiling.

Candidates are found by matrix products in float32, t ≈ s, whose order of sums nobody knows. Whatever it is,

    |t_ij − s_ij| ≤ b_i = (c + 2) 2⁻²³ ‖p_i‖ max_j ‖q_j‖       (twice the usual bound, with room for float64's rounding)

so that with σ_i the k-th best score of user i so far, what displaces it has t ≥ σ_i − b_i. Only that gets a score.

Items are taken some at a time, those first that can have the largest scores. With the means p̄ and q̄ of users and items,

    s_ij = p_i·q̄ + p_i·(q_j − q̄) ≤ p_i·q̄ + p̄·(q_j − q̄) + ‖p_i − p̄‖ ‖q_j − q̄‖

and a user whose σ_i is above the largest such bound of all items that are left is done: they are not multiplied at all.

Conventions
-----------
factors   P (n, c) float64 C-order, one row a user
columns   Qt (c, m) float64 C-order, one column an item: the inner loop runs along contiguous items
excluded  CSR over (n, m): indptr (n + 1) int64, indices int32 ascending and unique within a row
order     score descending, then position ascending
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from nimc_spark.kernels._numba import HAVE_NUMBA, jit

Floats: TypeAlias = NDArray[np.float64]
Exclusions: TypeAlias = tuple[NDArray[np.int64], NDArray[np.int32]]

# Items scored at once: a stripe of 8 KB stays in the first-level cache, its rows of Qt in the second.
STRIPE = 1024
# Products held at once, 4 bytes each, and items that they are of.
_PRODUCTS = 1 << 21
_STEP = 512
# So many of them are looked at in one go.
_SCAN = 64
# Users are told apart by so many distances from their mean.
_LEVELS = 16
# Beyond this, sums of products in float32 may overflow.
_FLOAT32_LARGE = 1e37
# Scores the numpy twin holds at once (8 bytes each).
TWIN_SCORES = 1 << 22


def dot_columns(P: Floats, Q: Floats) -> Floats:
    """Scores of n pairs: s_i = Σ_c P_ic Q_ic in column order. P and Q (n, c), result (n,)."""
    scores = np.zeros(P.shape[0])
    for column in range(P.shape[1]):
        scores += P[:, column] * Q[:, column]
    return scores


def top_k_tile(P: Floats, Qt: Floats, k: int, excluded: Exclusions | None = None) -> tuple[NDArray[np.int32], Floats]:
    """The k best items of every user of a tile, excluded pairs left out before the k are taken.

    Returns positions (n, k) int32, padded with -1, and scores (n, k) float64, padded with NaN.
    A score that is not finite is no candidate.
    """
    n = P.shape[0]
    indptr, indices = excluded or (np.zeros(n + 1, dtype=np.int64), np.empty(0, dtype=np.int32))
    positions = np.full((n, k), -1, dtype=np.int32)
    scores = np.full((n, k), np.nan)
    if k > 0:
        P, Qt = np.ascontiguousarray(P), np.ascontiguousarray(Qt)
        fill = fill_numpy if not HAVE_NUMBA else _fill_by_product if _fits_float32(P, Qt) else _fill_compiled
        fill(P, Qt, indptr, indices, positions, scores)
    return positions, scores


def _fits_float32(P: Floats, Qt: Floats) -> bool:
    """Whether no product of a row and a column, nor a part of one, leaves the range of float32."""
    widest = _largest(P) * _largest(Qt) * P.shape[1]
    return bool(max(_largest(P), _largest(Qt), widest) < _FLOAT32_LARGE)


def _largest(values: Floats) -> float:
    return float(np.abs(values).max(initial=0.0))


def _fill_by_product(
    P: Floats,
    Qt: Floats,
    indptr: NDArray[np.int64],
    indices: NDArray[np.int32],
    positions: NDArray[np.int32],
    scores: Floats,
) -> None:
    """The same as `fill_numpy`, candidates first; as many users at a time as keep their products in the cache."""
    (n, k), m = positions.shape, Qt.shape[1]
    if n == 0 or m == 0:
        return
    order, most, slack = _by_most(P, Qt)
    Q = np.ascontiguousarray(Qt.T)
    P32, Qt32 = P.astype(np.float32), Qt[:, order].astype(np.float32)
    counts = np.zeros(n, np.int64)
    rows = max(1, _PRODUCTS // _STEP)
    for first in range(0, n, rows):
        users = np.arange(first, min(first + rows, n))
        for number, start in enumerate(range(0, m, _STEP)):
            cut = slice(start, start + _STEP)
            users = users[~((counts[users] == k) & (scores[users, 0] > most[users, number]))]
            if users.size == 0:
                break
            products = P32[users] @ Qt32[:, cut]
            _select(products, users, order[cut], slack, P, Q, indptr, indices, counts, positions, scores)
    _sort_heaps(positions, scores, counts)


def _by_most(P: Floats, Qt: Floats) -> tuple[NDArray[np.int64], Floats, Floats]:
    """The order in which items are taken; for each user and each `_STEP` of them a score that nothing from there on is
    above; and by how much a product in float32 may be below a score."""
    width = P.shape[1] + 2
    centre, middle = P.mean(axis=0), Qt.mean(axis=1)
    others = Qt - middle[:, None]
    shared, spread = centre @ others, np.sqrt((others * others).sum(axis=0))
    norms, apart = (np.sqrt((own * own).sum(axis=1)) for own in (P, P - centre))
    longest = np.sqrt((Qt * Qt).sum(axis=0)).max()
    levels = np.quantile(apart, np.arange(1, _LEVELS + 1) / _LEVELS, method="higher")
    order = np.argsort(-(shared + levels[_LEVELS // 2] * spread), kind="stable")
    bounds = shared[order] + levels[:, None] * spread[order]
    tiles = np.maximum.reduceat(bounds, np.arange(0, bounds.shape[1], _STEP), axis=1)
    beyond = np.maximum.accumulate(tiles[:, ::-1], axis=1)[:, ::-1]
    # Below the least normal number float32 rounds to multiples of 2⁻¹⁴⁹.
    slack = width * 2.0**-23 * norms * longest + width * 2.0**-148
    # Far more than float64 has rounded on the way to here.
    rounding = width * 2.0**-46 * (norms + np.sqrt(centre @ centre)) * longest
    most = (P @ middle)[:, None] + beyond[np.searchsorted(levels, apart)] + (slack + rounding)[:, None]
    return order, most, slack


def fill_numpy(
    P: Floats,
    Qt: Floats,
    indptr: NDArray[np.int64],
    indices: NDArray[np.int32],
    positions: NDArray[np.int32],
    scores: Floats,
) -> None:
    """The numpy twin of the compiled loop: same arguments, same bits; fills positions and scores (n, k)."""
    n, m, k = P.shape[0], Qt.shape[1], positions.shape[1]
    rows = max(1, TWIN_SCORES // max(m, 1))
    for start in range(0, n, rows):
        stop = min(start + rows, n)
        tile = np.zeros((stop - start, m))
        for column in range(P.shape[1]):
            tile += P[start:stop, column, None] * Qt[column]
        owner = np.repeat(np.arange(stop - start), np.diff(indptr[start : stop + 1]))
        tile[owner, indices[indptr[start] : indptr[stop]]] = np.nan
        tile[~np.isfinite(tile)] = -np.inf
        best = np.argsort(-tile, axis=1, kind="stable")[:, :k]
        kept = np.take_along_axis(tile, best, axis=1)
        found = kept > -np.inf
        positions[start:stop, : best.shape[1]] = np.where(found, best, -1)
        scores[start:stop, : best.shape[1]] = np.where(found, kept, np.nan)


@jit()
def _score_stripe(row: Any, Qt: Any, start: int, stop: int, stripe: Any) -> None:
    """stripe[j] = s(row, start + j); four columns a sweep, still added one after the other."""
    width = row.shape[0]
    count = stop - start
    for j in range(count):
        stripe[j] = 0.0
    paired = width - width % 4
    for c in range(0, paired, 4):
        p0, p1, p2, p3 = row[c], row[c + 1], row[c + 2], row[c + 3]
        q0, q1 = Qt[c, start:stop], Qt[c + 1, start:stop]
        q2, q3 = Qt[c + 2, start:stop], Qt[c + 3, start:stop]
        for j in range(count):
            stripe[j] = (((stripe[j] + p0 * q0[j]) + p1 * q1[j]) + p2 * q2[j]) + p3 * q3[j]
    for c in range(paired, width):
        p0 = row[c]
        q0 = Qt[c, start:stop]
        for j in range(count):
            stripe[j] += p0 * q0[j]


@jit()
def _sink(positions: Any, scores: Any, size: int, score: float, position: int) -> None:
    """Put (score, position) in place of the heap's root, its worst entry, and restore the heap of `size` entries."""
    hole = 0
    while True:
        child = 2 * hole + 1
        if child >= size:
            break
        other = child + 1
        if other < size and (
            scores[other] < scores[child] or (scores[other] == scores[child] and positions[other] > positions[child])
        ):
            child = other
        if scores[child] > score or (scores[child] == score and positions[child] < position):
            break
        scores[hole], positions[hole] = scores[child], positions[child]
        hole = child
    scores[hole], positions[hole] = score, position


@jit()
def _rise(positions: Any, scores: Any, hole: int, score: float, position: int) -> None:
    """Append (score, position) at index `hole` of the heap; worse entries rise to the root."""
    while hole > 0:
        parent = (hole - 1) // 2
        if scores[parent] < score or (scores[parent] == score and positions[parent] > position):
            break
        scores[hole], positions[hole] = scores[parent], positions[parent]
        hole = parent
    scores[hole], positions[hole] = score, position


@jit()
def _holds(values: Any, start: int, stop: int, wanted: int) -> bool:
    """Whether `wanted` is among the ascending values[start:stop]."""
    low, high = start, stop
    while low < high:
        middle = (low + high) // 2
        if values[middle] < wanted:
            low = middle + 1
        else:
            high = middle
    return bool(low < stop and values[low] == wanted)


@jit()
def _select(
    products: Any,
    users: Any,
    items: Any,
    slack: Any,
    P: Any,
    Q: Any,
    indptr: Any,
    indices: Any,
    counts: Any,
    positions: Any,
    scores: Any,
) -> None:
    """Takes the candidates among products (users, items) into the users' heaps of `counts` entries, by their scores."""
    m, width, k = products.shape[1], P.shape[1], positions.shape[1]
    for r in range(products.shape[0]):
        row, i = products[r], users[r]
        threshold = _threshold(scores[i, 0], slack[i]) if counts[i] == k else np.float32(-np.inf)
        for start in range(0, m, _SCAN):
            stop = min(start + _SCAN, m)
            # Few runs hold a candidate: to see that takes a loop without branches.
            hits = 0
            for j in range(start, stop):
                hits += row[j] >= threshold
            if hits == 0:
                continue
            for j in range(start, stop):
                if row[j] < threshold or _holds(indices, indptr[i], indptr[i + 1], items[j]):
                    continue
                score = 0.0
                for c in range(width):
                    score += P[i, c] * Q[items[j], c]
                if not np.isfinite(score):
                    continue
                if counts[i] < k:
                    _rise(positions[i], scores[i], counts[i], score, items[j])
                    counts[i] += 1
                elif score > scores[i, 0] or (score == scores[i, 0] and items[j] < positions[i, 0]):
                    _sink(positions[i], scores[i], k, score, items[j])
                else:
                    continue
                if counts[i] == k:
                    threshold = _threshold(scores[i, 0], slack[i])


@jit()
def _threshold(worst: float, slack: float) -> Any:
    """Below `worst` − `slack` by more than rounding to float32 can raise it."""
    return np.float32(worst - slack - abs(worst - slack) * 2.0**-22)


@jit()
def _sort_heaps(positions: Any, scores: Any, counts: Any) -> None:
    for i in range(counts.shape[0]):
        _sort_heap(positions[i], scores[i], counts[i])


@jit()
def _sort_heap(positions: Any, scores: Any, size: int) -> None:
    """The heap's entries from the best on: the worst goes to the end, again and again."""
    for last in range(size - 1, 0, -1):
        score, position = scores[last], positions[last]
        scores[last], positions[last] = scores[0], positions[0]
        _sink(positions, scores, last, score, position)


@jit()
def _fill_compiled(P: Any, Qt: Any, indptr: Any, indices: Any, positions: Any, scores: Any) -> None:
    """Stripe by stripe over the items, one heap of k entries a user, every score in float64; for factors so large that
    float32 cannot hold their products."""
    n, m, k = P.shape[0], Qt.shape[1], positions.shape[1]
    filled = np.zeros(n, np.int64)
    cursor = indptr[:-1].copy()
    stripe = np.empty(STRIPE)
    for start in range(0, m, STRIPE):
        stop = min(start + STRIPE, m)
        for i in range(n):
            _score_stripe(P[i], Qt, start, stop, stripe)
            while cursor[i] < indptr[i + 1] and indices[cursor[i]] < stop:
                stripe[indices[cursor[i]] - start] = np.nan
                cursor[i] += 1
            j = 0
            while j < stop - start and filled[i] < k:
                if np.isfinite(stripe[j]):
                    _rise(positions[i], scores[i], filled[i], stripe[j], start + j)
                    filled[i] += 1
                j += 1
            # Positions ascend, so an equal score never displaces: strictly greater is the whole test.
            while j < stop - start:
                if stripe[j] > scores[i, 0] and np.isfinite(stripe[j]):
                    _sink(positions[i], scores[i], k, stripe[j], start + j)
                j += 1
    _sort_heaps(positions, scores, filled)
