"""Second-order statistics of a pass: products with the Hessian, its Gauss-Newton matrix and its blocks.

All are plain sums over blocks, without the factor 1/|Ω| and without penalties, which `objective.py` adds once.

Conventions
    c        parameters a feature has: k factors, and one linear weight if there are linear terms
    D        (n, c) slopes: φ' of a factor, 1 of the linear column; D² its derivative by the input: φ'' and 0
    P̂_l, Q̂_l the score column that multiplies parameter l of the other side: ∂s_ij/∂U_al = X_ia D_il Q̂_jl
    packed   a symmetric matrix as its upper triangle, row by row
    order    of parameters: row by row, (a, l) ↦ a·c + l, as `Model.ravel` has them

Source: Appendix C of the NIMC paper (with its ∂²f/∂u_i∂v_j corrected), by unique user and item instead of by rating.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations_with_replacement, pairwise
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array

from nimc_spark.kernels.complement import Matrix, gram
from nimc_spark.kernels.features import Array, Part, Rows, dense_rows, stack_rows
from nimc_spark.kernels.model import (
    Forward,
    Model,
    Parameters,
    SideName,
    backward,
    curvatures,
    inputs,
    pull,
    score_change,
)
from nimc_spark.kernels.ratings import Tangent, rating_weights, tangent_middle, weighted_errors
from nimc_spark.kernels.statistics import Lane, Sides, Sums, array_of, gather, gradient_sums, rows_of, sum_rows

Stack = npt.NDArray[np.float64]

# Rows whose sums over the other side are held at once.
_ROWS_AT_ONCE = 64


@dataclass(frozen=True)
class Product:
    """H·(S, T) or, without `exact`, the Gauss-Newton matrix's product with the direction: users (d1, c), items (d2, c).

    U part   Xᵀ [D²∘XS∘(E Q̂) + D∘(dE Q̂ + E dQ̂)]        Gauss-Newton leaves out the terms with E; V part alike
    """

    direction: Parameters
    exact: bool = True
    beta: float = 0.0

    def of(self, lane: Lane, sides: Sides) -> Sums:
        model = sides.model
        users = _Moving(model, SideName.USERS, lane.users, sides.users(lane.users), self)
        items: dict[int, _Moving] = {}

        def moving(number: int, part: Part) -> _Moving:
            if number not in items:
                items[number] = _Moving(model, SideName.ITEMS, part, sides.items(number, part), self)
            return items[number]

        for number, part, block in lane.blocks:
            item = moving(number, part)
            eq, ep, heq, hep = tangent_middle(block, users.tangent, item.tangent, self.beta, self.exact)
            users.add(eq, heq)
            item.add(ep, hep)
        if self.beta:
            every = [moving(number, part) for number, part in lane.items]
            own, change = users.gram(), users.gram_change()
            other_change: Matrix = np.sum([item.gram_change() for item in every], axis=0)
            users.add_complement(self.beta, sides.items_gram(lane.items), other_change)
            for item in every:
                item.add_complement(self.beta, own, change)
        return {"users": users.rows(), "items": sum_rows((item.rows() for item in items.values()), model.columns)}


class _Moving:
    """One part of a side on the way along a direction: what its rows gather of the other side, and its change."""

    def __init__(self, model: Model, side: SideName, part: Part, forward: Forward, product: Product) -> None:
        self._model, self._side, self._part, self._forward, self._exact = model, side, part, forward, product.exact
        self._dz = inputs(part, _typed(model, product.direction.side(side)))
        self.tangent = tangent(model, side, part, forward, product.direction, self._dz)
        self._gathered, self._changed = np.zeros(forward.scores.shape), np.zeros(forward.scores.shape)

    def add(self, gathered: Array, changed: Array) -> None:
        self._gathered += gathered
        self._changed += changed

    def gram(self) -> Matrix:
        """P̂ᵀP̂."""
        return gram(self.tangent.scores)

    def gram_change(self) -> Matrix:
        """P̂ᵀdP̂."""
        return gram(*self.tangent)

    def add_complement(self, beta: float, gram: Matrix, change: Matrix) -> None:
        scores, changes = (t.astype(np.float64) for t in self.tangent)
        turned = change + change.T if self._exact else change.T
        self.add(beta * (scores @ gram), beta * (changes @ gram + scores @ turned))

    def rows(self) -> Rows:
        pulled = pull(self._model, self._side, self._forward.slopes, self._changed)
        if self._exact:
            bent = curvatures(self._model, self._side, self._forward.inputs) * self._dz
            pulled = pulled + pull(self._model, self._side, bent, self._gathered)
        return backward(self._part, pulled)


def tangent(
    model: Model, side: SideName, part: Part, forward: Forward, direction: Parameters, dz: Array | None = None
) -> Tangent:
    """P̂ and dP̂ = φ'(z)∘(X S) of a part; `dz` = X S where it is known."""
    dz = inputs(part, _typed(model, direction.side(side))) if dz is None else dz
    return Tangent(forward.scores, score_change(model, side, forward.slopes * dz))


def _typed(model: Model, weights: Array) -> Array:
    return weights.astype(model.dtype, copy=False)


class _Dense(NamedTuple):
    """A part of a side as dense float64 arrays: X (n, d), D and D² (n, c), `partner` (n, c) = this side's score columns
    that multiply the other side's parameters, and all scores (n, k+2)."""

    X: Matrix
    slopes: Matrix
    bends: Matrix
    partner: Matrix
    scores: Matrix


def _dense(model: Model, side: SideName, part: Part, forward: Forward) -> _Dense:
    other = SideName.ITEMS if side is SideName.USERS else SideName.USERS
    X = np.zeros((part.rows, model.width(side)))
    for group in part.groups:
        X += group.dense(model.width(side))
    scores = forward.scores.astype(np.float64)
    bends = curvatures(model, side, forward.inputs).astype(np.float64)
    return _Dense(X, forward.slopes.astype(np.float64), bends, scores[:, model.score_columns(other)], scores)


@dataclass(frozen=True)
class GaussNewton:
    """JᵀJ (with `exact` the Hessian) in three packed blocks, with the sums of `LossGradient`, for few parameters.

        (u_l, u_m)   Xᵀ diag(D_l D_m Σ_j w Q̂_jl Q̂_jm) X                  exact: + δ_lm Xᵀ diag(D²_l ∘ (E Q̂)_l) X
        (u_l, v_m)   Σ_Ω w (D_il P̂_im x_i) (Q̂_jl D_jm y_j)ᵀ              exact: + δ_lm (D_l∘X)ᵀ E (D_l∘Y), factors only

    Sums: uu, vv packed; uv (d1 c, d2 c) unless `cross` is off. With a complement w is w − β, the first line gains
    β G_Q[l, m], and the second what `_complement_cross` says.
    The cost is about c² min(d1, d2) flops a rating and c² d²/2 a user and an item; p² / 2 numbers reach the driver.
    """

    exact: bool = False
    cross: bool = True
    beta: float = 0.0

    def of(self, lane: Lane, sides: Sides) -> Sums:
        model = sides.model
        gathered = gather(lane, sides, self.beta)
        users = _dense(model, SideName.USERS, lane.users, sides.users(lane.users))
        items = {
            number: _dense(model, SideName.ITEMS, part, sides.items(number, part))
            for number, (part, _) in gathered.items.items()
        }
        weights = _UserWeights(model, lane, sides, self.beta)
        sums = gradient_sums(lane, sides, gathered)
        own = {side: model.score_columns(side) for side in SideName}
        sums["uu"] = _pack(self._diagonal(users, weights.users, gathered.users[:, own[SideName.USERS]]))
        width = model.items_width * model.columns
        vv = np.zeros((width, width))
        for number, (_, errors) in gathered.items.items():
            vv += self._diagonal(items[number], weights.items[number], errors[:, own[SideName.ITEMS]])
        sums["vv"] = _pack(vv)
        if self.cross:
            sums["uv"] = self._cross(model, lane, users, items)
        return sums

    def _diagonal(self, part: _Dense, moments: Stack, gathered: Matrix) -> Matrix:
        """Block (u_l, u_m) of a part, (d c, d c), from the moments (n, c, c) and the gathered errors (n, c)."""
        X, (c, d) = part.X, (part.slopes.shape[1], part.X.shape[1])
        block = np.zeros((d, c, d, c))
        for one, two in combinations_with_replacement(range(c), 2):
            weight = part.slopes[:, one] * part.slopes[:, two] * moments[:, one, two]
            if self.exact and one == two:
                weight += part.bends[:, one] * gathered[:, one]
            block[:, one, :, two] = X.T @ (weight[:, None] * X)
            block[:, two, :, one] = block[:, one, :, two]
        return block.reshape(d * c, d * c)

    def _cross(self, model: Model, lane: Lane, users: _Dense, items: Mapping[int, _Dense]) -> Matrix:
        c = model.columns
        total = np.zeros((model.users_width, c, model.items_width, c))
        for number, part, block in lane.blocks:
            weights = block.matrix(rating_weights(block) - self.beta, part.rows)
            total += _weighted_cross(weights, users, items[number])
            if self.exact:
                error = weighted_errors(block, users.scores, items[number].scores, self.beta)
                total += _error_cross(model.rank, block.matrix(error, part.rows), users, items[number])
        if self.beta:
            every: Stack = np.sum([_slope_scores(items[number]) for number, _ in lane.items], axis=0)
            total += self.beta * _complement_cross(model, _slope_scores(users), every, self.exact)
        return total.reshape(model.users_width * c, model.items_width * c)


@dataclass(frozen=True)
class RowBlocks:
    """The c × c diagonal blocks of JᵀJ, one a feature, with the sums of `LossGradient`: a preconditioner for any p.

    users_blocks[a] = Σ_i X_ia² (D_i D_iᵀ) ∘ (Σ_j w Q̂_j Q̂_jᵀ)        (c, c) flat; only touched rows travel
    """

    beta: float = 0.0

    def of(self, lane: Lane, sides: Sides) -> Sums:
        model = sides.model
        gathered = gather(lane, sides, self.beta)
        weights = _UserWeights(model, lane, sides, self.beta)
        blocks = (
            self._blocks(part, sides.items(number, part), weights.items[number])
            for number, (part, _) in gathered.items.items()
        )
        return gradient_sums(lane, sides, gathered) | {
            "users_blocks": self._blocks(lane.users, sides.users(lane.users), weights.users),
            "items_blocks": sum_rows(blocks, model.columns**2),
        }

    @staticmethod
    def _blocks(part: Part, forward: Forward, moments: Stack) -> Rows:
        slopes = forward.slopes.astype(np.float64)
        per_row = moments * slopes[:, :, None] * slopes[:, None, :]
        flat = np.ascontiguousarray(per_row.reshape(part.rows, -1))
        return stack_rows([group.squared().transpose_times(flat) for group in part.groups], flat.shape[1])


class _UserWeights:
    """Σ_j (w − β) Q̂_j Q̂_jᵀ of each user, and Σ_i (w − β) P̂_i P̂_iᵀ of each item that the lane met, (n, c, c); with the
    complement's β G_Q, and β G_P of the lane for every item."""

    def __init__(self, model: Model, lane: Lane, sides: Sides, beta: float) -> None:
        columns = {side: model.score_columns(side) for side in SideName}
        p = sides.users(lane.users).scores[:, columns[SideName.ITEMS]].astype(np.float64)
        self.users: Stack = np.zeros((*p.shape, p.shape[1]))
        self.items: dict[int, Stack] = {}
        for number, part, block in lane.blocks:
            q = sides.items(number, part).scores[:, columns[SideName.USERS]].astype(np.float64)
            weights = block.matrix(rating_weights(block) - beta, part.rows)
            self.users += _near(weights, q, q)
            self._add(number, _near(weights.T.tocsr(), p, p))
        if beta:
            own = columns[SideName.USERS]
            self.users += beta * sides.items_gram(lane.items)[np.ix_(own, own)]
            more = beta * gram(p)
            for number, part in lane.items:
                self._add(number, np.broadcast_to(more, (part.rows, *more.shape)))

    def _add(self, number: int, more: Stack) -> None:
        before = self.items.get(number)
        self.items[number] = more.copy() if before is None else before + more


def _weighted_cross(weights: csr_array, left: _Dense, right: _Dense) -> Stack:
    """Σ_ij w_ij (D_il P̂_im x_i)(Q̂_jl D_jm y_j)ᵀ as (d1, c, d2, c); the narrower side is the one spread over ratings."""
    if left.X.shape[1] < right.X.shape[1]:
        return _weighted_cross(weights.T.tocsr(), right, left).transpose(2, 3, 0, 1)
    c, (d1, d2) = left.slopes.shape[1], (left.X.shape[1], right.X.shape[1])
    spread = (right.X[:, :, None] * right.slopes[:, None, :]).reshape(-1, d2 * c)
    block = np.zeros((c, d1, d2, c))
    for first in range(0, weights.shape[0], _ROWS_AT_ONCE):
        rows = slice(first, first + _ROWS_AT_ONCE)
        near = _near(weights[rows], right.partner, spread).reshape(-1, c, d2, c) * left.partner[rows, None, None, :]
        for own in range(c):
            moved = left.X[rows] * left.slopes[rows, own, None]
            block[own] += (moved.T @ near[:, own].reshape(len(near), -1)).reshape(d1, d2, c)
    return block.transpose(1, 0, 2, 3)


def _near(weights: csr_array, partner: Matrix, spread: Matrix) -> Matrix:
    """Σ_j w_ij Q̂_jl z_j of each row i, (n, c, width of z): a matrix product a row, much faster than a sparse one."""
    near = np.zeros((weights.shape[0], partner.shape[1], spread.shape[1]))
    for row, (low, high) in enumerate(pairwise(weights.indptr)):
        if high > low:
            mine = weights.indices[low:high]
            near[row] = (weights.data[low:high, None] * partner[mine]).T @ spread[mine]
    return near


def _error_cross(rank: int, error: csr_array, left: _Dense, right: _Dense) -> Stack:
    """δ_lm (D_l∘X)ᵀ E (D_l∘Y) of the factors, as (d1, c, d2, c)."""
    c, (d1, d2) = left.slopes.shape[1], (left.X.shape[1], right.X.shape[1])
    block = np.zeros((d1, c, d2, c))
    for factor in range(rank):
        near = error @ (right.X * right.slopes[:, [factor]])
        block[:, factor, :, factor] = (left.X * left.slopes[:, [factor]]).T @ near
    return block


def _slope_scores(side: _Dense) -> Stack:
    """Xᵀ(D_l ∘ P̂_s), (d, c, k+2)."""
    sums: Stack = np.einsum("na,nl,ns->als", side.X, side.slopes, side.scores, optimize=True)
    return sums


def _complement_cross(model: Model, ux: Stack, vy: Stack, exact: bool) -> Stack:
    """Σ over users and items of (D_l P̂_m x)(Q̂_l D_m y)ᵀ, (d1, c, d2, c): a rank-one matrix for each l, m.

    ux (d1, c, k+2) is Xᵀ(D_l ∘ P̂_s), vy (d2, c, k+2) alike.
    exact: for the factors also δ_lm Σ_s (Xᵀ(D_l∘P̂_s)) (Yᵀ(D_l∘Q̂_s))ᵀ, which is (D_l∘X)ᵀ P̂Q̂ᵀ (D_l∘Y).
    """
    own, other = model.score_columns(SideName.USERS), model.score_columns(SideName.ITEMS)
    block: Stack = np.einsum("alm,bml->albm", ux[:, :, other], vy[:, :, own])
    if exact:
        for factor in range(model.rank):
            block[:, factor, :, factor] += ux[:, factor] @ vy[:, factor].T
    return block


def assembled(model: Model, sums: Sums) -> Matrix:
    """The symmetric (p, p) matrix of the merged sums of `GaussNewton`."""
    cut = model.users_width * model.columns
    full = np.zeros((model.size, model.size))
    full[:cut, :cut], full[cut:, cut:] = diagonal_blocks(model, sums)
    full[:cut, cut:] = array_of(sums, "uv")
    full[cut:, :cut] = full[:cut, cut:].T
    return full


def diagonal_blocks(model: Model, sums: Sums) -> tuple[Matrix, Matrix]:
    """The UU (d1 c, d1 c) and VV (d2 c, d2 c) blocks of the merged sums of `GaussNewton`."""
    users, items = (model.width(side) * model.columns for side in SideName)
    return _unpack(array_of(sums, "uu"), users), _unpack(array_of(sums, "vv"), items)


def row_blocks(model: Model, sums: Sums) -> tuple[Stack, Stack]:
    """The (d1, c, c) and (d2, c, c) blocks of the merged sums of `RowBlocks`; untouched rows are zero."""
    c, stacks = model.columns, []
    for side in SideName:
        stacks.append(dense_rows(rows_of(sums, f"{side.value}_blocks"), model.width(side)).reshape(-1, c, c))
    return stacks[0], stacks[1]


def _pack(symmetric: Matrix) -> npt.NDArray[np.float64]:
    return symmetric[np.triu_indices(len(symmetric))]


def _unpack(packed: npt.NDArray[np.float64], size: int) -> Matrix:
    full = np.zeros((size, size))
    upper = np.triu_indices(size)
    full[upper] = packed
    full.T[upper] = packed
    return full
