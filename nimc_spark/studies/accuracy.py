"""The composed model on MovieLens, for warm users, new users, new items and rankings, beside what else can rate there.

Margins are differences on the same rows: over splits the baselines themselves vary more than the models do.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from nimc_spark.data.declarations import parse_declarations
from nimc_spark.engine.baselines import TERMS, Shrinkage, fit_baseline
from nimc_spark.engine.splits import Split, split
from nimc_spark.kernels.model import SideName
from nimc_spark.kernels.objective import GroupPenalty
from nimc_spark.ml import NIMC, NIMCModel
from nimc_spark.ml.evaluation import Ranking, evaluate_model
from nimc_spark.ml.penalties import group_penalties
from nimc_spark.ml.search import Multiples, NIMCSearch
from nimc_spark.ml.tuning import Budget
from nimc_spark.reports.page import Cell, Page, Part, Table
from nimc_spark.studies.movielens_tables import Tables, collected, movielens_tables, rmse
from nimc_spark.studies.peers import als, cmfrec, factorization_machine, installed, lightfm, ndcg
from nimc_spark.studies.study import Lab

Declared = list[dict[str, Any]]
_LOG = logging.getLogger(__name__)
# Validation rows of one kind of split are no images of its held-out rows: another seed draws them.
_OTHER_SEED = 1000

_AGES = [18, 25, 30, 35, 40, 45, 50, 56]
_YEARS = [1930, 1940, 1950, 1960, 1970, 1975, 1980, 1985, 1990, 1992, 1993, 1994, 1995, 1996, 1997, 1998, 1999]
_NUMBERS: Declared = [{"kind": "numeric", "column": "age"}, {"kind": "numeric", "column": "age_squared"}]
_WORK: Declared = [
    {"kind": "one_hot", "column": "gender"},
    {"kind": "one_hot", "column": "occupation"},
    {"kind": "one_hot", "column": "area"},
    {"kind": "cross", "columns": ["gender", "occupation"]},
]
# For new users fewer columns say more.
_FEW_OF_USERS = [*_NUMBERS, *_WORK]
_OF_USERS = [
    *_FEW_OF_USERS,
    {"kind": "bucketize", "column": "age", "splits": _AGES},
    {"kind": "one_hot", "column": "region"},
    {"kind": "cross", "columns": ["gender", "age"], "splits": {"age": _AGES}},
]
_OF_ITEMS: Declared = [
    {"kind": "multi_hot", "column": "genres", "separator": "|"},
    {"kind": "bucketize", "column": "year", "splits": _YEARS},
]
_ID, _CONST = {"kind": "id"}, {"kind": "const"}


def _reg(**groups: tuple[float, float]) -> dict[str, dict[str, float]]:
    return {group: {"factors": factors, "linear": linear} for group, (factors, linear) in groups.items()}


@dataclass(frozen=True)
class Composition:
    """Features and settings of one model; λ by group, the estimator's defaults where it is empty."""

    users: Declared
    items: Declared
    reg: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)

    def nimc(self, tables: Tables, **params: Any) -> NIMC:
        features = {"userFeatures": self.users, "itemFeatures": self.items, "groupRegParam": dict(self.reg)}
        return NIMC(**{**features, **self.settings, **params}).setUsers(tables.users).setItems(tables.items)

    def penalties(self, tables: Tables) -> dict[SideName, dict[str, GroupPenalty]]:
        """λ of each group."""
        declared = {SideName.USERS: self.users, SideName.ITEMS: self.items}
        return group_penalties(self.nimc(tables), {side: parse_declarations(own) for side, own in declared.items()})


_HISTORIES: Declared = [{"kind": "history"}, {"kind": "history", "weights": "residuals", "group": "liked"}]
# With λ unset. Who has rated, before the training or after it: ids of users, and histories on both sides.
KNOWN = Composition([*_OF_USERS, _ID, *_HISTORIES], [*_OF_ITEMS, _HISTORIES[0]])
# What users have rated is in training always in their history, and for new ones never: no history of users.
NEW_USERS = Composition([*_FEW_OF_USERS, _CONST, _ID], [*_OF_ITEMS, _CONST, _ID, _HISTORIES[0]])
NEW_ITEMS = Composition([*_OF_USERS, _CONST, _ID], [*_OF_ITEMS, _CONST])
RANKING = Composition(
    [*_FEW_OF_USERS, {"kind": "bucketize", "column": "age", "splits": _AGES}],
    [*_OF_ITEMS, _ID],
    settings={"rank": 10, "objective": "ranking", "positiveFrom": 4.0, "maxIter": 60},
)
# λ searched on parts of u1.base. Best for users with ratings in training.
WARM_TUNED = Composition(
    [*_OF_USERS, _ID, *_HISTORIES],
    [*_OF_ITEMS, _ID, *_HISTORIES],
    {
        "users": _reg(attributes=(16, 1), id=(1, 0.75), history=(4, 0.094), liked=(32, 2)),
        "items": _reg(attributes=(16, 2), id=(64, 8), history=(4, 2), liked=(32, 16)),
    },
    {"rank": 40},
)
# The same features, for users who rated after the training as well: their ids say nothing, so ids are held down.
KNOWN_TUNED = Composition(
    WARM_TUNED.users,
    WARM_TUNED.items,
    {
        "users": _reg(attributes=(16, 32), id=(64, 0.4), history=(4, 2), liked=(4, 0.8)),
        "items": _reg(attributes=(4, 32), id=(16, 8), history=(4, 4), liked=(64, 1024)),
    },
)
# For the ages of ml-1m, which are bands, and its many users: crosses with ages.
_BANDS = [18, 25, 35, 45, 50, 56]
_OF_MANY_USERS: Declared = [
    {"kind": "bucketize", "column": "age", "splits": _BANDS},
    *_WORK,
    {"kind": "cross", "columns": ["gender", "age"], "splits": {"age": _BANDS}},
    {"kind": "cross", "columns": ["occupation", "age"], "splits": {"age": _BANDS}},
]
NEW_USERS_LARGE = Composition([*_OF_MANY_USERS, _CONST, _ID], NEW_USERS.items)
# λ found by hand on a part of the training users of ml-1m's first split.
NEW_USERS_TUNED = Composition(
    NEW_USERS_LARGE.users,
    NEW_USERS.items,
    {
        "users": _reg(const=(32, 1), attributes=(6, 64), id=(3, 2)),
        "items": _reg(const=(64, 1), attributes=(32, 64), id=(2, 64), history=(256, 8)),
    },
    {"rank": 6, "starts": 3, "averageStarts": True},
)

_U1_TEST = 20_000
_ALS_GRID = tuple(product((10, 30, 50), (0.05, 0.08, 0.1, 0.15, 0.2)))
_K = 10
_SEARCH_PASSES = 150
_ROUNDS = 2
# With some hundred users or items one part would choose by chance.
_FOLDS = 4
_VALIDATION = {"random": 0.1, "user": 0.2, "item": 0.2}


@dataclass(frozen=True)
class Case:
    """Rows to measure on: the training ratings, the held-out ones, and the ratings known when scoring."""

    training: DataFrame
    held_out: DataFrame
    context: DataFrame


# What a trained model is worth on a case: (the baseline's figure, its own), the smaller the better.
Judge = Callable[[NIMCModel], tuple[float, float]]


@dataclass(frozen=True)
class Row:
    """What is measured: cases by seed, the judge of a case, the composition with λ unset and the one to tune.

    `searched` names the λ, factors or linear, that are searched from those of `tuned` on `folds` parts of the training
    ratings drawn as `validation` says, by multiples of `times`; none where these were found elsewhere.
    """

    name: str
    splits: int
    cases: Callable[[DataFrame, int], Case]
    judge: Callable[[Case, Tables, int], Judge]
    defaults: Composition
    tuned: Composition
    asked: str
    validation: str = "random"
    searched: tuple[str, ...] = ()
    folds: int = 1
    times: tuple[float, ...] = (0.25, 4.0)


def accuracy(lab: Lab) -> Page:
    """Margins on ml-100k, activations, and peers; quick runs have one split, and search no λ."""
    with movielens_tables(lab, "ml-100k") as plain:
        tables = _with_columns(plain)
        margins, activations = _tables(SMALL, ACTIVATIONS if not lab.quick else ACTIVATIONS[:1], tables, lab)
        parts: list[Part] = [INTRO, margins]
        if not lab.quick:
            peers = Table("peers", ["method", "RMSE on u1.test", "setting"], list(_peers(tables, lab)), PEERS)
            parts += [NONLINEAR, activations, peers]
        if installed("lightfm") and not lab.quick:
            columns = ["method", "popularity's NDCG@10", "its own", "margin", "low", "high", "settings"]
            parts.append(Table("rankers", columns, list(_rankers(tables, lab)), RANKERS))
    return Page("accuracy", "Accuracy of the composed model", parts)


def accuracy_large(lab: Lab) -> Page:
    """Margins on ml-1m, and activations; quick runs have one split and the identity."""
    with movielens_tables(lab, "ml-1m") as plain:
        activations = ACTIVATIONS if not lab.quick else ACTIVATIONS[:1]
        margins, beside = _tables(LARGE, activations, _with_columns(plain), lab)
    parts: list[Part] = [INTRO_LARGE, margins]
    if not lab.quick:
        parts += [NONLINEAR_LARGE, beside]
    return Page("accuracy-1m", "Accuracy of the composed model on ml-1m", parts)


def _with_columns(tables: Tables) -> Tables:
    """Users with the squares of their ages and parts of their zip codes."""
    users = tables.users.withColumns(
        {
            "age_squared": F.col("age") * F.col("age"),
            "region": F.substring("zip", 1, 1),
            "area": F.substring("zip", 1, 2),
        }
    )
    return Tables(tables.ratings, users, tables.items)


def _u1(ratings: DataFrame, seed: int) -> Case:
    """u1.base and u1.test: the test part is the first 20000 rows."""
    training = ratings.where(F.col("row") >= _U1_TEST)
    return Case(training, ratings.where(F.col("row") < _U1_TEST), training)


def _cut(by: str, fraction: float) -> Callable[[DataFrame, int], Case]:
    def case(ratings: DataFrame, seed: int) -> Case:
        training, held_out = split(ratings, Split(by, fraction, seed), "user", "item")
        return Case(training, held_out, training)

    return case


def _users_out(ratings: DataFrame, seed: int) -> Case:
    """u1 with 20 % of its users out of training, whose ratings in u1.base are known when scoring."""
    whole = _u1(ratings, seed)
    training, _ = split(whole.training, Split("user", 0.2, seed), "user", "item")
    return Case(training, whole.held_out, whole.training)


def _ratings(*terms: str) -> Callable[[Case, Tables, int], Judge]:
    """RMSE against shrunken means of the training ratings."""

    def judge(case: Case, tables: Tables, seed: int) -> Judge:
        base = _means(case, terms)
        return lambda model: (base, rmse(model.transform(case.held_out)))

    return judge


def _lists(case: Case, tables: Tables, seed: int) -> Judge:
    """−NDCG of new users' lists against popularity by ratings of 4 and more."""

    def judge(model: NIMCModel) -> tuple[float, float]:
        cells = evaluate_model(model, case.training, case.held_out, Ranking(_K, 4.0)).cells
        cell = cells["new_user/known_item"]
        return -cell["liked"][f"ndcg@{_K}"], -cell["model"][f"ndcg@{_K}"]

    return judge


def _later(case: Case, tables: Tables, seed: int) -> Judge:
    """RMSE of users with ratings in the context alone, against their folded-in biases."""
    away = case.held_out.join(case.training.select("user").distinct(), "user", "anti")
    base = _folded_in(case, case.context, away)
    return lambda model: (base, rmse(model.copy().setContext(case.context).transform(away)))


def _beside_warm(case: Case, tables: Tables, seed: int) -> Judge:
    """RMSE of users in training, against the best model for them."""
    there = case.held_out.join(case.training.select("user").distinct(), "user", "semi")
    base = rmse(WARM_TUNED.nimc(tables, seed=seed).fit(case.training).transform(there))
    return lambda model: (base, rmse(model.transform(there)))


def _means(case: Case, terms: Sequence[str]) -> float:
    baseline = fit_baseline(case.training.select("user", "item", "rating"), terms, Shrinkage())
    rows = case.held_out.withColumn("prediction", F.lit(baseline.mean))
    for side, biases in (("user", baseline.users), ("item", baseline.items)):
        if biases is not None:
            own = biases.select(F.col("id").alias(side), F.col("offset").alias("bias"))
            added = F.col("prediction") + F.coalesce("bias", F.lit(0.0))
            rows = rows.join(own, side, "left").withColumn("prediction", added).drop("bias")
    return _bounded_rmse(rows)


def _bounded_rmse(rows: DataFrame) -> float:
    return rmse(rows.withColumn("prediction", F.greatest(F.lit(1.0), F.least(F.lit(5.0), F.col("prediction")))))


_FACTORS, _BOTH = ("factors",), ("factors", "linear")
_COLD, _COLD_ITEMS, _WARM = _ratings("global", "item"), _ratings("global", "user"), _ratings(*TERMS)
SMALL = (
    Row("u1", 1, _u1, _WARM, KNOWN, WARM_TUNED, "RMSE ≤ 0.882, aim 0.875", "random", _FACTORS),
    Row(
        *("20 % new users", 3, _cut("user", 0.2), _COLD, NEW_USERS, NEW_USERS),
        *("≥ 0.005, aim 0.009", "user", _BOTH, _FOLDS),
    ),
    Row(
        *("20 % new items", 3, _cut("item", 0.2), _COLD_ITEMS, NEW_ITEMS, NEW_ITEMS),
        *("≥ 0.044, aim 0.052", "item", _BOTH, _FOLDS),
    ),
    Row(
        *("20 % new users, NDCG@10", 3, _cut("user", 0.2), _lists, RANKING, RANKING),
        *("≥ 0.010, aim 0.025", "user", _BOTH, _FOLDS),
    ),
    Row("users known by context", 3, _users_out, _later, KNOWN, KNOWN_TUNED, "≥ 0.040, aim 0.055"),
    Row("the others, same model", 3, _users_out, _beside_warm, KNOWN, KNOWN_TUNED, "≥ −0.004, aim −0.001"),
)
LARGE = (
    Row("random 90/10", 2, _cut("random", 0.1), _WARM, KNOWN, WARM_TUNED, "≥ 0.083, aim 0.091"),
    Row(
        *("20 % new users", 2, _cut("user", 0.2), _COLD, NEW_USERS_LARGE, NEW_USERS_TUNED),
        *("≥ 0.0075, aim 0.012", "user", _BOTH, 1, (0.25, 0.5, 2.0, 4.0)),
    ),
)
ACTIVATIONS = ("identity", "tanh", "relu")
UNSET, SEARCHED = "λ unset", "λ searched"


class Figures(NamedTuple):
    """The baseline's figure and the model's, which fall with accuracy, and the seconds of training."""

    base: float
    own: float
    seconds: float

    @property
    def margin(self) -> float:
        return self.base - self.own


def _tables(rows: Sequence[Row], activations: Sequence[str], tables: Tables, lab: Lab) -> tuple[Table, Table]:
    """The margins of each row, and those of the activations on its first split."""
    lines: list[list[Cell]] = []
    beside: list[list[Cell]] = []
    for row in rows:
        first: dict[str, float] = {}
        found: dict[str, list[Figures]] = {UNSET: [], SEARCHED: []}
        for seed in (lab.seed + n for n in range(1 if lab.quick else row.splits)):
            with _kept(row.cases(tables.ratings, seed)) as case:
                judge = row.judge(case, tables, seed)
                plain = row.defaults.nimc(tables, seed=seed).fit(case.training)
                found[UNSET].append(_figures(plain, judge, f"{row.name}, unset"))
                for name in activations if not first else activations[:1]:
                    tuned = _tuned(row, name, case, tables, seed, lab)
                    figures = _figures(tuned, judge, f"{row.name}, {name}, seed {seed}")
                    first.setdefault(name, figures.margin)
                    if name == activations[0]:
                        found[SEARCHED].append(figures)
        lines += [_line(row, label, figures) for label, figures in found.items()]
        beside.append([row.name, *first.values()])
    columns = ["what", "model", "splits", "baseline", "model's", "margin", "low", "high", "training, s", "asked"]
    margins = Table("margins", columns, lines, MARGINS)
    return margins, Table("activations", ["margin, first split", *activations], beside)


def _figures(model: NIMCModel, judge: Judge, what: str) -> Figures:
    figures = Figures(*judge(model), model.summary.seconds)
    _LOG.info("%s: %s", what, figures)
    return figures


def _line(row: Row, label: str, found: Sequence[Figures]) -> list[Cell]:
    margins = [figures.margin for figures in found]
    base, own, seconds = (float(np.mean(column)) for column in zip(*found, strict=True))
    spread = [float(np.mean(margins)), min(margins), max(margins)]
    asked = row.asked if label == SEARCHED else ""
    return [row.name, label, len(found), abs(base), abs(own), *spread, round(seconds, 1), asked]


def _tuned(row: Row, activation: str, case: Case, tables: Tables, seed: int, lab: Lab) -> NIMCModel:
    """The model of the row's composition with λ that a search on a part of the training ratings found best."""
    start = replace(row.tuned, settings={**row.tuned.settings, "activation": activation})
    if lab.quick or not row.searched:
        return start.nimc(tables, seed=seed).fit(case.training)
    names = [
        f"{side.value}.{group}.{part}"
        for side, groups in start.penalties(tables).items()
        for group in groups
        for part in row.searched
        # A column of ones has no factors to speak of.
        if group != "const"
    ]
    spec = Split(row.validation, _VALIDATION[row.validation], seed + _OTHER_SEED)
    estimator, space = start.nimc(tables, seed=seed), dict.fromkeys(names, Multiples(row.times))
    fitted = NIMCSearch(estimator, space, spec, Budget(rounds=_ROUNDS), _SEARCH_PASSES, _K, row.folds).fit(
        case.training
    )
    best = {name: f"{value:g}" for name, value in fitted.found.best.items()}
    _LOG.info("%s, %s, seed %d: %d trials, %s", row.name, activation, seed, len(fitted.found.trials), best)
    return fitted.bestModel


@contextmanager
def _kept(case: Case) -> Iterator[Case]:
    """The case with its training and held-out ratings persisted."""
    frames = case.training.persist(), case.held_out.persist()
    try:
        yield Case(*frames, frames[0] if case.context is case.training else case.context)
    finally:
        for frame in frames:
            frame.unpersist()


def _folded_in(case: Case, context: DataFrame, rows: DataFrame) -> float:
    """RMSE of the item mean with the bias of a user folded in from the context."""
    baseline = fit_baseline(case.training.select("user", "item", "rating"), ("global", "item"), Shrinkage())
    if baseline.items is None:
        raise TypeError("a baseline of items has biases of items")
    items = baseline.items.select(F.col("id").alias("item"), F.col("offset").alias("of_item"))

    def with_items(ratings: DataFrame) -> DataFrame:
        mean = F.lit(baseline.mean) + F.coalesce("of_item", F.lit(0.0))
        return ratings.join(items, "item", "left").withColumn("prediction", mean)

    residual = F.sum(F.col("rating") - F.col("prediction")) / (F.count("*") + Shrinkage.user)
    users = with_items(context).groupBy("user").agg(residual.alias("of_user"))
    scored = with_items(rows).join(users, "user", "left")
    return _bounded_rmse(scored.withColumn("prediction", F.col("prediction") + F.coalesce("of_user", F.lit(0.0))))


def _peers(tables: Tables, lab: Lab) -> Iterator[list[Cell]]:
    """Others on u1, each at the best setting of a validation part of the training ratings."""
    with _kept(_u1(tables.ratings, lab.seed)) as case:
        yield ["global mean", _means(case, ["global"]), ""]
        yield ["global, item and user mean", _means(case, TERMS), "shrunken by 5 ratings"]
        fitted, validation = split(case.training, Split("random", 0.1, lab.seed), "user", "item")
        errors = {setting: als(fitted, validation, *setting, 10) or np.inf for setting in _ALS_GRID}
        rank, reg_param = min(errors, key=errors.__getitem__)
        setting = f"rank {rank}, regParam {reg_param}"
        yield ["Spark ALS", als(case.training, case.held_out, rank, reg_param, 10), setting]
        machine = factorization_machine(tables, case.training, case.held_out, 100)
        yield ["Spark FMRegressor", machine, "attributes and movies"]
        if installed("cmfrec"):
            yield ["cmfrec", *cmfrec(tables, case.training, fitted, validation, case.held_out)]


def _rankers(tables: Tables, lab: Lab) -> Iterator[list[Cell]]:
    """Others on new users of the small data set, each split like the models'."""
    pairs, settings = [], []
    for seed in (lab.seed + n for n in range(3)):
        with _kept(_cut("user", 0.2)(tables.ratings, seed)) as case:
            spec = Split("user", _VALIDATION["user"], seed + _OTHER_SEED)
            fitted, validation = split(case.training, spec, "user", "item")
            liked = collected(case.training.where("rating >= 4").groupBy("item").count()).set_index("item")["count"]
            ids = pd.Index(np.arange(tables.users.count() + 1))
            popular = ndcg(lambda _: liked.to_numpy(), ids, liked.index, case.training, case.held_out, _K)  # noqa: B023
            found, setting = lightfm(tables, case.training, fitted, validation, case.held_out, _K)
            pairs.append((popular, found))
            settings.append(setting)
    margins = [found - popular for popular, found in pairs]
    means = [float(np.mean(column)) for column in zip(*pairs, strict=True)]
    yield ["LightFM", *means, float(np.mean(margins)), min(margins), max(margins), "; ".join(settings)]


INTRO = """RMSE and NDCG of the composed model on MovieLens-100k, each beside a baseline on the same rows.

The lines "λ unset" are one config an objective: for ratings, models of users known by ratings, of new users and of new
items as members of one (`members` and `router` in the config), with the defaults of the estimator in all else.

In the lines "λ searched" λ comes from two rounds of coordinates, each tried at a quarter and four times of what it was
and on while that helps, by the error on parts of the training ratings of the very split: for u1 λ of factors, on one
part, from what an earlier and longer search on a part of u1.base had found; for new users, new items and rankings λ of
factors and linear rows, from λ unset, on four folds of the training users or items, a change being kept if it is better
by more than its standard error. For users known by context λ is that of the earlier search."""
INTRO_LARGE = """RMSE of the composed model on MovieLens-1M, each beside a baseline on the same rows, with λ unset, or
searched: for the random rows on MovieLens-100k; for new users by two rounds of coordinates, each tried at a quarter,
half, two and four times of what it was and on while that helps, on a part of the training users of the very split; then
three starts are averaged. The crosses of ages, the rank and the λ from which the search starts were chosen by hand
on a part of the first split's training users."""
NONLINEAR = """## Does the nonlinearity earn its place?

Each activation on both sides with a search of its own, the same for all, on the first split of each row; for users
known by context and the others with the identity's λ."""
NONLINEAR_LARGE = """## Does the nonlinearity earn its place?

Each activation on both sides on the first split of each row: for the random rows with the same λ, for new users with a
search of its own."""
MARGINS = """RMSE, or NDCG@10 against popularity by ratings ≥ 4; margin: how much better than the baseline, low and high
over the splits. The baselines: global, item and user mean for u1 and random rows, item mean for new users, user mean
for new items, item mean and folded-in bias of the user for users known by context, and for the others the model of u1
with its earlier λ. Times are those of a shared machine with two cores."""
PEERS = """On u1, of each the best of a grid on a validation part. Spark's ALS, 10 iterations, on the rows that it
scores: a few of the users and items have no training rating. cmfrec with attributes of both sides."""
RANKERS = """New users of ml-100k, three splits, popularity by ratings ≥ 4. LightFM (WARP) with attributes of both sides
and ids of items, the best of a grid on validation users."""
