"""Exact top-K of one tile of scores, and the one dot product every score of this package is.

    s_ij = ((0 + p_i1 q_j1) + p_i2 q_j2) + … + p_ic q_jc

Multiplications and additions are rounded one by one in column order, never fused and never reordered, so that a score
has the same bits from the compiled loop, from numpy and from SQL, whatever the tiling.

Candidates are found by a matrix product in float32, t ≈ s, whose order of sums nobody knows. Whatever it is,

    |t_ij − s_ij| ≤ b_i = (c + 2) 2⁻²³ ‖p_i‖ max_j ‖q_j‖       (twice the usual bound, with room for float64's rounding)

so that with τ_i the k-th largest t of user i, each of the k best items has t ≥ τ_i − 2 b_i. Those alone get a score.

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
# Products held at once, 4 bytes each.
_PRODUCTS = 1 << 21
# So many of them are looked at in one go.
_SCAN = 64
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
    """The same as `fill_numpy`, candidates first; some users at a time, so that their products stay in the cache."""
    n, width, m = P.shape[0], P.shape[1], Qt.shape[1]
    Q, P32, Qt32 = np.ascontiguousarray(Qt.T), P.astype(np.float32), Qt.astype(np.float32)
    norms = np.sqrt((P * P).sum(axis=1)), np.sqrt((Q * Q).sum(axis=1)).max(initial=0.0)
    # Below the least normal number float32 rounds to multiples of 2⁻¹⁴⁹.
    slack = 2 * ((width + 2) * 2.0**-23 * norms[0] * norms[1] + (width + 2) * 2.0**-148)
    rows = max(1, _PRODUCTS // max(m, 1))
    for first in range(0, n, rows):
        cut = slice(first, min(first + rows, n))
        products = P32[cut] @ Qt32
        _select(products, slack[cut], P[cut], Q, indptr[first:], indices, positions[cut], scores[cut])


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
def _select(products: Any, slack: Any, P: Any, Q: Any, indptr: Any, indices: Any, positions: Any, scores: Any) -> None:
    """Of each row of products the candidates, and of these the k best by their scores."""
    m, width, k = products.shape[1], P.shape[1], positions.shape[1]
    candidates = np.empty(m, np.int32)
    best, places = np.empty(k), np.zeros(k, np.int32)
    for i in range(products.shape[0]):
        row = products[i]
        for e in range(indptr[i], indptr[i + 1]):
            row[indices[e]] = -np.inf
        count, filled, threshold = 0, 0, np.float32(-np.inf)
        for start in range(0, m, _SCAN):
            stop = min(start + _SCAN, m)
            # Few runs hold a candidate: to see that takes a loop without branches.
            hits = 0
            for j in range(start, stop):
                hits += row[j] >= threshold
            if hits == 0:
                continue
            for j in range(start, stop):
                value = row[j]
                if value >= threshold and value > -np.inf:
                    candidates[count] = j
                    count += 1
                    if filled < k:
                        _rise(places, best, filled, value, j)
                        filled += 1
                    elif value > best[0]:
                        _sink(places, best, k, value, j)
                    if filled == k:
                        # Lower by more than rounding to float32 can raise it.
                        threshold = np.float32(best[0] - slack[i] - abs(best[0] - slack[i]) * 2.0**-22)
        found = 0
        for e in range(count):
            j = candidates[e]
            if row[j] >= threshold:
                score = 0.0
                for c in range(width):
                    score += P[i, c] * Q[j, c]
                if not np.isfinite(score):
                    continue
                # Positions ascend, so an equal score never displaces.
                if found < k:
                    _rise(positions[i], scores[i], found, score, j)
                    found += 1
                elif score > scores[i, 0]:
                    _sink(positions[i], scores[i], k, score, j)
        _sort_heap(positions[i], scores[i], found)


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
    for i in range(n):
        _sort_heap(positions[i], scores[i], filled[i])
