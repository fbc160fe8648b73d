"""The objective: the mean loss plus penalties, and what the solvers need beside it.

    f(U, V) = 1/|Ω| [ ½ Σ_Ω w e² + ½ Σ_groups λ_g Σ_{rows r of g} c_r^p ‖row r‖² ]

λ is in sum form and is divided by |Ω| together with the loss. Factor rows and linear rows of a group have a λ each.
With a complement weight β > 0 the loss of `complement.py` takes the place of the first sum.
A row with c_r = 0 (an id or a category without a training rating) is masked: zero, and not a parameter.
Source: Eq. (3) of the NIMC paper, with weights, offsets and group penalties.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from nimc_spark.kernels.complement import Matrix
from nimc_spark.kernels.curvature import Stack, assembled, diagonal_blocks, row_blocks
from nimc_spark.kernels.features import dense_rows
from nimc_spark.kernels.model import Model, Parameters, SideName
from nimc_spark.kernels.statistics import Sums, array_of, rows_of

Vector = npt.NDArray[np.float64]

# Mean squared factor of the other side, for the diagonal that scales the solver's variables (measured: halves passes).
_TYPICAL_SQUARED_FACTOR = 0.05


@dataclass(frozen=True)
class GroupPenalty:
    """λ of a feature group's factor rows and of its linear rows, in sum form, both ≥ 0."""

    factors: float
    linear: float


@dataclass(frozen=True)
class Layout:
    """Name and width of each feature group of a side, in column order."""

    groups: tuple[tuple[str, int], ...]

    @property
    def width(self) -> int:
        return sum(width for _, width in self.groups)

    def spread(self, values: Mapping[str, float]) -> Vector:
        """(d,) the group's value at each of its columns."""
        return np.concatenate([np.empty(0), *(np.full(width, values[name]) for name, width in self.groups)])


class Objective:
    """f of the module's formula, at fixed data: turns sums of a pass into f, ∇f, and what is known of ∇²f.

    `strength` (p,) is λ_g c_r^p for each parameter, `curvature` (p,) a cheap diagonal of ∇²f·|Ω|, `mask` (p,) is True
    for parameters that exist; `beta` is the complement weight, 0 for none.
    """

    def __init__(
        self,
        model: Model,
        count: int,
        strength: Vector,
        curvature: Vector,
        mask: npt.NDArray[np.bool_],
        beta: float = 0.0,
    ) -> None:
        self.model = model
        self.count = count
        self.strength = strength
        self.mask = mask
        self.beta = beta
        self.scale = np.where(mask, np.sqrt(count / np.where(mask, curvature, 1.0)), 0.0)

    def value_and_gradient(self, theta: Vector, sums: Sums) -> tuple[float, Vector]:
        """f and ∇f (p,) from the merged sums of `LossGradient` at theta (p,)."""
        penalty = self.strength * theta
        value = (float(array_of(sums, "loss")[0]) + 0.5 * float(theta @ penalty)) / self.count
        return value, self._mean(self._vector(sums) + penalty)

    def product(self, direction: Vector, sums: Sums) -> Vector:
        """∇²f·v or its Gauss-Newton part (p,), from the merged sums of `Product` along v."""
        return self._mean(self._vector(sums) + self.strength * direction)

    def matrix(self, sums: Sums) -> Matrix:
        """∇²f or its Gauss-Newton part, (p, p), from the merged sums of `GaussNewton`, exact or not."""
        full = assembled(self.model, sums)
        full[np.diag_indices_from(full)] += self.strength
        full[~self.mask] = 0.0
        full[:, ~self.mask] = 0.0
        return full / self.count

    def blocks(self, sums: Sums) -> tuple[Stack, Stack]:
        """Diagonal blocks of the Gauss-Newton part with penalties: stacks (d1, c, c) and (d2, c, c), one block a
        feature, from the merged sums of `RowBlocks`; or (1, d1 c, d1 c) and (1, d2 c, d2 c) from those of
        `GaussNewton`."""
        stacks = row_blocks(self.model, sums) if "users_blocks" in sums else diagonal_blocks(self.model, sums)
        users, items = (s if s.ndim == 3 else s[None] for s in stacks)
        cut = users.shape[0] * users.shape[1]
        return self._penalized(users, slice(None, cut)), self._penalized(items, slice(cut, None))

    def _penalized(self, stack: Stack, mine: slice) -> Stack:
        size = stack.shape[1]
        mask = self.mask[mine].reshape(-1, size)
        stack = stack + np.eye(size) * self.strength[mine].reshape(-1, size)[:, None, :]
        return np.where(mask[:, :, None] & mask[:, None, :], stack, 0.0) / self.count

    def _vector(self, sums: Sums) -> Vector:
        model = self.model
        return model.ravel(Parameters(*(dense_rows(rows_of(sums, s.value), model.width(s)) for s in SideName)))

    def _mean(self, total: Vector) -> Vector:
        return np.where(self.mask, total, 0.0) / self.count


def objective(
    model: Model,
    count: int,
    counts: Mapping[SideName, Vector],
    layouts: Mapping[SideName, Layout],
    penalties: Mapping[SideName, Mapping[str, GroupPenalty]],
    power: float,
    beta: float = 0.0,
) -> Objective:
    """Compose the objective from |Ω|, the feature counts c_r (d,) of each side, λ of each group, and β."""
    strength, curvature, mask = [], [], []
    for side in SideName:
        c, layout, lam = counts[side], layouts[side], penalties[side]
        powered = np.where(c > 0, c, 0.0) ** power
        factors = layout.spread({g: p.factors for g, p in lam.items()}) * powered
        linear = layout.spread({g: p.linear for g, p in lam.items()}) * powered
        strength.append(_columns(model, factors, linear))
        curvature.append(_columns(model, factors + _TYPICAL_SQUARED_FACTOR * c, linear + c))
        mask.append(_columns(model, c > 0, c > 0))
    return Objective(model, count, np.concatenate(strength), np.concatenate(curvature), np.concatenate(mask), beta)


def _columns(model: Model, factors: npt.NDArray[np.generic], linear: npt.NDArray[np.generic]) -> npt.NDArray:  # type: ignore[type-arg]
    """(d·c,) the value of each feature at its k factor parameters and its linear one, row by row."""
    full = np.repeat(factors[:, None], model.columns, axis=1)
    if model.linear:
        full[:, model.rank] = linear
    return full.ravel()


def random_start(
    model: Model, counts: Mapping[SideName, Vector], weight: float, seed: int, start: int, spread: float
) -> Vector:
    """(p,) factors drawn so that each pre-activation xᵀu has standard deviation about `spread`; linear terms 0.

    Entries are N(0, spread² / mean ‖x‖²), mean ‖x‖² = Σ_r c_r/Σ_Ω w; the stream depends on seed, start and side alone.
    """
    sides = []
    for index, side in enumerate(SideName):
        generator = np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, start, index])))
        mean_square = float(counts[side].sum()) / weight
        weights = np.zeros((model.width(side), model.columns))
        weights[:, : model.rank] = generator.standard_normal((model.width(side), model.rank))
        sides.append(weights * (spread / np.sqrt(mean_square) if mean_square > 0 else 0.0))
    theta = model.ravel(Parameters(*sides))
    return np.where(np.repeat(np.concatenate([counts[s] for s in SideName]) > 0, model.columns), theta, 0.0)
