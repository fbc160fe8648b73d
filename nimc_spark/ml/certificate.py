"""What a trained model's point is: gradient, extreme curvatures, the step and rate that they imply, and a verdict.

    M_l = λ_min(∇²f), M_u = λ_max(∇²f)      step 1/M_u, rate 1 − M_l/M_u of gradient descent (Theorem 3.3)
    ‖∇f‖²/(2 M_u) ≤ 1e-5 f and M_l ≥ −τ: a τ-relaxed second-order point

All in the solver's variables z = θ / scale (`Objective.scale`), in which `gd` takes its step: the signs of eigenvalues
are those in θ. Eigenvalues are those of ∇²f itself where the parameters are few, else found by Lanczos on products with
it, each a pass over Ω, in float64. In θ the lower end is a crowd of nearly equal eigenvalues of ids with few ratings,
where Lanczos does not settle. ReLU units without a penalty scale freely, which is a direction of curvature 0 each: one
entry of each is then held fixed (`gauge`), as in objective (4) of the NIMC paper.
Source: section 3 of the NIMC paper; the constants of its proof are M_l and M_u.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from pyspark.sql import DataFrame

from nimc_spark.errors import DataError, UsageError
from nimc_spark.kernels.alignment import gauge
from nimc_spark.kernels.model import Parameters, SideName, Vector
from nimc_spark.kernels.objective import Objective
from nimc_spark.ml.model import NIMCModel
from nimc_spark.ml.problem import training_problem
from nimc_spark.ml.sides import side_input
from nimc_spark.ml.training import Fit
from nimc_spark.solvers.lanczos import MOST_DENSE, Extremes, extreme_eigenvalues
from nimc_spark.solvers.oracle import Oracle, ScaledOracle

# A curvature within this share of the largest is zero to the accuracy of Lanczos.
_ZERO = 1e-6
# A point from which a step of gradient descent gains less than this share of the loss is stationary.
_NO_GAIN = 1e-5
# Share of the loss by which a model may miss the loss of its own training, which may have been in float32.
_SAME_LOSS = 1e-4
_LANDSCAPE_POINTS = 41
_GIVE_THOSE = "give the ratings and tables that it was trained on"


@dataclass(frozen=True)
class Certificate:
    """f, ‖∇f‖₂, λ_min and λ_max of ∇²f over the free parameters in z, and losses along their eigenvectors.

    `fixed` of the `parameters` are not free, where units scale freely. `products` passes went into the
    eigenvalues; `converged` is False where their limit came first.
    """

    parameters: int
    fixed: int
    loss: float
    gradient_norm: float
    least: float
    largest: float
    products: int
    converged: bool
    landscape: Mapping[str, tuple[tuple[float, ...], tuple[float, ...]]]

    @property
    def step(self) -> float | None:
        """1/M_u; None without M_u > 0."""
        return 1 / self.largest if self.largest > 0 else None

    @property
    def gain(self) -> float:
        """‖∇f‖²/(2 M_u), what a step of gradient descent takes off the loss at least; ∞ without M_u > 0."""
        steepness = 0.5 * self.gradient_norm**2
        return steepness / self.largest if self.largest > 0 else np.inf * steepness if steepness else 0.0

    @property
    def rate(self) -> float | None:
        """1 − M_l/M_u, the contraction of a step of gradient descent near here; None without M_l > 0."""
        return 1 - self.least / self.largest if self.least > 0 else None

    @property
    def verdict(self) -> str:
        """What kind of point this is, in words."""
        edge = _ZERO * abs(self.largest)
        if not self.converged:
            return "undecided: the eigenvalues did not settle within the limit of products"
        if self.gain > _NO_GAIN * self.loss:
            return (
                f"no stationary point: ‖∇f‖ = {self.gradient_norm:.3g}, a step of gradient descent takes "
                f"{self.gain:.3g} off the loss {self.loss:.3g}; train with more passes or a smaller tol"
            )
        if self.least < -edge:
            return f"a saddle: the loss bends down along the bottom eigenvector (τ = {-self.least:.3g})"
        flat = "flat along some direction" if self.least <= edge else "strictly convex around it"
        return f"a τ-relaxed second-order point with τ = {max(-self.least, 0.0) + 0.0:.3g}, {flat}"

    def figures(self) -> dict[str, Any]:
        """The numbers, for a result line."""
        return {
            "parameters": self.parameters,
            "fixed": self.fixed,
            "loss": self.loss,
            "gradient_norm": self.gradient_norm,
            "lambda_min": self.least,
            "lambda_max": self.largest,
            "step": self.step,
            "rate": self.rate,
            "products": self.products,
            "verdict": self.verdict,
        }


def certificate(model: NIMCModel, ratings: DataFrame, limit: int = 400, reach: float = 1.0) -> Certificate:
    """The certificate of a model on the ratings it was trained on, with its tables of attributes set.

    `limit` bounds the products of each eigenvalue; `reach` is how far the landscape goes, in units of √(1/|λ|) capped
    at the norm of the parameters. Raises DataError where data and model do not belong together: other ids, another
    number of ratings, or another loss than at the end of training; UsageError for a model without a parameter.
    """
    if limit < 1 or not 0 < reach < np.inf:
        raise UsageError(f"limit = {limit}, reach = {reach}: limit must be at least 1, reach a finite number > 0")
    if model.trained.model.rank != model.getOrDefault("rank"):
        raise UsageError(
            "this model is a mean of several starts, each with a stationary point of its own: there is none"
        )
    exact = model.copy({model.dtype: "float64"})
    held = {SideName.USERS: model._users, SideName.ITEMS: model._items}
    inputs = {side: side_input(model, side, held[side], ratings.sparkSession) for side in SideName}
    with training_problem(exact, ratings, inputs) as found:
        fit = Fit(exact, found)
        goal = fit.objective
        oracle = ScaledOracle(found.oracle.bind(goal), goal.scale)
        z = oracle.to_scaled(_parameters(model, fit))
        at = oracle.evaluate([z])[0]
        _check_loss(model, fit, at.value)
        dense, seed = MOST_DENSE if found.has_matrices else 0, model.unsigned_seed
        fixed = _fixed(goal, z)
        if not (goal.mask & ~fixed).any():
            raise UsageError("this model has no free parameter: every feature is 0 at every rating")
        ends = extreme_eigenvalues(oracle, z, goal.mask & ~fixed, seed, tolerance=_ZERO, limit=limit, most_dense=dense)
        return Certificate(
            parameters=int(goal.mask.sum()),
            fixed=int(fixed.sum()),
            loss=at.value,
            gradient_norm=float(np.linalg.norm(at.gradient)),
            least=ends.least,
            largest=ends.largest,
            products=ends.products,
            converged=ends.converged,
            landscape=_landscape(oracle, z, ends, reach),
        )


def _fixed(goal: Objective, z: Vector) -> npt.NDArray[np.bool_]:
    """(p,) the gauge of a point where units scale freely: a penalty on factors tells one scaling from another."""
    factors = [w[:, : goal.model.rank] for w in goal.model.unravel(goal.strength)]
    if any(w.any() for w in factors):
        return np.zeros(len(z), dtype=bool)
    return gauge(goal.model, goal.model.unravel(z))


def _parameters(model: NIMCModel, fit: Fit) -> Vector:
    """θ of the trained model in the order of the problem, which follows from the ids alone."""
    sides, shape = [], fit.model
    for side in SideName:
        own = model.trained.sides[side]
        ids = fit.problem.blocks.sides[side].index.select("id", "index").toArrow().sort_by("index").column("id")
        if not ids.equals(own.ids.column("id")):
            raise DataError(
                f"these ratings have {len(ids)} {side.value} ({ids.type}) which are not the {own.ids.num_rows} "
                f"({own.ids.schema.field('id').type}) of the model: {_GIVE_THOSE}"
            )
        rows = [own.declared]
        if own.ids.column("weights").null_count < own.ids.num_rows:
            flat = own.ids.column("weights").combine_chunks().flatten().to_numpy(zero_copy_only=False)
            rows.append(flat.reshape(own.ids.num_rows, -1))
        if own.history is not None:
            rows.append(own.history.rows)
        sides.append(np.vstack(rows))
        if sides[-1].shape != (shape.width(side), shape.columns):
            raise DataError(
                f"these ratings and tables give the {side.value} {shape.width(side)} features, the model has "
                f"{len(sides[-1])}: {_GIVE_THOSE}"
            )
    return shape.ravel(Parameters(*sides))


def _check_loss(model: NIMCModel, fit: Fit, loss: float) -> None:
    """Raises DataError where the loss is not that of the end of training: values differ, if not ids."""
    summary, count = model.summary, fit.problem.profile.count
    if count != summary.ratings or not math.isclose(loss, summary.loss, rel_tol=_SAME_LOSS):
        raise DataError(
            f"{count} ratings with a loss of {loss:.6g}, but the model was trained on {summary.ratings} to a loss of "
            f"{summary.loss:.6g}: {_GIVE_THOSE}"
        )


def _landscape(
    oracle: Oracle, z: Vector, ends: Extremes, reach: float
) -> dict[str, tuple[tuple[float, ...], tuple[float, ...]]]:
    """Losses along the eigenvectors, all points of both in one pass."""
    widest = float(np.linalg.norm(z)) or 1.0
    scales, points = {}, []
    for label, value, vector in (("bottom", ends.least, ends.bottom), ("top", ends.largest, ends.top)):
        far = reach * min(widest, 1 / np.sqrt(max(abs(value), 1e-300)))
        scales[label] = np.linspace(-far, far, _LANDSCAPE_POINTS)
        points += [z + t * vector for t in scales[label]]
    losses = iter([e.value for e in oracle.evaluate(points)])
    return {label: (tuple(map(float, t)), tuple(next(losses) for _ in t)) for label, t in scales.items()}
