"""Training: ratings and features → a trained model, by passes over Ω."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from pyspark.sql import DataFrame

from nimc_spark.data.tensor_start import tensor_start
from nimc_spark.data.threads import one_blas_thread
from nimc_spark.engine.factors import SideModel, trained_history, trained_ids
from nimc_spark.engine.features import FittedFeatures
from nimc_spark.errors import TrainingError, UsageError
from nimc_spark.kernels.model import Model, Parameters, SideName, Vector, mean_model
from nimc_spark.kernels.objective import Layout, Objective, objective, random_start
from nimc_spark.kernels.statistics import FLAT, Averages, Sums, array_of
from nimc_spark.ml.params import NIMCParams
from nimc_spark.ml.penalties import group_penalties
from nimc_spark.ml.problem import Problem, training_problem
from nimc_spark.ml.sides import SideInput
from nimc_spark.ml.summary import TrainingSummary
from nimc_spark.ml.training_state import watch
from nimc_spark.ml.warm_start import warm_start
from nimc_spark.solvers import solver
from nimc_spark.solvers.multistart import Outcome, PassRecord, Watch, best_outcome, minimize
from nimc_spark.solvers.oracle import ScaledOracle
from nimc_spark.solvers.progress import Progress
from nimc_spark.solvers.solver import Solver

OnPass = Callable[[PassRecord], None]
_LOG = logging.getLogger(__name__)

# A gradient this small, in scaled variables, is zero to rounding.
_GRADIENT_TOLERANCE = 1e-12
# An interaction that varies less than this share of the ratings' range says nothing about any pair.
_COLLAPSED_SHARE = 1e-4
# A loss this small is that of a perfect fit.
_NOTHING = 1e-12
# A side with more of its slopes at 0 than this hardly learns.
_SATURATED_SHARE = 0.5


@dataclass(frozen=True)
class Trained:
    """A trained model, on the driver; `features` are the fitted declarations of each side."""

    model: Model
    sides: Mapping[SideName, SideModel]
    features: Mapping[SideName, FittedFeatures]
    rating_range: tuple[float, float]
    summary: TrainingSummary


def train(
    params: NIMCParams,
    dataset: DataFrame,
    inputs: Mapping[SideName, SideInput],
    on_pass: OnPass,
    earlier: Trained | None = None,
) -> Trained:
    """Train on a ratings DataFrame as the Params say, the first start from an `earlier` model if there is one.

    Raises DataError for unusable data, UsageError for Params that do not fit it, TrainingError when training diverges.
    """
    began = time.monotonic()
    with training_problem(params, dataset, inputs) as found:
        return Fit(params, found, earlier).run(on_pass, began)


class Fit:
    """One way to train on a problem: a shape, an objective, a start, and in the end a model."""

    def __init__(self, params: NIMCParams, problem: Problem, earlier: Trained | None = None) -> None:
        self.params = params
        self._earlier = earlier
        self._get = params.getOrDefault
        self._beta = params.complement_weight
        self.problem = problem
        self._warnings: list[str] = []
        self.model = _shape(params, problem.layouts, problem.plan.dtype)

    def run(self, on_pass: OnPass, began: float) -> Trained:
        """Train to the end."""
        losses: list[tuple[float, ...]] = []

        def record(done: PassRecord) -> None:
            losses.append(done.losses)
            _LOG.debug("pass %d: loss %.9g", done.number, min(done.losses))
            on_pass(done)

        begun_with = None if self._earlier is None else self.starts[0]
        budget = watch(self.params, self.problem.blocks.records.whole, began, begun_with)
        outcomes = self._minimize(record, budget)
        best = best_outcome(outcomes)
        start = outcomes.index(best)
        sound = [outcome for outcome in outcomes if not outcome.reason.failed and outcome is not best]
        beside = sound if self._get("averageStarts") else []
        trained = self.trained(best, start, [row[start] for row in losses], began, beside)
        budget.forget()
        return trained

    def trained(
        self, outcome: Outcome, start: int, losses: Sequence[float], began: float, beside: Sequence[Outcome] = ()
    ) -> Trained:
        """The model at an outcome in the variables of `oracle`, `losses` its loss after each pass; costs a pass.

        With outcomes `beside` it, the model whose scores are the means of all.
        """
        goal, problem = self.objective, self.problem
        model, parameters = self.model, self.parameters(outcome)
        if beside:
            model, parameters = mean_model(model, [parameters, *map(self.parameters, beside)])
        averages = problem.oracle.run(Averages(), model, [parameters])[0]
        summary = TrainingSummary(
            ratings=problem.profile.count,
            users=problem.blocks.sides[SideName.USERS].count,
            items=problem.blocks.sides[SideName.ITEMS].count,
            parameters=int(goal.mask.sum()),
            lanes=len(problem.blocks.lanes),
            passes=len(losses),
            start=start,
            reason=outcome.reason.value,
            loss=outcome.iterate.value,
            losses=tuple(losses),
            seconds=round(time.monotonic() - began, 3),
            collapsed=self._collapsed(averages),
            solver=problem.plan.solver,
            items_at=problem.plan.items.value,
            passes_at=problem.plan.passes.value,
            warnings=(
                *self._warnings,
                *self._shape_warnings(int(goal.mask.sum())),
                *self._loss_warnings(losses, averages),
                *flat_units(model, averages),
            ),
        )
        for warning in summary.warnings:
            _LOG.warning(warning)
        if summary.collapsed:
            _LOG.warning(
                "training collapsed: the factors tell no pair from another; lower regParam or raise initSpread"
            )
        features = {side: problem.sides[side].features for side in SideName}
        sides = {side: self._side_model(side, model, parameters, averages) for side in SideName}
        return Trained(model, sides, features, self.rating_range, summary)

    @property
    def rating_range(self) -> tuple[float, float]:
        """What scores are bounded by; the pairs of a complement are data too, with the rating 0."""
        zero = [0.0] if self._beta else []
        profile = self.problem.profile
        return min(profile.lowest, *zero, np.inf), max(profile.highest, *zero, -np.inf)

    @cached_property
    def objective(self) -> Objective:
        """What is minimized."""
        problem = self.problem
        penalties = group_penalties(self.params, {side: problem.sides[side].declarations for side in SideName})
        return objective(
            self.model,
            problem.profile.count,
            problem.counts,
            problem.layouts,
            penalties,
            self._get("regPower"),
            self._beta,
        )

    @cached_property
    def oracle(self) -> ScaledOracle:
        """The objective on the training data, in the variables in which solvers see it."""
        return ScaledOracle(self.problem.oracle.bind(self.objective), self.objective.scale)

    @property
    def solver(self) -> Solver[Any]:
        progress = Progress(self._get("tol"), _GRADIENT_TOLERANCE)
        return solver(self.problem.plan.solver, progress, self.params.optional("stepSize"))

    @cached_property
    def starts(self) -> list[Vector]:
        """Random starts in the variables of `oracle`; the first is the earlier model if there is one, or with `init` =
        tensor from moments of the ratings."""
        problem, seed, spread = self.problem, self.params.unsigned_seed, self._get("initSpread")
        starts = [
            random_start(self.model, problem.counts, problem.weight, seed, number, spread)
            for number in range(self._get("starts"))
        ]
        if self._get("init") == "tensor":
            start = tensor_start(problem.oracle, self.model, seed)
            self._warnings += start.warnings
            starts[0] = start.theta
        if self._earlier is not None:
            rows = self.model.unravel(starts[0])
            warm = warm_start(rows, self.model, problem.sides, problem.blocks.sides, self._earlier)
            starts[0] = self.model.ravel(warm)
        return [self.oracle.to_scaled(start) for start in starts]

    def parameters(self, outcome: Outcome) -> Parameters:
        """U and V at an outcome in the variables of `oracle`."""
        return self.model.unravel(self.oracle.from_scaled(outcome.iterate.x))

    def _shape_warnings(self, parameters: int) -> list[str]:
        warnings = []
        if parameters > self.problem.profile.count:
            warnings.append(
                f"{self.problem.profile.count} ratings for {parameters} parameters: regParam decides what they become"
            )
        for side in SideName:
            width = self.model.width(side)
            if self.model.rank > width:
                warnings.append(f"rank {self.model.rank} is above the {width} feature columns of the {side.value}")
        return warnings

    def _loss_warnings(self, losses: Sequence[float], averages: Sums) -> list[str]:
        """What to say where training gained nothing: on its start, or on scores without the model."""
        warnings, without = [], float(array_of(averages, "offsets_loss")[0]) / self.problem.profile.count
        if len(losses) > 1 and losses[-1] >= losses[0] > 0:
            warnings.append(f"none of {len(losses)} passes improved on the start's loss of {losses[0]:.6g}")
        # With a complement the offsets err outside of Ω too.
        if losses and not self._beta and losses[-1] > 1.001 * without + _NOTHING:
            warnings.append(
                f"the loss {losses[-1]:.6g} is above {without:.6g}, that of offsets alone: train longer, or lower "
                "initSpread or regParam"
            )
        return warnings

    def _minimize(self, record: OnPass, budget: Watch) -> list[Outcome]:
        """Where each start ended. Raises TrainingError if all diverged."""
        # A fixed number of threads: the solver's inner products must not depend on the machine's cores.
        with one_blas_thread():
            outcomes = minimize(self.oracle, self.solver, self.starts, self._get("maxIter"), record, budget)
        reason = best_outcome(outcomes).reason
        if reason.failed:
            step = self.params.optional("stepSize")
            shorter = "" if step is None else f"lower stepSize (now {step}), "
            raise TrainingError(
                f"training diverged: {reason.message}; {shorter}check the ratings' scale, or lower initSpread "
                f"(now {self._get('initSpread')}) or raise regParam"
            )
        return outcomes

    def _collapsed(self, averages: Sums) -> bool:
        mean, square = array_of(averages, "interaction") / array_of(averages, "weight")[0]
        spread = float(np.sqrt(max(square - mean * mean, 0.0)))
        lowest, highest = self.rating_range
        return spread <= _COLLAPSED_SHARE * (highest - lowest)

    def _side_model(self, side: SideName, model: Model, parameters: Parameters, averages: Sums) -> SideModel:
        data, weights = {s: self.problem.sides[s].data for s in SideName}, parameters.side(side).astype(np.float64)
        own = data[side]
        default = array_of(averages, side.value) / array_of(averages, "weight")[0]
        ids = trained_ids(self.problem.blocks, side, data, weights)
        history = trained_history(own, ids.num_rows, weights)
        declared = np.ascontiguousarray(weights[: own.declared_width])
        declared.flags.writeable = False
        return SideModel(side, model, declared, ids, own.constant, tuple(float(v) for v in default), history)


def flat_units(model: Model, averages: Sums) -> list[str]:
    """What to say of units whose slope φ' is near 0: dead ones (at every rating), and sides that are saturated."""
    warnings = []
    for side in SideName:
        shares = array_of(averages, f"{side.value}_flat") / array_of(averages, "weight")[0]
        dead, share = int((shares > 1 - 1e-12).sum()), float(shares.mean())
        if dead:
            warnings.append(
                f"{dead} of {model.rank} units of the {side.value} are dead: their slope is 0 at every rating"
            )
        elif share > _SATURATED_SHARE:
            warnings.append(
                f"{share:.0%} of the slopes of the {side.value}' {model.activation(side)} are below {FLAT:g}: the "
                "features are too large for it; standardize them, or lower initSpread"
            )
    return warnings


def _shape(params: NIMCParams, layouts: Mapping[SideName, Layout], dtype: str) -> Model:
    users, items = (layouts[side].width for side in SideName)
    for side in SideName:
        if layouts[side].width == 0:
            raise UsageError(f"the {side.value} have no feature column: declare one, or {{'kind': 'id'}}")
    return Model(
        rank=params.getOrDefault("rank"),
        users_width=users,
        items_width=items,
        users_activation=params.side_activation(SideName.USERS),
        items_activation=params.side_activation(SideName.ITEMS),
        linear=params.getOrDefault("linear"),
        dtype=dtype,
    )
