"""Choosing settings on validation parts of the training ratings, by passes alone.

A coordinate search: from the best setting so far, the values of one coordinate are tried, the best of them is kept, and
so on through the coordinates, in rounds until a round changes nothing. Values that follow from the best setting, such
as multiples, are tried on while they improve. Settings that differ in penalties alone are trained in the same passes;
so is their validation, whose ratings are blocks in the columns of the training's. A setting that falls behind is given
up. For a model that ranks, the error is 1 − NDCG@k of lists for the validation users, drawn from all items of training.
Of several folds, the error is their mean, and a setting takes the place of the best only if it is better by more than
the standard error of the differences: what few validation users prefer is mostly chance.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from nimc_spark.data.oracle import PassOracle
from nimc_spark.data.threads import one_blas_thread
from nimc_spark.engine.blocks import Columns, SideData, build_blocks
from nimc_spark.engine.context import held
from nimc_spark.engine.index import id_type
from nimc_spark.engine.passes_at import oracle_of
from nimc_spark.engine.profile import profile_ratings
from nimc_spark.errors import DataError, UsageError
from nimc_spark.kernels.model import SideName
from nimc_spark.kernels.ranking import ListGains
from nimc_spark.kernels.statistics import Errors, array_of
from nimc_spark.ml.estimator import NIMC
from nimc_spark.ml.problem import Problem, training_problem
from nimc_spark.ml.ratings import canonical_ratings, targets
from nimc_spark.ml.sides import SideInput, TrainingSide, with_id_type
from nimc_spark.ml.training import Fit
from nimc_spark.solvers.multistart import Outcome, Race

Setting = Mapping[str, Any]
# Ratings to train on, and those to judge by.
Fold = tuple[DataFrame, DataFrame]

# The coordinate of the first trial, which varies nothing.
START = "start"
# Passes between two looks at the validation ratings.
_PASSES_A_LOOK = 20
# Fewer validation ratings than this choose by chance.
_FEW = 1000


@dataclass(frozen=True)
class Budget:
    """Where the search ends: rounds through the coordinates, passes over the training ratings, minutes."""

    rounds: int = 2
    passes: float = math.inf
    minutes: float = math.inf


@dataclass(frozen=True)
class Trial:
    """One setting: what was varied and to what, its passes, its training loss and its validation error, if any.

    state: "kept" (the best so far), "behind" (given up), "tried", or "failed" (no finite loss).
    """

    number: int
    coordinate: str
    setting: Setting
    passes: int
    loss: float
    error: float
    seconds: float
    state: str


@dataclass
class Found:
    """The trials in order, and the best setting."""

    trials: list[Trial] = field(default_factory=list)
    best: Setting = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)

    @property
    def error(self) -> float:
        """The best setting's validation error."""
        return next((trial.error for trial in reversed(self.trials) if trial.state == "kept"), math.inf)


@contextmanager
def held_folds(folds: Sequence[Fold]) -> Iterator[list[Fold]]:
    """The folds, computed once and kept by Spark until the end. Raises DataError for one with an empty part."""
    with ExitStack() as kept:
        own = [(kept.enter_context(held(training)), kept.enter_context(held(judges))) for training, judges in folds]
        for name, number in (("training", 0), ("validation", 1)):
            if any(fold[number].isEmpty() for fold in own):
                raise DataError(f"a {name} part has no ratings: choose another split, fraction or seed")
        yield own


def search(
    make: Callable[[Setting], NIMC],
    coordinates: Mapping[str, Callable[[Setting], Sequence[Any]]],
    folds: Sequence[Fold],
    budget: Budget,
    k: int = 10,
    on_trial: Callable[[Trial], None] = lambda trial: None,
    start: Setting | None = None,
) -> Found:
    """The best setting of estimators that `make` builds, by the validation part of each fold, from `start` on.

    `coordinates` gives for each the values to try from a setting. `k` is the length of lists where models rank. Raises
    UsageError where no setting trains.
    """
    searching = _Search(make, folds, budget, k, on_trial)
    searching.run(coordinates, start or {})
    if not math.isfinite(searching.found.error):
        raise UsageError("tuning: no setting gave a finite loss; check the ratings' scale, or raise the penalties")
    return searching.found


class _Search:
    """The state of a search: what it found, what it spent, and the blocks of the features at hand."""

    def __init__(
        self,
        make: Callable[[Setting], NIMC],
        folds: Sequence[Fold],
        budget: Budget,
        k: int,
        on_trial: Callable[[Trial], None],
    ) -> None:
        self._make, self._folds = make, folds
        self._budget, self._k, self._on_trial = budget, k, on_trial
        self._began, self._passes = time.monotonic(), 0
        self._kept = ExitStack()
        self._at_hand: tuple[Any, list[Validated]] | None = None
        self._tried: list[Setting] = []
        self._best_errors: NDArray[np.float64] | None = None
        self.found = Found()

    def run(self, coordinates: Mapping[str, Callable[[Setting], Sequence[Any]]], start: Setting) -> None:
        with self._kept:
            self._try(START, [start])
            for _ in range(self._budget.rounds):
                before = self.found.best
                for name, values in coordinates.items():
                    self._along(name, values)
                if self._spent():
                    self.found.warnings.append(
                        f"the budget of passes or minutes ended the search after {len(self.found.trials)} trials"
                    )
                    return
                if self.found.best == before:
                    return

    def _along(self, name: str, values: Callable[[Setting], Sequence[Any]]) -> None:
        """Try the values of a coordinate, and again those from the better setting, while there are others."""
        while not self._spent():
            before = self.found.best
            settings = [{**before, name: value} for value in values(before)]
            self._try(name, [setting for setting in settings if setting not in self._tried])
            if self.found.best == before:
                return

    def _spent(self) -> bool:
        minutes = (time.monotonic() - self._began) / 60
        return self._passes >= self._budget.passes or minutes >= self._budget.minutes

    def _try(self, coordinate: str, settings: Sequence[Setting]) -> None:
        """Train and judge the settings; those of one shape in the same passes."""
        self._tried += settings
        groups: dict[Any, list[tuple[Setting, NIMC]]] = {}
        for setting in settings:
            nimc = self._make(setting)
            groups.setdefault((_data_of(nimc), _shape_of(nimc)), []).append((setting, nimc))
        for (data, _), entries in groups.items():
            self._race(coordinate, entries, self._validated(data, entries[0][1]))

    def _validated(self, data: Any, nimc: NIMC) -> list[Validated]:
        """The blocks of these features in each fold, built anew only where the last ones were of others."""
        if self._at_hand is None or self._at_hand[0] != data:
            self._kept.close()
            folds = [self._kept.enter_context(validated(nimc, *fold, self._k)) for fold in self._folds]
            self._at_hand = data, folds
            count = sum(own.count for own in folds)
            if count < _FEW and not self.found.warnings:
                self.found.warnings.append(f"{count} validation ratings: below {_FEW} the choice is mostly chance")
        return self._at_hand[1]

    def _race(self, coordinate: str, entries: Sequence[tuple[Setting, NIMC]], folds: Sequence[Validated]) -> None:
        began = time.monotonic()
        with one_blas_thread():
            heat = _Heat([nimc for _, nimc in entries], folds)
            heat.run()
        self._passes += heat.spent
        seconds = round((time.monotonic() - began) / len(entries), 3)
        errors, losses = heat.errors(), heat.losses()
        for place, (setting, _) in enumerate(entries):
            error = float(np.mean(errors[place]))
            failed = not math.isfinite(error)
            state = "failed" if failed else "behind" if place in heat.behind else "tried"
            trial = Trial(0, coordinate, setting, heat.passes[place], losses[place], error, seconds, state)
            self._record(trial, errors[place])

    def _record(self, trial: Trial, errors: NDArray[np.float64]) -> None:
        found = self.found
        better = trial.state == "tried" and _better(errors, self._best_errors)
        trial = replace(trial, number=len(found.trials) + 1, state="kept" if better else trial.state)
        if better:
            found.best, self._best_errors = trial.setting, errors
        found.trials.append(trial)
        self._on_trial(trial)


def _better(errors: NDArray[np.float64], best: NDArray[np.float64] | None) -> bool:
    """Whether errors by fold are below those of the best, by more than chance where there are several folds."""
    if best is None:
        return True
    gains = best - errors
    chance = np.std(gains, ddof=1) / math.sqrt(len(gains)) if len(gains) > 1 else 0.0
    return bool(np.mean(gains) > chance)


class _Heat:
    """Settings of one shape, trained on every fold side by side, so that they can be compared on all folds."""

    def __init__(self, nimcs: Sequence[NIMC], folds: Sequence[Validated]) -> None:
        self._folds = folds
        self._fits = [[Fit(nimc, own.problem) for nimc in nimcs] for own in folds]
        self._races = [Race([(fit.oracle, fit.starts[0]) for fit in fits], fits[0].solver) for fits in self._fits]
        self.passes = [0] * len(nimcs)
        self.behind: set[int] = set()

    @property
    def running(self) -> set[int]:
        return {place for race in self._races for place in race.running}

    @property
    def spent(self) -> int:
        return sum(race.passes for race in self._races)

    def run(self) -> None:
        """Train until all have stopped; they are looked at in between.

        One leaves that would be behind the best even if its error fell as much again, which errors seldom do.
        """
        most = max(fit.params.getOrDefault("maxIter") for fit in self._fits[0])
        errors = np.full(len(self.passes), math.inf)
        while (running := self.running) and max(self.passes) < most:
            before = [race.passes for race in self._races]
            for race in self._races:
                race.advance(min(_PASSES_A_LOOK, most - max(self.passes)))
            done = max(race.passes - old for race, old in zip(self._races, before, strict=True))
            for place in running:
                self.passes[place] += done
            if len(self.passes) > 1:
                last, errors = errors, self.errors().mean(axis=1)
                for place in self.running:
                    if errors[place] - max(last[place] - errors[place], 0.0) > min(errors):
                        self._leave(place)

    def _leave(self, place: int) -> None:
        self.behind.add(place)
        for race in self._races:
            race.leave(place)

    def errors(self) -> NDArray[np.float64]:
        """(settings, folds): the validation errors as they stand, infinite for a setting that failed on some fold."""
        outcomes = [race.outcomes() for race in self._races]
        sound = [p for p in range(len(self.passes)) if not any(of[p].reason.failed for of in outcomes)]
        found = np.full((len(self.passes), len(self._folds)), math.inf)
        for number, (own, fits, of) in enumerate(zip(self._folds, self._fits, outcomes, strict=True)):
            found[sound, number] = own.errors([fits[p] for p in sound], [of[p] for p in sound])
        return found

    def losses(self) -> list[float]:
        """The training loss of each setting as it stands."""
        outcomes = [race.outcomes() for race in self._races]
        return [float(np.mean([of[place].iterate.value for of in outcomes])) for place in range(len(self.passes))]


@dataclass(frozen=True)
class Validated:
    """A training problem, and validation ratings as blocks in its columns; `count` of them, lists of length `k`."""

    problem: Problem
    validation: PassOracle
    count: int
    k: int

    def errors(self, fits: Sequence[Fit], outcomes: Sequence[Outcome]) -> list[float]:
        """RMSE on the validation ratings of each, or 1 − NDCG@k of lists, in one pass; the fits have one shape."""
        if not fits:
            return []
        points = [fit.parameters(outcome) for fit, outcome in zip(fits, outcomes, strict=True)]
        if fits[0].params.ranks:
            found = self.validation.run(ListGains(self.k), fits[0].model, points)
            return [1 - float(np.divide(*array_of(sums, "gains"))) for sums in found]
        statistic = Errors(*fits[0].rating_range) if fits[0].params.getOrDefault("clip") else Errors()
        found = self.validation.run(statistic, fits[0].model, points)
        return [math.sqrt(squares / weight) for weight, _, squares in (array_of(sums, "errors") for sums in found)]


@contextmanager
def validated(nimc: NIMC, training: DataFrame, validation: DataFrame, k: int) -> Iterator[Validated]:
    """The blocks of both parts, with the features of `nimc`, kept by Spark until the end.

    Raises DataError for a validation part that cannot judge: no rating, or for a model that ranks no positive.
    """
    inputs = nimc.inputs(training.sparkSession)
    known = targets(nimc, canonical_ratings(nimc, training))
    held_out = targets(nimc, canonical_ratings(nimc, validation))
    profile = profile_ratings(held_out)
    count = profile.count
    if nimc.ranks and profile.highest <= 0:
        raise DataError("no validation rating is a positive: lower positiveFrom, or hold more ratings out")
    with training_problem(nimc, training, inputs) as own:
        data = {side: _everyone(own.sides[side], inputs[side], known) for side in SideName}
        if nimc.ranks:
            every_item = own.blocks.sides[SideName.ITEMS].index.select("id")
            data[SideName.ITEMS] = replace(data[SideName.ITEMS], unrated=every_item)
            held_out = _with_known(held_out, known)
            profile = profile_ratings(held_out)
        columns = Columns(own.blocks.sides, known)
        blocks = build_blocks(held_out, profile, data, own.plan.dtype, own.plan.limits, columns)
        try:
            yield Validated(own, oracle_of(blocks, own.plan.passes), count, k)
        finally:
            blocks.close()


def _with_known(held_out: DataFrame, known: DataFrame) -> DataFrame:
    """The ratings that judge lists, each of weight 1, and of weight 0 the pairs that no list of their users has."""
    users = held_out.select("user").distinct()
    before = known.join(users, "user", "semi").select("user", "item", F.lit(0.0).alias("rating"))
    judged = held_out.select("user", "item", "rating").withColumn("weight", F.lit(1.0))
    return judged.unionByName(before.withColumn("weight", F.lit(0.0)))


def _everyone(side: TrainingSide, source: SideInput, ratings: DataFrame) -> SideData:
    """The side's data with the features of every row of its table, not of the trained ones alone."""
    data = replace(side.data, unrated=None)
    if data.features is None:
        return data
    target = id_type(ratings, "user" if source.side is SideName.USERS else "item")
    return replace(data, features=side.features.encode(with_id_type(source, target)))


# What decides the blocks: the features, the baseline, the objective, and what the plan of training is made of, for the
# solver and the place of the items follow from the number of parameters.
_OF_DATA = (
    *("userFeatures", "itemFeatures", "baseline", "objective", "positiveFrom", "itemShrinkage", "userShrinkage"),
    *("complementWeight", "dtype", "solver", "init", "rank", "linear"),
)
# What decides how a model of some shape is solved beside the blocks, so that passes can be shared.
_OF_SOLUTION = ("maxIter", "tol", "clip", "stepSize")
# Params that trials can differ in; others, such as columns and starts, are the same for all of them.
SEARCHABLE = (
    *(*_OF_DATA, *_OF_SOLUTION, "activation", "userActivation", "itemActivation"),
    *("regParam", "linearRegParam", "groupRegParam", "regPower", "seed", "initSpread"),
)


def _data_of(nimc: NIMC) -> Any:
    return json.dumps([nimc.optional(name) for name in _OF_DATA], sort_keys=True)


def _shape_of(nimc: NIMC) -> Any:
    return (*(nimc.optional(name) for name in _OF_SOLUTION), *(nimc.side_activation(side) for side in SideName))
