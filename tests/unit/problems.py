"""Small problems for the tests of kernels and data, and their objective written densely, from its formula alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
from scipy.sparse import csr_array
from scipy.special import erf

from nimc_spark.data.local import Features, LocalOracle, Observations, records_of_arrays
from nimc_spark.data.passes import Record
from nimc_spark.kernels.features import DenseGroup, Part, Rows, SparseGroup, dense_rows
from nimc_spark.kernels.model import Model, SideName, Vector
from nimc_spark.kernels.objective import GroupPenalty, Layout, Objective, objective
from nimc_spark.kernels.ratings import RatingBlock
from nimc_spark.kernels.statistics import Averages, FeatureCounts, LossGradient, Sums

USERS, ITEMS = 6, 5
# Statistics that need nothing but parameters.
STATISTICS = (LossGradient, FeatureCounts, Averages)
PENALTIES = {"attributes": GroupPenalty(0.3, 0.05), "id": GroupPenalty(1.1, 0.4)}
Reference = tuple[Callable[[np.ndarray], np.ndarray], Callable[[np.ndarray], np.ndarray]]
REFERENCES: Mapping[str, Reference] = {
    "identity": (lambda z: z, lambda z: 0 * z + 1),
    "sigmoid": (lambda z: 1 / (1 + np.exp(-z)), lambda z: np.exp(-z) / (1 + np.exp(-z)) ** 2),
    "tanh": (lambda z: (np.exp(z) - np.exp(-z)) / (np.exp(z) + np.exp(-z)), lambda z: 1 / np.cosh(z) ** 2),
    "relu": (lambda z: np.maximum(z, 0), lambda z: (z > 0) * 1.0),
    "leaky_relu(0.1)": (lambda z: np.maximum(z, 0.1 * z), lambda z: np.where(z > 0, 1.0, 0.1)),
    "softplus(2)": (lambda z: np.log(1 + np.exp(2 * z)) / 2, lambda z: np.exp(2 * z) / (1 + np.exp(2 * z))),
    "erf": (erf, lambda z: 2 / np.sqrt(np.pi) * np.exp(-(z**2))),
    "quadratic": (lambda z: z**2, lambda z: 2 * z),
}


@dataclass(frozen=True)
class Problem:
    """Ω, features of both sides in two groups "attributes" and "id", and the objective's settings."""

    model: Model
    users: Features
    items: Features
    observations: Observations
    penalties: Mapping[str, GroupPenalty]
    power: float
    beta: float = 0.0

    @property
    def count(self) -> int:
        return len(self.observations.rating)

    def features(self, side: SideName) -> Features:
        return self.users if side is SideName.USERS else self.items

    def records(self, lanes: int = 1, item_parts: int = 1) -> list[Record]:
        return records_of_arrays(self.users, self.items, self.observations, self.model.dtype, lanes, item_parts)

    def passes(self, lanes: int = 1, item_parts: int = 1) -> LocalOracle:
        return LocalOracle(self.records(lanes, item_parts))

    def counts(self, passes: LocalOracle) -> dict[SideName, Vector]:
        sums = passes.run(FeatureCounts(), self.model, [self.model.unravel(np.zeros(self.model.size))])[0]
        return {side: rows_of(sums, side.value, self.model.width(side))[:, 0] for side in SideName}

    def objective(self, passes: LocalOracle) -> Objective:
        names = ("attributes", "id")
        layouts = {
            side: Layout(tuple((n, m.shape[1]) for n, m in zip(names, self.features(side), strict=True)))
            for side in SideName
        }
        penalties = dict.fromkeys(SideName, self.penalties)
        return objective(self.model, self.count, self.counts(passes), layouts, penalties, self.power, self.beta)


def small_problem(encoding: str = "mixed", seed: int = 5, power: float = 0.5, **model: object) -> Problem:
    """Six users and five items, the last of each without a rating; 14 ratings with repeats, weights and offsets.

    `encoding` of the groups attributes and id: "dense", "sparse", or "mixed" (dense attributes, sparse ids).
    """
    random = np.random.default_rng(seed)
    user = np.array([0, 0, 0, 1, 1, 2, 2, 2, 3, 3, 4, 4, 4, 0])
    item = np.array([0, 1, 1, 0, 3, 2, 3, 0, 1, 1, 2, 0, 3, 1])
    r = len(user)
    observations = Observations(
        user, item, random.normal(size=r), random.uniform(0.5, 2.0, r), random.normal(scale=0.3, size=r)
    )
    sides = []
    for n in (USERS, ITEMS):
        attributes = random.normal(size=(n, 3)) * (random.random((n, 3)) < 0.8)
        groups = [attributes, np.eye(n)]
        sparse = {"dense": (False, False), "sparse": (True, True), "mixed": (False, True)}[encoding]
        sides.append([csr_array(g) if s else g for g, s in zip(groups, sparse, strict=True)])
    settings = {"rank": 2, "dtype": "float64", **model}
    shape = Model(users_width=3 + USERS, items_width=3 + ITEMS, **settings)  # type: ignore[arg-type]
    return Problem(shape, sides[0], sides[1], observations, PENALTIES, power)


def unlabelled(problem: Problem, beta: float) -> Problem:
    """The problem with each pair once, no offset of a rating, and a complement of weight beta."""
    o = problem.observations
    _, once = np.unique(o.user * ITEMS + o.item, return_index=True)
    return replace(problem, observations=replace(o.take(once), offset=None), beta=beta)


def dense(features: Features) -> np.ndarray:
    return np.hstack([m if isinstance(m, np.ndarray) else m.toarray() for m in features])


def dense_counts(problem: Problem) -> dict[SideName, Vector]:
    """c_r = Σ_Ω w x_r², a rating at a time."""
    o = problem.observations
    w = np.ones(problem.count) if o.weight is None else o.weight
    rows = {SideName.USERS: o.user, SideName.ITEMS: o.item}
    return {s: (w[:, None] * dense(problem.features(s))[rows[s]] ** 2).sum(axis=0) for s in SideName}


def dense_scores(problem: Problem, theta: Vector) -> np.ndarray:
    """(n1, n2) aᵀx + bᵀy + φ_u(Uᵀx)ᵀφ_v(Vᵀy) of every pair."""
    model, k = problem.model, problem.model.rank
    U, V = model.unravel(theta)
    X, Y = dense(problem.users), dense(problem.items)
    phi_u, phi_v = (REFERENCES[name][0] for name in (model.users_activation, model.items_activation))
    scores = phi_u(X @ U[:, :k]) @ phi_v(Y @ V[:, :k]).T
    if model.linear:
        scores = scores + (X @ U[:, k])[:, None] + (Y @ V[:, k])[None, :]
    return scores


def dense_value_and_gradient(problem: Problem, theta: Vector) -> tuple[float, Vector]:
    """f and ∇f with Ω as full n1 × n2 matrices; features that no rating has are no parameters."""
    model, k, o = problem.model, problem.model.rank, problem.observations
    U, V = model.unravel(theta)
    X, Y = dense(problem.users), dense(problem.items)
    (phi_u, slope_u), (phi_v, slope_v) = (REFERENCES[n] for n in (model.users_activation, model.items_activation))
    w = np.ones(problem.count) if o.weight is None else o.weight
    offset = np.zeros(problem.count) if o.offset is None else o.offset
    error = dense_scores(problem, theta)[o.user, o.item] + offset - o.rating
    E = np.zeros((len(X), len(Y)))
    np.add.at(E, (o.user, o.item), w * error)
    grad_u = X.T @ (slope_u(X @ U[:, :k]) * (E @ phi_v(Y @ V[:, :k])))
    grad_v = Y.T @ (slope_v(Y @ V[:, :k]) * (E.T @ phi_u(X @ U[:, :k])))
    if model.linear:
        grad_u = np.hstack([grad_u, X.T @ E.sum(axis=1, keepdims=True)])
        grad_v = np.hstack([grad_v, Y.T @ E.sum(axis=0)[:, None]])
    value, gradients = 0.5 * float(np.sum(w * error**2)), []
    counts = dense_counts(problem)
    for side, W, gradient in ((SideName.USERS, U, grad_u), (SideName.ITEMS, V, grad_v)):
        widths = [m.shape[1] for m in problem.features(side)]
        lam = np.zeros_like(W)
        for row in range(len(W)):
            group = problem.penalties["attributes" if row < widths[0] else "id"]
            lam[row] = counts[side][row] ** problem.power * group.factors
            if model.linear:
                lam[row, k] = counts[side][row] ** problem.power * group.linear
        value += 0.5 * float(np.sum(lam * W**2))
        gradients.append(np.where(counts[side][:, None] > 0, gradient + lam * W, 0.0).ravel())
    return value / problem.count, np.concatenate(gradients) / problem.count


def smallest_preactivation(problem: Problem, theta: Vector) -> float:
    """min |xᵀu| over rated users and items and all columns: how far the point is from a rectifier's kink."""
    k, o = problem.model.rank, problem.observations
    U, V = problem.model.unravel(theta)
    z = [dense(problem.users)[o.user] @ U[:, :k], dense(problem.items)[o.item] @ V[:, :k]]
    return float(min(np.abs(part).min() for part in z))


def rows_of(sums: Sums, name: str, height: int) -> np.ndarray:
    """The (height, c) array of a sum that travels as touched rows."""
    value = sums[name]
    assert isinstance(value, Rows)
    return dense_rows(value, height)


def array_of(sums: Sums, name: str) -> np.ndarray:
    value = sums[name]
    assert isinstance(value, np.ndarray)
    return value


def bits(value: object) -> object:
    """What two things must share to be bitwise the same: dtype, shape and bytes of every array they hold."""
    match value:
        case np.ndarray():
            return value.dtype.str, value.shape, value.tobytes()
        case Rows() | tuple() | list():
            return [bits(v) for v in value]
        case dict():
            return {name: bits(v) for name, v in value.items()}
        case Part() | DenseGroup() | SparseGroup() | RatingBlock():
            return type(value).__name__, {name: bits(v) for name, v in vars(value).items()}
        case _:
            return value


def with_part_offsets(records: list[Record], users: np.ndarray, items: np.ndarray) -> list[Record]:
    """The same single-lane, single-part records with an offset for each user and item."""
    changed = []
    for record in records:
        part = record.payload
        if isinstance(part, Part):
            part = replace(part, offset=items if record.lane < 0 else users)
        changed.append(record._replace(payload=part))
    return changed
