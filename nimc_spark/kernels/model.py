"""The model's shape, its parameters, and one side of it forwards and backwards.

    score(x, y) = offset + aᵀx + bᵀy + φ_u(Uᵀx)ᵀ φ_v(Vᵀy)

is one inner product P̂ᵀQ̂ of k + 2 columns, so that nothing downstream has a case for linear terms or offsets:

    column      0 … k-1      k                        k+1
    P̂ (user)    φ_u(XU)      offset + Xa              1
    Q̂ (item)    φ_v(YV)      1                        offset + Yb

A side's parameters are one array W = [U, a] or [V, b] of shape (d, k+1), or (d, k) where linear terms are off.
Factors are times s on either side, s = 1 but for a mean of S models: their factors side by side with s = 1/√S.
Source: Eq. (1) of the NIMC paper, with the linear terms as extra columns.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from nimc_spark.kernels.activations import activation
from nimc_spark.kernels.features import Array, Part, Rows, stack_rows

Vector = npt.NDArray[np.float64]


class SideName(Enum):
    """Users or items, and where each keeps its linear column; the other of the two columns is constant 1."""

    USERS = "users"
    ITEMS = "items"

    @property
    def other(self) -> SideName:
        return SideName.ITEMS if self is SideName.USERS else SideName.USERS

    @property
    def one(self) -> str:
        """Of one of them: the column of its id."""
        return "user" if self is SideName.USERS else "item"

    def linear_column(self, rank: int) -> int:
        return rank if self is SideName.USERS else rank + 1


class Parameters(NamedTuple):
    """W of the users (d1, c) and of the items (d2, c), c = k + 1 with linear terms, else k."""

    users: Array
    items: Array

    def side(self, side: SideName) -> Array:
        return self.users if side is SideName.USERS else self.items


@dataclass(frozen=True)
class Model:
    """Everything about A(x, y) but the numbers: rank k, widths d1 and d2, activations, linear terms, blocks' dtype, and
    the scale s of factors."""

    rank: int
    users_width: int
    items_width: int
    users_activation: str = "identity"
    items_activation: str = "identity"
    linear: bool = True
    dtype: str = "float32"
    scale: float = 1.0

    @property
    def columns(self) -> int:
        """Parameters a feature has: k factors, and one linear weight if there are linear terms."""
        return self.rank + int(self.linear)

    @property
    def size(self) -> int:
        """Number of parameters p."""
        return (self.users_width + self.items_width) * self.columns

    def width(self, side: SideName) -> int:
        return self.users_width if side is SideName.USERS else self.items_width

    def activation(self, side: SideName) -> str:
        return self.users_activation if side is SideName.USERS else self.items_activation

    def score_columns(self, side: SideName) -> list[int]:
        """The columns of P̂ or Q̂ that the side's parameters make: the factors, and its linear column."""
        return [*range(self.rank), *([side.linear_column(self.rank)] if self.linear else [])]

    def unravel(self, theta: npt.NDArray[np.floating]) -> Parameters:
        """The two arrays that the flat vector (p,) holds, users first, row by row."""
        cut = self.users_width * self.columns
        return Parameters(theta[:cut].reshape(-1, self.columns), theta[cut:].reshape(-1, self.columns))

    def ravel(self, parameters: Parameters) -> Vector:
        """The flat vector (p,) float64 of the two arrays."""
        return np.concatenate([parameters.users.ravel(), parameters.items.ravel()]).astype(np.float64)


class Forward(NamedTuple):
    """One side at some parameters: scores P̂ or Q̂ (n, k+2), and of each parameter's column the input z = XW (n, c) and
    the slope of its score (n, c): φ'(z) of a factor, 1 of the linear column."""

    scores: Array
    inputs: Array
    slopes: Array


def forward(model: Model, side: SideName, part: Part, weights: Array) -> Forward:
    """P̂ (users) or Q̂ (items) of a part, with inputs and slopes, in the dtype of `weights`."""
    k = model.rank
    z = inputs(part, weights)
    slopes = np.ones_like(z)
    phi = activation(model.activation(side))
    slopes[:, :k] = model.scale * phi.slope(np.ascontiguousarray(z[:, :k]))
    return Forward(scores(model, side, z, part.offset), z, slopes)


def scores(model: Model, side: SideName, z: Array, offset: Vector) -> Array:
    """P̂ or Q̂ (n, k+2) of the inputs z = XW (n, c) and the offsets (n,), in the dtype of z."""
    k = model.rank
    rows = np.ones((len(z), k + 2), z.dtype)
    rows[:, :k] = model.scale * activation(model.activation(side)).value(z[:, :k])
    rows[:, side.linear_column(k)] = offset
    if model.linear:
        rows[:, side.linear_column(k)] += z[:, k]
    return rows


def inputs(part: Part, weights: Array) -> Array:
    """X W (n, c) of a part, its groups added in order."""
    z = np.zeros((part.rows, weights.shape[1]), weights.dtype)
    for group in part.groups:
        z += group.times(weights)
    return z


def curvatures(model: Model, side: SideName, z: Array) -> Array:
    """(n, c) second derivative of each score by its input: φ''(z) of a factor, 0 of the linear column."""
    second = np.zeros_like(z)
    phi = activation(model.activation(side))
    second[:, : model.rank] = model.scale * phi.curvature(np.ascontiguousarray(z[:, : model.rank]))
    return second


def mean_model(model: Model, parameters: Sequence[Parameters]) -> tuple[Model, Parameters]:
    """The model whose scores are the means of those of S models of one shape: rank S k, linear terms their mean."""
    k, count = model.rank, len(parameters)
    sides = []
    for arrays in zip(*parameters, strict=True):
        columns = [w[:, :k] for w in arrays]
        if model.linear:
            columns.append(np.mean([w[:, k:] for w in arrays], axis=0))
        sides.append(np.concatenate(columns, axis=1))
    return replace(model, rank=k * count, scale=model.scale / math.sqrt(count)), Parameters(*sides)


def score_change(model: Model, side: SideName, change: Array) -> Array:
    """dP̂ (n, k+2) of the changes φ'(z) dz (n, c) of the columns that have parameters; the others do not change."""
    full = np.zeros((len(change), model.rank + 2), change.dtype)
    full[:, model.score_columns(side)] = change
    return full


def backward(part: Part, pulled: Array) -> Rows:
    """Xᵀ H for H (n, c): what a side's rows add to the gradient by W; it has the rows of W that the part touches."""
    return stack_rows([group.transpose_times(pulled) for group in part.groups], pulled.shape[1])


def pull(model: Model, side: SideName, slopes: Array, gathered: Vector) -> Array:
    """P' ∘ (E Q̂) for users, Q' ∘ (Eᵀ P̂) for items, (n, c): `gathered` (n, k+2) float64 is E Q̂ or Eᵀ P̂."""
    return (slopes * gathered[:, model.score_columns(side)]).astype(slopes.dtype)
