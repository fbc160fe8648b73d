"""The model's shape, its parameters, and one side of it forwards and backwards.

    score(x, y) = offset + aᵀx + bᵀy + φ_u(Uᵀx)ᵀ φ_v(Vᵀy)

is one inner product P̂ᵀQ̂ of k + 2 columns, so that nothing downstream has a case for linear terms or offsets:

    column      0 … k-1      k                        k+1
    P̂ (user)    φ_u(XU)      offset + Xa              1
    Q̂ (item)    φ_v(YV)      1                        offset + Yb

A side's parameters are one array W = [U, a] or [V, b] of shape (d, k+1), or (d, k) where linear terms are off.
Source: Eq. (1) of the NIMC paper, with the linear terms as extra columns.
"""

from __future__ import annotations

from dataclasses import dataclass
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

    def linear_column(self, rank: int) -> int:
        return rank if self is SideName.USERS else rank + 1

    def ones_column(self, rank: int) -> int:
        return rank + 1 if self is SideName.USERS else rank


class Parameters(NamedTuple):
    """W of the users (d1, c) and of the items (d2, c), c = k + 1 with linear terms, else k."""

    users: Array
    items: Array

    def side(self, side: SideName) -> Array:
        return self.users if side is SideName.USERS else self.items


@dataclass(frozen=True)
class Model:
    """Everything about A(x, y) but the numbers: rank k, widths d1 and d2, activations, linear terms, blocks' dtype."""

    rank: int
    users_width: int
    items_width: int
    users_activation: str = "identity"
    items_activation: str = "identity"
    linear: bool = True
    dtype: str = "float32"

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

    def unravel(self, theta: npt.NDArray[np.floating]) -> Parameters:
        """The two arrays that the flat vector (p,) holds, users first, row by row."""
        cut = self.users_width * self.columns
        return Parameters(theta[:cut].reshape(-1, self.columns), theta[cut:].reshape(-1, self.columns))

    def ravel(self, parameters: Parameters) -> Vector:
        """The flat vector (p,) float64 of the two arrays."""
        return np.concatenate([parameters.users.ravel(), parameters.items.ravel()]).astype(np.float64)


class Forward(NamedTuple):
    """One side at some parameters: scores P̂ or Q̂ (n, k+2), and slopes φ' (n, k)."""

    scores: Array
    slopes: Array


def forward(model: Model, side: SideName, part: Part, weights: Array) -> Forward:
    """P̂ and φ' (users) or Q̂ and φ' (items) of a part, in the dtype of `weights`."""
    k = model.rank
    linear = side.linear_column(k)
    z = np.zeros((part.rows, model.columns), weights.dtype)
    for group in part.groups:
        z += group.times(weights)
    phi = activation(model.users_activation if side is SideName.USERS else model.items_activation)
    scores = np.ones((part.rows, k + 2), weights.dtype)
    scores[:, :k] = phi.value(z[:, :k])
    scores[:, linear] = part.offset
    if model.linear:
        scores[:, linear] += z[:, k]
    return Forward(scores, phi.slope(np.ascontiguousarray(z[:, :k])))


def backward(model: Model, side: SideName, part: Part, slopes: Array, gathered: Vector) -> Rows:
    """Xᵀ [P' ∘ (E Q̂)] for users, Yᵀ [Q' ∘ (Eᵀ P̂)] for items; the linear column has slope 1.

    `gathered` (n, k+2) float64 is E Q̂ or Eᵀ P̂; the result has the rows of W that the part touches.
    """
    k = model.rank
    pulled = np.empty((part.rows, model.columns), slopes.dtype)
    pulled[:, :k] = slopes * gathered[:, :k]
    if model.linear:
        pulled[:, k] = gathered[:, side.linear_column(k)]
    return stack_rows([group.transpose_times(pulled) for group in part.groups], model.columns)
