"""The composed model on MovieLens, for warm users, new users, new items and rankings, beside what else can rate there.

Margins are differences on the same rows: over splits the baselines themselves vary more than the models do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from nimc_spark.engine.baselines import TERMS, Shrinkage, fit_baseline
from nimc_spark.engine.splits import Split, split
from nimc_spark.ml import NIMC, NIMCModel
from nimc_spark.ml.evaluation import Ranking, evaluate_model
from nimc_spark.reports.page import Cell, Page, Part, Table
from nimc_spark.studies.movielens_tables import Tables, als, factorization_machine, movielens_tables, rmse
from nimc_spark.studies.study import Lab

Declared = list[dict[str, Any]]

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
_HISTORY = {"kind": "history"}
_LIKED = {"kind": "history", "weights": "residuals", "group": "liked"}


def _reg(**groups: tuple[float, float]) -> dict[str, dict[str, float]]:
    return {group: {"factors": factors, "linear": linear} for group, (factors, linear) in groups.items()}


@dataclass(frozen=True)
class Composition:
    """Features and settings of one model."""

    users: Declared
    items: Declared
    reg: Mapping[str, Any]
    settings: Mapping[str, Any]

    def nimc(self, tables: Tables, **params: Any) -> NIMC:
        features = {"userFeatures": self.users, "itemFeatures": self.items, "groupRegParam": dict(self.reg)}
        return NIMC(**{**features, **self.settings, **params}).setUsers(tables.users).setItems(tables.items)


_BOTH: Declared = [_ID, _HISTORY, _LIKED]
# Best for users with ratings in training.
WARM = Composition(
    [*_OF_USERS, *_BOTH],
    [*_OF_ITEMS, *_BOTH],
    {
        "users": _reg(attributes=(16, 1), id=(1, 0.75), history=(4, 0.094), liked=(32, 2)),
        "items": _reg(attributes=(16, 2), id=(64, 8), history=(4, 2), liked=(32, 16)),
    },
    {"rank": 40},
)
# The same features for users who rated after the training as well: their ids say nothing, so ids are held down.
KNOWN = Composition(
    WARM.users,
    WARM.items,
    {
        "users": _reg(attributes=(16, 32), id=(64, 0.4), history=(4, 2), liked=(4, 0.8)),
        "items": _reg(attributes=(4, 32), id=(16, 8), history=(4, 4), liked=(64, 1024)),
    },
    {"rank": 20},
)
# What users have rated is in training always in their history, and for new ones never: no history of users.
NEW_USERS = Composition(
    [*_FEW_OF_USERS, _CONST, _ID],
    [*_OF_ITEMS, _CONST, _ID, _HISTORY],
    {
        "users": _reg(const=(32, 1), attributes=(24, 4), id=(3, 0.5)),
        "items": _reg(const=(64, 1), attributes=(32, 16), id=(2, 4), history=(16, 8)),
    },
    {"rank": 10},
)
NEW_ITEMS = Composition(
    [*_OF_USERS, _CONST, _ID],
    [*_OF_ITEMS, _CONST, _ID],
    {
        "users": _reg(const=(32, 4), attributes=(12, 1), id=(0.5, 0.5)),
        "items": _reg(const=(16, 1), attributes=(8, 32), id=(128, 64)),
    },
    {"rank": 20},
)
RANKING = Composition(
    [*_FEW_OF_USERS, {"kind": "bucketize", "column": "age", "splits": _AGES}],
    [*_OF_ITEMS, _ID],
    {"users": _reg(attributes=(7.5, 60)), "items": _reg(attributes=(8, 0.0625), id=(1, 8))},
    {"rank": 10, "objective": "ranking", "positiveFrom": 4.0, "maxIter": 60},
)

_U1_TEST = 20_000
_ALS_GRID = tuple(product((10, 30, 50), (0.05, 0.08, 0.1, 0.15, 0.2)))
_K = 10


@dataclass(frozen=True)
class Case:
    """Rows to measure on: the training ratings, the held-out ones, and the ratings known when scoring."""

    training: DataFrame
    held_out: DataFrame
    context: DataFrame


@dataclass(frozen=True)
class Row:
    """A line of the page: what is measured, on which data, of how many splits, and what was asked."""

    name: str
    data: str
    splits: int
    cases: Callable[[DataFrame, int], Case]
    baseline: Callable[[Case], float]
    composition: Composition
    asked: str


def accuracy(lab: Lab) -> Page:
    """The table of margins, and the peers on the warm rows; quick runs have one split of the small data set."""
    parts: list[Part] = [INTRO]
    found: list[list[Cell]] = []
    peers: list[list[Cell]] = []
    for data in ("ml-100k",) if lab.quick else ("ml-100k", "ml-1m"):
        with movielens_tables(lab, data) as plain:
            tables = _with_columns(plain)
            for row in (r for r in ROWS if r.data == data):
                seeds = [lab.seed + n for n in range(1 if lab.quick else row.splits)]
                found += _lines(row, tables, seeds, lab.quick)
            found += _rankings(tables, lab) if data == "ml-100k" else []
            found += _after_training(tables, lab) if data == "ml-100k" else []
            peers += _peers(tables, lab) if data == "ml-100k" and not lab.quick else []
    columns = ["what", "model", "splits", "baseline", "model's", "margin", "low", "high", "asked"]
    parts.append(
        Table("margins", columns, found, "RMSE, or NDCG@10 for rankings; margin: baseline − model's, or gain.")
    )
    parts.append(Table("peers", ["method", "RMSE on u1.test", "setting"], peers, PEERS))
    return Page("accuracy", "Accuracy of the composed model", parts)


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


def _means(*terms: str) -> Callable[[Case], float]:
    """RMSE of shrunken means of the training ratings."""

    def error(case: Case) -> float:
        baseline = fit_baseline(case.training.select("user", "item", "rating"), terms, Shrinkage())
        rows = case.held_out.withColumn("prediction", F.lit(baseline.mean))
        for side, biases in (("user", baseline.users), ("item", baseline.items)):
            if biases is not None:
                own = biases.select(F.col("id").alias(side), F.col("offset").alias("bias"))
                added = F.col("prediction") + F.coalesce("bias", F.lit(0.0))
                rows = rows.join(own, side, "left").withColumn("prediction", added).drop("bias")
        return _bounded_rmse(rows)

    return error


def _bounded_rmse(rows: DataFrame) -> float:
    return rmse(rows.withColumn("prediction", F.greatest(F.lit(1.0), F.least(F.lit(5.0), F.col("prediction")))))


ROWS = (
    Row("u1", "ml-100k", 1, _u1, _means(*TERMS), WARM, "RMSE ≤ 0.882, aim 0.875"),
    Row("u1, the model for users known by context too", "ml-100k", 1, _u1, _means(*TERMS), KNOWN, ""),
    Row("20 % new users", "ml-100k", 3, _cut("user", 0.2), _means("global", "item"), NEW_USERS, "≥ 0.005, aim 0.009"),
    Row("20 % new items", "ml-100k", 3, _cut("item", 0.2), _means("global", "user"), NEW_ITEMS, "≥ 0.044, aim 0.052"),
    Row("random 90/10", "ml-1m", 2, _cut("random", 0.1), _means(*TERMS), WARM, "≥ 0.083, aim 0.091"),
    Row("20 % new users", "ml-1m", 2, _cut("user", 0.2), _means("global", "item"), NEW_USERS, "≥ 0.0075, aim 0.012"),
)
ACTIVATIONS = ("identity", "tanh", "relu")


def _lines(row: Row, tables: Tables, seeds: Sequence[int], quick: bool) -> Iterator[list[Cell]]:
    """A line an activation; the larger data set has the identity alone."""
    activations = ACTIVATIONS if row.data == "ml-100k" and not quick else ACTIVATIONS[:1]
    figures: dict[str, list[tuple[float, float]]] = {name: [] for name in activations}
    for seed in seeds:
        with _kept(row.cases(tables.ratings, seed)) as case:
            base = row.baseline(case)
            for name in activations:
                model = row.composition.nimc(tables, seed=seed, activation=name).fit(case.training)
                figures[name].append((base, rmse(model.transform(case.held_out))))
    for name, pairs in figures.items():
        asked = row.asked if name == ACTIVATIONS[0] else ""
        yield _line(f"{row.data}, {row.name}", name, pairs, asked)


def _line(what: str, model: str, pairs: Sequence[tuple[float, float]], asked: str) -> list[Cell]:
    """One line of the table, of (baseline, model's) a split."""
    margins = [base - own for base, own in pairs]
    means = [float(np.mean(column)) for column in zip(*pairs, strict=True)]
    return [what, model, len(pairs), *means, float(np.mean(margins)), min(margins), max(margins), asked]


@contextmanager
def _kept(case: Case) -> Iterator[Case]:
    """The case with its training and held-out ratings persisted."""
    frames = case.training.persist(), case.held_out.persist()
    try:
        yield Case(*frames, frames[0] if case.context is case.training else case.context)
    finally:
        for frame in frames:
            frame.unpersist()


def _rankings(tables: Tables, lab: Lab) -> list[list[Cell]]:
    """NDCG of new users' lists against popularity by ratings of 4 and more."""
    pairs = []
    for seed in (lab.seed + n for n in range(1 if lab.quick else 3)):
        with _kept(_cut("user", 0.2)(tables.ratings, seed)) as case:
            model = RANKING.nimc(tables, seed=seed).fit(case.training)
            cell = evaluate_model(model, case.training, case.held_out, Ranking(_K, 4.0))["new_user/known_item"]
            pairs.append((-cell["liked"][f"ndcg@{_K}"], -cell["model"][f"ndcg@{_K}"]))
    line = _line(
        "ml-100k, 20 % new users, NDCG@10 against popularity by ratings ≥ 4", "identity", pairs, "≥ 0.010, aim 0.025"
    )
    return [[*line[:3], -line[3], -line[4], *line[5:]]]  # type: ignore[operator]


def _after_training(tables: Tables, lab: Lab) -> list[list[Cell]]:
    """Users of u1 left out of training wholly, known by their u1.base ratings; and the others by the same model."""
    later, others = [], []
    for seed in (lab.seed + n for n in range(1 if lab.quick else 3)):
        whole = _u1(tables.ratings, seed)
        training, context = split(whole.training, Split("user", 0.2, seed), "user", "item")
        with _kept(Case(training, whole.held_out, whole.training)) as case:
            drawn = context.select("user").distinct()
            away, there = (case.held_out.join(drawn, "user", how) for how in ("semi", "anti"))
            known, warm = (c.nimc(tables, seed=seed).fit(case.training) for c in (KNOWN, WARM))
            with_context: NIMCModel = known.copy().setContext(case.context)
            later.append((_folded_in(case, context, away), rmse(with_context.transform(away))))
            others.append((rmse(warm.transform(there)), rmse(known.transform(there))))
    return [
        _line("ml-100k, users out of training, known by context", "identity", later, "≥ 0.040, aim 0.055"),
        _line("ml-100k, its users in training, behind the warm model", "identity", others, "≥ −0.004, aim −0.001"),
    ]


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


def _peers(tables: Tables, lab: Lab) -> list[list[Cell]]:
    """Spark's own on u1; ALS at the best setting of a validation part of the training ratings."""
    with _kept(_u1(tables.ratings, lab.seed)) as case:
        fitted, validation = split(case.training, Split("random", 0.1, lab.seed), "user", "item")
        rank, reg_param = min(
            _ALS_GRID, key=lambda setting: als(fitted, validation, setting[0], setting[1], 10) or np.inf
        )
        return [
            ["global mean", _means("global")(case), ""],
            ["global, item and user mean", _means(*TERMS)(case), "shrunken by 5 ratings"],
            ["Spark ALS", als(case.training, case.held_out, rank, reg_param, 10), f"rank {rank}, regParam {reg_param}"],
            [
                "Spark FMRegressor",
                factorization_machine(tables, case.training, case.held_out, 100),
                "attributes and movies",
            ],
        ]


INTRO = """RMSE and NDCG of the composed model on MovieLens, each beside a baseline on the same rows. Every line is one
config; those of warm users, of users known by context, of new users and of new items can be members of one model
(`members` and `router` in the config).

λ was searched by coordinates on validation parts of training ratings of ml-100k, and holds for ml-1m as it is: for u1
on a part of u1.base; for the other lines on three other splits of the same data, whose validation ratings are partly
among the ratings measured here, so that those margins may flatter a little. tanh and ReLU have the identity's λ: where
they are behind, a search of their own might bring them closer."""
MARGINS = "RMSE, or NDCG@10 for rankings; margin: baseline − model's, or NDCG's gain; low and high over the splits."
PEERS = """On u1. ALS at the best of its grid on a validation part, 10 iterations, on the rows that it scores: a few of
the users and items have no training rating."""
