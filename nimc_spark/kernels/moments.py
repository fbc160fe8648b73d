"""Statistics of the tensor initializer: moments of features, and regressions of ratings on Hermite features.

    SideMoments     Σ w x, Σ w x xᵀ of the users, Σ w y, Σ w y yᵀ of the items: over ratings, not over distinct rows
    Regression      Σ w f fᵀ ⊗ g gᵀ and Σ w t f gᵀ, with f, g the Hermite features of both sides and t what is left of
                    the rating: minus its offsets, minus the prediction of earlier fits
    LogScales       ½ Σ w e², its gradient and JᵀJ by the logarithms of the columns' norms and by the linear terms

A sum over ratings weighs a user by its ratings, on both sides alike: items are shared by lanes, and the regressions sum
over ratings too. Everything about a feature is computed once a user and once an item; a rating costs one
multiply-add for each entry of f fᵀ or of g gᵀ, whichever is smaller.

Conventions
    HermiteMap   x (n, d) → orthonormal Hermite features (n, f) of z = (x − mean) · project, degree by degree
    packed       the symmetric g gᵀ as its m (m+1)/2 entries i ≤ j, row by row
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import combinations_with_replacement
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array

from nimc_spark.kernels.activations import activation
from nimc_spark.kernels.features import DenseGroup, Index, Part
from nimc_spark.kernels.model import SideName, Vector
from nimc_spark.kernels.ratings import RatingBlock, inner_products, rating_weights
from nimc_spark.kernels.statistics import Lane, Sides, Sums, merge, targets

Matrix = npt.NDArray[np.float64]

# Packed features held at once, 4 MB.
_CHUNK_ENTRIES = 1 << 19
# Ratings whose rows of the Jacobian are held at once.
_CHUNK_RATINGS = 1 << 15


@cache
def exponents(variables: int, degree: int) -> npt.NDArray[np.int64]:
    """(f, variables) the multi-indices α with |α| ≤ degree, by |α|, then by the sorted variables they repeat."""
    rows = []
    for order in range(degree + 1):
        for chosen in combinations_with_replacement(range(variables), order):
            rows.append(np.bincount(np.array(chosen, dtype=np.int64), minlength=variables))
    return np.array(rows, dtype=np.int64).reshape(len(rows), variables)


@cache
def root_factorials(variables: int, degree: int) -> Vector:
    """(f,) √(∏ α_i!) of each multi-index."""
    return np.array([math.sqrt(math.prod(math.factorial(a) for a in row)) for row in exponents(variables, degree)])


# Compared by identity: arrays have no single truth value.
@dataclass(frozen=True, eq=False)
class HermiteMap:
    """x ↦ h_α(z) = ∏_i He_{α_i}(z_i)/√(α_i!) for |α| ≤ degree, z = (x − mean) · project.

    mean (d,), project (d, m). Under z ~ N(0, I) the features are orthonormal; degree 1 gives [1, z].
    """

    mean: Vector
    project: Matrix
    degree: int

    @property
    def size(self) -> int:
        return math.comb(self.project.shape[1] + self.degree, self.degree)

    def of(self, x: Matrix) -> Matrix:
        """(n, f) the features of x (n, d)."""
        z = (x - self.mean) @ self.project
        powers = [np.ones_like(z), z]
        for order in range(1, self.degree):
            powers.append(z * powers[order] - order * powers[order - 1])
        variables = z.shape[1]
        features = np.ones((len(z), self.size))
        for column, alpha in enumerate(exponents(variables, self.degree)):
            for i in np.flatnonzero(alpha):
                features[:, column] *= powers[alpha[i]][:, i]
        return features / root_factorials(variables, self.degree)


@dataclass(frozen=True, eq=False)
class Fit:
    """t ≈ f(x)ᵀ B g(y), B (f, g)."""

    users: HermiteMap
    items: HermiteMap
    coefficients: Matrix


def dense_part(part: Part, width: int) -> Matrix:
    """(n, width) the features of a part as one dense float64 array."""
    x = np.zeros((part.rows, width))
    for group in part.groups:
        if isinstance(group, DenseGroup):
            x[:, group.start : group.start + group.values.shape[1]] = group.values
        else:
            local = csr_array(
                (group.data, group.indices, group.indptr), shape=(part.rows, len(group.columns)), dtype=np.float64
            )
            x[:, group.columns] = local.toarray()
    return x


def pack(g: Matrix) -> Matrix:
    """(n, m (m+1)/2) the entries i ≤ j of g gᵀ for each row of g (n, m)."""
    rows, columns = np.triu_indices(g.shape[1])
    products: Matrix = g[:, rows] * g[:, columns]
    return products


@cache
def _places(size: int) -> npt.NDArray[np.int64]:
    """(m, m) where entry (i, j) is in the packed form."""
    rows, columns = np.triu_indices(size)
    places = np.empty((size, size), dtype=np.int64)
    places[rows, columns] = places[columns, rows] = np.arange(len(rows))
    return places


def unpack_gram(packed: Matrix, left: int, right: int) -> Matrix:
    """(left·right, left·right) Σ (f⊗g)(f⊗g)ᵀ from Σ pack(f) pack(g)ᵀ."""
    full = packed[_places(left)[:, None, :, None], _places(right)[None, :, None, :]]
    return full.reshape(left * right, left * right)


@dataclass(frozen=True)
class SideMoments:
    """weight Σ w, ratings |Ω|, and of each side mean Σ w x (d,) and square Σ w x xᵀ (d, d), all over ratings.

    users_rows counts users with a rating; items_rows all items, once a lane, and lanes the lanes.
    """

    def of(self, lane: Lane, sides: Sides) -> Sums:
        model = sides.model
        per_user, count = np.zeros(lane.users.rows), np.zeros(lane.users.rows, dtype=np.int64)
        items_mean, items_square = np.zeros(model.items_width), np.zeros((model.items_width, model.items_width))
        for part, blocks in _by_item_part(lane):
            per_item = np.zeros(part.rows)
            for block in blocks:
                w, users = rating_weights(block), block.users()
                per_user += np.bincount(users, w, minlength=len(per_user))
                count += np.bincount(users, minlength=len(count))
                per_item += np.bincount(block.item, w, minlength=part.rows)
            mean, square = _weighted_moments(part, per_item, model.items_width)
            items_mean += mean
            items_square += square
        users_mean, users_square = _weighted_moments(lane.users, per_user, model.users_width)
        return {
            "weight": np.array([per_user.sum()]),
            "ratings": np.array([float(count.sum())]),
            "users_rows": np.array([float(np.count_nonzero(count))]),
            "items_rows": np.array([float(sum(part.rows for _, part in lane.items))]),
            "lanes": np.ones(1),
            "users_mean": users_mean,
            "users_square": users_square,
            "items_mean": items_mean,
            "items_square": items_square,
        }


def _weighted_moments(part: Part, weights: Vector, width: int) -> tuple[Vector, Matrix]:
    x = dense_part(part, width)
    weighted = weights[:, None] * x
    return weighted.sum(axis=0), weighted.T @ x


def _by_item_part(lane: Lane) -> Iterator[tuple[Part, list[RatingBlock]]]:
    """Each item part of a lane with its blocks, in the order of their first blocks."""
    gathered: dict[int, tuple[Part, list[RatingBlock]]] = {}
    for number, part, block in lane.blocks:
        gathered.setdefault(number, (part, []))[1].append(block)
    yield from gathered.values()


@dataclass(frozen=True, eq=False)
class Regression:
    """The normal equations of t ≈ f(x)ᵀ B g(y), where t is what `earlier` leaves of the ratings.

    gram (f(f+1)/2, g(g+1)/2) is Σ w pack(f) pack(g)ᵀ, right (f, g) is Σ w t f gᵀ, square is Σ w t².
    """

    users: HermiteMap
    items: HermiteMap
    earlier: tuple[Fit, ...] = ()

    def of(self, lane: Lane, sides: Sides) -> Sums:
        # A rating costs a row of packed products, so of the narrower features; the wider ones come in once a row.
        over = self._over_items if self.users.size < self.items.size else self._over_users
        return over(lane, sides, dense_part(lane.users, sides.model.users_width))

    def _over_users(self, lane: Lane, sides: Sides, x: Matrix) -> Sums:
        rows, square = _Gathered(len(x), self.items.size), 0.0
        for g, cells in self._cells(lane, sides, x):
            packed = pack(g)
            for cell in cells:
                rows.add(cell.weights, cell.pulls, packed, g)
                square += cell.square
        gram, right = rows.expanded(self.users.of(x))
        return {"gram": gram, "right": right, "square": np.array([square])}

    def _over_items(self, lane: Lane, sides: Sides, x: Matrix) -> Sums:
        f, square = self.users.of(x), 0.0
        packed = pack(f)
        gram = np.zeros((packed.shape[1], self.items.size * (self.items.size + 1) // 2))
        right = np.zeros((self.users.size, self.items.size))
        for g, cells in self._cells(lane, sides, x):
            rows = _Gathered(len(g), self.users.size)
            for cell in cells:
                rows.add(cell.weights.T, cell.pulls.T, packed, f)
                square += cell.square
            more_gram, more_right = rows.expanded(g)
            gram += more_gram.T
            right += more_right.T
        return {"gram": gram, "right": right, "square": np.array([square])}

    def _cells(self, lane: Lane, sides: Sides, x: Matrix) -> Iterator[tuple[Matrix, Iterator[_Cell]]]:
        """Each item part's features g (n, g), with the blocks that use it."""
        left = [fit.users.of(x) @ fit.coefficients for fit in self.earlier]
        for part, blocks in _by_item_part(lane):
            y = dense_part(part, sides.model.items_width)
            right = [fit.items.of(y) for fit in self.earlier]
            predictions = list(zip(left, right, strict=True))
            yield self.items.of(y), (_cell(lane, part, block, predictions) for block in blocks)


class _Cell(NamedTuple):
    """Of a block: w and w t as (n_users, n_items) CSR, and Σ w t²."""

    weights: csr_array
    pulls: csr_array
    square: float


def _cell(lane: Lane, part: Part, block: RatingBlock, predictions: Sequence[tuple[Matrix, Matrix]]) -> _Cell:
    w, t = rating_weights(block), targets(lane, part, block)
    for p, q in predictions:
        t -= inner_products(block, p, q)
    return _Cell(block.matrix(w, part.rows), block.matrix(w * t, part.rows), float(w @ (t * t)))


class _Gathered:
    """For each row of the side with the wider features: Σ w pack(narrow) and Σ w t narrow over its ratings."""

    def __init__(self, rows: int, narrow: int) -> None:
        self._squares = np.zeros((rows, narrow * (narrow + 1) // 2))
        self._pulled = np.zeros((rows, narrow))

    def add(self, weights: csr_array, pulls: csr_array, packed: Matrix, narrow: Matrix) -> None:
        self._squares += weights @ packed
        self._pulled += pulls @ narrow

    def expanded(self, wide: Matrix) -> tuple[Matrix, Matrix]:
        """Σ pack(wide) packᵀ and Σ wide pulledᵀ over the rows that have a rating, some at a time."""
        # The first feature is 1, so the first packed entry is the row's weight.
        rated = np.flatnonzero(self._squares[:, 0])
        entries = wide.shape[1] * (wide.shape[1] + 1) // 2
        step = max(1, _CHUNK_ENTRIES // entries)
        gram = np.zeros((entries, self._squares.shape[1]))
        for first in range(0, len(rated), step):
            rows = rated[first : first + step]
            gram += pack(wide[rows]).T @ self._squares[rows]
        return gram, wide.T @ self._pulled


@dataclass(frozen=True)
class LogScales:
    """weight Σ w, loss ½ Σ w e², and its gradient (q,) and normal JᵀJ (q, q), e = A(x, y) − t.

    The variables are log|u_1| … log|u_k|, log|v_1| … log|v_k|, a (d1) and b (d2): q = 2k + d1 + d2. The model must have
    linear terms. By log|u_l| the derivative of φ_u(z) is φ_u'(z) z, z = u_lᵀx.
    """

    def of(self, lane: Lane, sides: Sides) -> Sums:
        users = _scaled(lane.users, sides, SideName.USERS)
        size = 2 * sides.model.rank + sides.model.users_width + sides.model.items_width
        sums: Sums = {
            "weight": np.zeros(1),
            "loss": np.zeros(1),
            "gradient": np.zeros(size),
            "normal": np.zeros((size, size)),
        }
        for part, blocks in _by_item_part(lane):
            items = _scaled(part, sides, SideName.ITEMS)
            for block in blocks:
                rows, w, t = block.users(), rating_weights(block), targets(lane, part, block)
                for first in range(0, block.size, _CHUNK_RATINGS):
                    chosen = slice(first, first + _CHUNK_RATINGS)
                    more = _scale_sums(users, items, rows[chosen], block.item[chosen], w[chosen], t[chosen])
                    sums = merge(sums, more)
        return sums


class _Scaled(NamedTuple):
    """Of a side: φ(z) and φ'(z) z (n, k), the sum of linear terms (n,), and the features (n, d)."""

    values: Matrix
    changes: Matrix
    shift: Vector
    features: Matrix


def _scaled(part: Part, sides: Sides, side: SideName) -> _Scaled:
    k, phi = sides.model.rank, activation(sides.model.activation(side))
    x = dense_part(part, sides.model.width(side))
    z = x @ sides.parameters.side(side).astype(np.float64)
    factors = z[:, :k]
    values, changes = phi.value(factors), phi.slope(factors) * factors
    return _Scaled(values.astype(np.float64), changes.astype(np.float64), z[:, k], x)


def _scale_sums(users: _Scaled, items: _Scaled, rows: Index, item: Index, w: Vector, t: Vector) -> Sums:
    p, q = users.values[rows], items.values[item]
    jacobian = np.hstack([users.changes[rows] * q, p * items.changes[item], users.features[rows], items.features[item]])
    error = np.einsum("rk,rk->r", p, q) + users.shift[rows] + items.shift[item] - t
    weighted = jacobian * w[:, None]
    return {
        "weight": np.array([w.sum()]),
        "loss": np.array([0.5 * float(w @ (error * error))]),
        "gradient": weighted.T @ error,
        "normal": weighted.T @ jacobian,
    }
