"""New users of MovieLens from their attributes: Table 1 of the NIMC paper.

20 % of the users are held out wholly. User features: occupation, age band, gender; movie features: genres and 20 right
singular vectors of the training ratings; k = 50; raw ratings, no baseline, no linear terms.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from nimc_spark.engine.splits import Split, split
from nimc_spark.ml import NIMC
from nimc_spark.ml.evaluation import evaluate_model
from nimc_spark.reports.page import Cell, Page, Part, Table
from nimc_spark.studies.movielens_tables import AGE_BANDS, Tables, movielens_tables
from nimc_spark.studies.peers import als, factorization_machine
from nimc_spark.studies.study import Lab

Declarations: TypeAlias = Sequence[Mapping[str, Any]]

CELL = "new_user/known_item"
USER_FEATURES: Declarations = [
    {"kind": "one_hot", "column": "occupation"},
    {"kind": "bucketize", "column": "age", "splits": AGE_BANDS},
    {"kind": "one_hot", "column": "gender"},
]
GENRES = {"kind": "multi_hot", "column": "genres", "separator": "|"}
PAPER_ITEMS: Declarations = [GENRES, {"kind": "rating_svd", "rank": 20}]
# What the paper prints.
PAPER = {"ml-100k": (1.034, 1.321), "ml-1m": (1.021, 1.320)}
RAW = {"rank": 50, "regParam": 0.0, "linear": False, "baseline": [], "clip": False}
# The product's own composition: ids take up what is a movie's own, the item mean is a linear term.
TUNED = {"rank": 10, "activation": "tanh", "regParam": 12.0, "linearRegParam": 1.0}


def movielens(lab: Lab) -> Page:
    """Both data sets, or in quick runs the smaller one with one split."""
    plan = {"ml-100k": 1} if lab.quick else {"ml-100k": 3, "ml-1m": 2}
    parts: list[Part] = [INTRO]
    for name, seeds in plan.items():
        with movielens_tables(lab, name) as tables:
            found = [_split_figures(tables, lab.seed + number, lab.quick) for number in range(seeds)]
        parts += [f"## {name}", _table(name, found)]
    return Page("movielens", "New users of MovieLens", parts)


def _split_figures(tables: Tables, seed: int, quick: bool) -> dict[str, float | None]:
    """RMSE on the same held-out rows, of every method."""
    training, held_out = (part.persist() for part in split(tables.ratings, Split("user", 0.2, seed), "user", "item"))
    figures: dict[str, float | None] = {}
    for label, settings, items in _nimcs():
        nimc = NIMC(seed=seed, userFeatures=USER_FEATURES, itemFeatures=items, **settings)
        model = nimc.setUsers(tables.users).setItems(tables.items).fit(training)
        cell = evaluate_model(model, training, held_out, None).cells[CELL]
        figures |= {"global mean": cell["global_mean"]["rmse"], "shrunken item mean": cell["item_mean"]["rmse"]}
        figures[label] = cell["model"]["rmse"]
    figures["Spark FMRegressor"] = factorization_machine(tables, training, held_out, 20 if quick else 100)
    figures["Spark ALS"] = als(training, held_out)
    for part in (training, held_out):
        part.unpersist()
    return figures


def _nimcs() -> list[tuple[str, dict[str, Any], Declarations]]:
    return [
        ("NIMC as in the paper (ReLU)", {**RAW, "activation": "relu"}, PAPER_ITEMS),
        ("IMC as in the paper (identity)", {**RAW, "activation": "identity"}, PAPER_ITEMS),
        ("NIMC as this project composes it", TUNED, [GENRES, {"kind": "id"}]),
    ]


def _table(name: str, found: Sequence[Mapping[str, float | None]]) -> Table:
    nimc, imc = PAPER[name]
    paper = {"NIMC as in the paper (ReLU)": nimc, "IMC as in the paper (identity)": imc}
    rows: list[list[Cell]] = []
    for method in found[0]:
        values = [f[method] for f in found]
        known = [v for v in values if v is not None]
        mean = float(np.mean(known)) if known else None
        spread = [float(min(known)), float(max(known))] if known else [None, None]
        rows.append([method, mean, *spread, paper.get(method)])
    note = "RMSE over ratings of new users for movies with training ratings; no number: the method scores no new user."
    return Table(name, ["method", f"mean of {len(found)} splits", "low", "high", "the paper's"], rows, note)


INTRO = """RMSE on the ratings of 20 % of the users, held out wholly, from attributes alone. NIMC and IMC "as in the
paper" fit raw ratings with 50 factors on occupation, age band and gender, genres and 20 right singular vectors. Raw
ratings (mean 3.5) flatter nobody: a shrunken mean of the movie's ratings beats both. The last NIMC has linear terms,
ids of the movies and the global mean as offset. Spark's ALS has no score for a user without ratings; FMRegressor has
one-hot attributes and movies."""
