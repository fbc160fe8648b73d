"""Statistics of a pass: what is summed over Ω. Each is a small monoid of plain sums.

A statistic says what one lane contributes (`of`); `merge` adds two contributions; the mean over |Ω| and the penalties
enter once, on the driver (`objective.py`). Adding a statistic is one class here, with its finite-difference test.

Conventions
    Sums     a dict of named sums: float64 arrays, or `Rows` where only touched rows of a (d, c) array travel
    Lane     a user part with its rating blocks, in block order; sums run in that order, so their bits are fixed
    items    all item parts, those without a rating of the lane too: a complement counts every item with its users
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from nimc_spark.kernels.complement import Matrix, gram
from nimc_spark.kernels.features import Array, Part, Rows, SparseGroup, add_rows, stack_rows
from nimc_spark.kernels.model import Forward, Model, Parameters, SideName, backward, forward, inputs, pull
from nimc_spark.kernels.ratings import RatingBlock, inner_products, middle, rating_weights

Sums = dict[str, npt.NDArray[np.float64] | Rows]


def array_of(sums: Sums, name: str) -> npt.NDArray[np.float64]:
    """The sum `name`, which is an array."""
    value = sums[name]
    if isinstance(value, Rows):
        raise TypeError(f"the sum {name!r} is rows")
    return value


def rows_of(sums: Sums, name: str) -> Rows:
    """The sum `name`, which is rows."""
    value = sums[name]
    if not isinstance(value, Rows):
        raise TypeError(f"the sum {name!r} is an array")
    return value


@dataclass(frozen=True)
class Lane:
    """One user part and its blocks, each with the number of its item part and that part; and all item parts."""

    users: Part
    blocks: tuple[tuple[int, Part, RatingBlock], ...]
    items: tuple[tuple[int, Part], ...] = ()


class Sides:
    """Both sides at one set of parameters; an item part is evaluated once a task, however many lanes use it, and the
    user part of a lane once, however often it is asked for."""

    def __init__(self, model: Model, parameters: Parameters) -> None:
        self.model = model
        self.parameters = Parameters(*(w.astype(model.dtype, copy=False) for w in parameters))
        self._items: dict[int, Forward] = {}
        self._users: tuple[Part, Forward] | None = None
        self._items_gram: Matrix | None = None

    def users(self, part: Part) -> Forward:
        if self._users is None or self._users[0] is not part:
            self._users = (part, forward(self.model, SideName.USERS, part, self.parameters.users))
        return self._users[1]

    def items(self, number: int, part: Part) -> Forward:
        if number not in self._items:
            self._items[number] = forward(self.model, SideName.ITEMS, part, self.parameters.items)
        return self._items[number]

    def items_gram(self, items: Sequence[tuple[int, Part]]) -> Matrix:
        """Q̂ᵀQ̂ over the items of all parts, (k+2, k+2), made once."""
        if self._items_gram is None:
            self._items_gram = np.sum([gram(self.items(number, part).scores) for number, part in items], axis=0)
        return self._items_gram


class Statistic(Protocol):
    """What one lane adds to the sums of a pass."""

    def of(self, lane: Lane, sides: Sides) -> Sums: ...


def merge(left: Sums, right: Sums) -> Sums:
    """left + right, name by name. Order matters to the last bit, so callers merge in a fixed order."""
    return {name: _add(value, right[name]) for name, value in left.items()}


def _add(left: npt.NDArray[np.float64] | Rows, right: npt.NDArray[np.float64] | Rows) -> npt.NDArray[np.float64] | Rows:
    if isinstance(left, Rows) and isinstance(right, Rows):
        return add_rows([left, right])
    if isinstance(left, Rows) or isinstance(right, Rows):
        raise TypeError("a sum is either rows or an array in every lane")
    return left + right


@dataclass
class Gathered:
    """The middle of a lane: loss, E Q̂ (n, k+2), and of each item part that it met Eᵀ P̂; all float64."""

    loss: float
    users: npt.NDArray[np.float64]
    items: dict[int, tuple[Part, npt.NDArray[np.float64]]]

    def add_items(self, number: int, part: Part, more: Array) -> None:
        before = self.items.get(number)
        self.items[number] = (part, more.astype(np.float64) if before is None else before[1] + more)


def gather(lane: Lane, sides: Sides, beta: float) -> Gathered:
    """Loss, E Q̂ and Eᵀ P̂ over the lane's blocks, and the complement's share of them (`complement.py`)."""
    p = sides.users(lane.users).scores
    found = Gathered(0.0, np.zeros(p.shape), {})
    for number, part, block in lane.blocks:
        loss, eq, ep = middle(block, p, sides.items(number, part).scores, beta)
        found.loss += loss
        found.users += eq
        found.add_items(number, part, ep)
    if beta:
        own, other = gram(p), sides.items_gram(lane.items)
        found.loss += 0.5 * beta * float(np.vdot(own, other))
        found.users += p @ (beta * other).astype(p.dtype)
        for number, part in lane.items:
            found.add_items(number, part, sides.items(number, part).scores @ (beta * own).astype(p.dtype))
    return found


@dataclass(frozen=True)
class LossGradient:
    """loss = ½ Σ_Ω w e², users = Xᵀ[P' ∘ (E Q̂)], items = Yᵀ[Q' ∘ (Eᵀ P̂)], all without the factor 1/|Ω|.

    With `beta` the sums are those of `complement.py`.
    """

    beta: float = 0.0

    def of(self, lane: Lane, sides: Sides) -> Sums:
        return gradient_sums(lane, sides, gather(lane, sides, self.beta))


def gradient_sums(lane: Lane, sides: Sides, gathered: Gathered) -> Sums:
    """The sums of `LossGradient` from the middle of a lane."""
    model = sides.model
    users = pull(model, SideName.USERS, sides.users(lane.users).slopes, gathered.users)
    items = (
        backward(part, pull(model, SideName.ITEMS, sides.items(number, part).slopes, sums))
        for number, (part, sums) in gathered.items.items()
    )
    return {
        "loss": np.array([gathered.loss]),
        "users": backward(lane.users, users),
        "items": sum_rows(items, model.columns),
    }


@dataclass(frozen=True)
class FeatureCounts:
    """c_r = Σ_Ω w x_r² of every feature column r, for users (d1, 1) and items (d2, 1).

    The counts scale the penalty (c_r^p) and the solver's variables; a column with c_r = 0 is masked.
    `weight` is Σ w; `non_finite` is above 0 where a part with a rating has NaN or infinite features.
    """

    def of(self, lane: Lane, sides: Sides) -> Sums:
        per_user = np.zeros(lane.users.rows)
        items: list[Rows] = []
        broken = 0 if _finite(lane.users) else 1
        for _, part, block in lane.blocks:
            w = rating_weights(block)
            per_user += np.bincount(block.users(), w, minlength=lane.users.rows)
            items.append(_squares(part, np.bincount(block.item, w, minlength=part.rows)))
            broken += 0 if _finite(part) else 1
        return {
            "users": _squares(lane.users, per_user),
            "items": sum_rows(items, 1),
            "weight": np.array([per_user.sum()]),
            "non_finite": np.array([float(broken)]),
        }


@dataclass(frozen=True)
class Errors:
    """Over Ω: Σ w, Σ w |e| and Σ w e² of e = score − rating, the score bounded by `lowest` and `highest`."""

    lowest: float = -np.inf
    highest: float = np.inf

    def of(self, lane: Lane, sides: Sides) -> Sums:
        p = sides.users(lane.users).scores
        total = np.zeros(3)
        for number, part, block in lane.blocks:
            scores = inner_products(block, p, sides.items(number, part).scores).astype(np.float64)
            offset = 0.0 if block.offset is None else block.offset
            errors = np.clip(scores + offset, self.lowest, self.highest) - block.rating
            w = rating_weights(block)
            total += [w.sum(), w @ np.abs(errors), w @ (errors * errors)]
        return {"errors": total}


def targets(lane: Lane, part: Part, block: RatingBlock) -> npt.NDArray[np.float64]:
    """(r,) rating − offsets of the rating, its user and its item."""
    target = block.target() - lane.users.offset[block.users()] - part.offset[block.item]
    return target.astype(np.float64)


# A slope below this passes next to nothing back.
FLAT = 1e-3


@dataclass(frozen=True)
class Averages:
    """Over Ω, weighted by w: Σw, Σ P̂_i, Σ Q̂_j, Σ s and Σ s² of the interaction s = φ_u(Uᵀx)ᵀφ_v(Vᵀy), and
    ½ Σ (r − o)², the loss of the offsets o alone.

    The mean P̂ stands for a user of whom nothing is known; the variance of s tells a collapsed model. users_flat and
    items_flat (k,) are Σ w over the ratings where |φ'| of the factor is below 1e-3: a dead or saturated unit learns
    nothing from them.
    """

    def of(self, lane: Lane, sides: Sides) -> Sums:
        k = sides.model.rank
        p, p_flat = _scores_and_flat(sides.users(lane.users), k)
        sizes = {"weight": 1, "users": k + 2, "items": k + 2, "interaction": 2, "offsets_loss": 1}
        sizes |= {"users_flat": k, "items_flat": k}
        total: Sums = {name: np.zeros(size) for name, size in sizes.items()}
        for number, part, block in lane.blocks:
            q, q_flat = _scores_and_flat(sides.items(number, part), k)
            w = rating_weights(block)
            s = inner_products(block, p[:, :k], q[:, :k])
            per_user = np.bincount(block.users(), w, minlength=len(p))
            per_item = np.bincount(block.item, w, minlength=len(q))
            mine: Sums = {
                "weight": np.array([w.sum()]),
                "users": per_user @ p,
                "items": per_item @ q,
                "interaction": np.array([w @ s, w @ (s * s)]),
                "offsets_loss": np.array([0.5 * (w @ targets(lane, part, block) ** 2)]),
                "users_flat": per_user @ p_flat,
                "items_flat": per_item @ q_flat,
            }
            total = merge(total, mine)
        return total


def _scores_and_flat(side: Forward, rank: int) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    flat = (np.abs(side.slopes[:, :rank]) < FLAT).astype(np.float64)
    return side.scores.astype(np.float64), flat


@dataclass(frozen=True)
class Inputs:
    """rows = X W, or with `squared` (X∘X) W, in lanes that stand for rows of one matrix (`data/outside.py`).

    W (d, c) takes the place of the users' parameters. Of the lane's user part the last group is no feature: its columns
    say which rows of the whole matrix the part has. `non_finite` counts parts with NaN or infinite features.
    """

    squared: bool = False

    def of(self, lane: Lane, sides: Sides) -> Sums:
        *features, own = lane.users.groups
        if not isinstance(own, SparseGroup):
            raise TypeError("a part without the numbers of its rows")
        part = Part(lane.users.offset, tuple(g.squared() if self.squared else g for g in features))
        sums: Sums = {"rows": Rows(own.columns, inputs(part, sides.parameters.users).astype(np.float64))}
        if self.squared:
            sums["non_finite"] = np.array([0.0 if _finite(part) else 1.0])
        return sums


def _finite(part: Part) -> bool:
    return all(group.finite() for group in part.groups)


def _squares(part: Part, weights: npt.NDArray[Any]) -> Rows:
    return stack_rows([group.squared().transpose_times(weights[:, None]) for group in part.groups], 1)


def sum_rows(rows: Iterable[Rows], columns: int) -> Rows:
    every = list(rows)
    return add_rows(every) if every else stack_rows([], columns)
