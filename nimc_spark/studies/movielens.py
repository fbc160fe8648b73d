"""New users of MovieLens from their attributes: Table 1 of the NIMC paper.

20 % of the users are held out wholly. User features: occupation, age band, gender; movie features: genres and 20 right
singular vectors of the training ratings; k = 50; raw ratings, no baseline, no linear terms.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
from pyspark.ml import Pipeline
from pyspark.ml.feature import CountVectorizer, OneHotEncoder, StringIndexer, VectorAssembler
from pyspark.ml.recommendation import ALS
from pyspark.ml.regression import FMRegressor
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from nimc_spark.engine.splits import Split, split
from nimc_spark.errors import DataError, UsageError
from nimc_spark.ml import NIMC
from nimc_spark.ml.evaluation import evaluate_model
from nimc_spark.reports.page import Cell, Page, Part, Table
from nimc_spark.studies.study import Lab

Declarations: TypeAlias = Sequence[Mapping[str, Any]]

CELL = "new_user/known_item"
AGE_BANDS = [18, 25, 35, 45, 50, 56]
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


@dataclass(frozen=True)
class Tables:
    """ratings(user, item, rating), users(user, age, gender, occupation), items(item, genres)."""

    ratings: DataFrame
    users: DataFrame
    items: DataFrame


def movielens(lab: Lab) -> Page:
    """Both data sets, or in quick runs the smaller one with one split."""
    if lab.data is None:
        raise UsageError("the study movielens needs MovieLens: give --data DIR with the folders ml-100k and ml-1m")
    plan = {"ml-100k": 1} if lab.quick else {"ml-100k": 3, "ml-1m": 2}
    parts: list[Part] = [INTRO]
    for name, seeds in plan.items():
        with _held(_LOADERS[name](lab.spark, lab.data / name)) as tables:
            found = [_split_figures(tables, lab.seed + number, lab.quick) for number in range(seeds)]
        parts += [f"## {name}", _table(name, found)]
    return Page("movielens", "New users of MovieLens", parts)


@contextmanager
def _held(tables: Tables) -> Iterator[Tables]:
    """The tables, persisted as long as they are in use."""
    frames = (tables.ratings, tables.users, tables.items)
    try:
        yield Tables(*(frame.persist() for frame in frames))
    finally:
        for frame in frames:
            frame.unpersist()


def _split_figures(tables: Tables, seed: int, quick: bool) -> dict[str, float | None]:
    """RMSE on the same held-out rows, of every method."""
    training, held_out = (part.persist() for part in split(tables.ratings, Split("user", 0.2, seed), "user", "item"))
    figures: dict[str, float | None] = {}
    for label, settings, items in _nimcs():
        nimc = NIMC(seed=seed, userFeatures=USER_FEATURES, itemFeatures=items, **settings)
        model = nimc.setUsers(tables.users).setItems(tables.items).fit(training)
        cell = evaluate_model(model, training, held_out, None)[CELL]
        figures |= {"global mean": cell["global_mean"]["rmse"], "shrunken item mean": cell["item_mean"]["rmse"]}
        figures[label] = cell["model"]["rmse"]
    figures["Spark FMRegressor"] = _fm(tables, training, held_out, 20 if quick else 100)
    figures["Spark ALS"] = _als(training, held_out)
    for part in (training, held_out):
        part.unpersist()
    return figures


def _nimcs() -> list[tuple[str, dict[str, Any], Declarations]]:
    return [
        ("NIMC as in the paper (ReLU)", {**RAW, "activation": "relu"}, PAPER_ITEMS),
        ("IMC as in the paper (identity)", {**RAW, "activation": "identity"}, PAPER_ITEMS),
        ("NIMC as this project composes it", TUNED, [GENRES, {"kind": "id"}]),
    ]


def _fm(tables: Tables, training: DataFrame, held_out: DataFrame, passes: int) -> float:
    """RMSE of Spark's factorization machine on one-hot attributes of both sides and one-hot movies."""
    band = F.concat(*(F.when(F.col("age") >= edge, "1").otherwise("0") for edge in AGE_BANDS))
    users = tables.users.withColumn("band", band)
    items = tables.items.withColumn("genre_list", F.split(F.coalesce("genres", F.lit("")), r"\|"))
    labels = ["occupation", "gender", "band", "item"]
    indexed, encoded = ([f"{label}_{kind}" for label in labels] for kind in ("index", "hot"))
    stages: list[Any] = [
        StringIndexer(inputCols=labels, outputCols=indexed, handleInvalid="keep"),
        OneHotEncoder(inputCols=indexed, outputCols=encoded, handleInvalid="keep"),
        CountVectorizer(inputCol="genre_list", outputCol="genre_hot", binary=True),
        VectorAssembler(inputCols=[*encoded, "genre_hot"], outputCol="features"),
        FMRegressor(labelCol="rating", factorSize=8, maxIter=passes, stepSize=0.1, regParam=1e-4, seed=1),
    ]
    rows, fresh = (part.join(users, "user").join(items, "item") for part in (training, held_out))
    scored = Pipeline(stages=stages).fit(rows).transform(fresh)
    return _rmse(scored)


def _als(training: DataFrame, held_out: DataFrame) -> float | None:
    """RMSE of Spark's ALS; None where it scores no row, as of users without ratings."""
    scored = ALS(userCol="user", itemCol="item", seed=1, maxIter=5).fit(training).transform(held_out)
    known = scored.where(~F.isnan("prediction"))
    return None if known.isEmpty() else _rmse(known)


def _rmse(scored: DataFrame) -> float:
    row = scored.agg(F.sqrt(F.avg((F.col("prediction") - F.col("rating")) ** 2))).first()
    if row is None or row[0] is None:
        raise DataError("there is no held-out row to measure on")
    return float(row[0])


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


def _ml_100k(spark: SparkSession, folder: Path) -> Tables:
    """GroupLens' layout: u.data, u.user, u.item with 19 genre columns, named by u.genre."""
    ratings = _read(folder / "u.data", "\t").iloc[:, :3].set_axis(["user", "item", "rating"], axis=1)
    users = _read(folder / "u.user", "|").iloc[:, :4].set_axis(["user", "age", "gender", "occupation"], axis=1)
    movies = _read(folder / "u.item", "|", "latin-1")
    genres = [str(g) for g in _read(folder / "u.genre", "|").iloc[:, 0]]
    flags = movies.iloc[:, -len(genres) :].to_numpy(dtype=bool)
    words = ["|".join(g for g, flag in zip(genres, row, strict=True) if flag) for row in flags]
    return _tables(spark, ratings, users, pd.DataFrame({"item": movies.iloc[:, 0], "genres": words}))


def _ml_1m(spark: SparkSession, folder: Path) -> Tables:
    ratings = _read(folder / "ratings_no_timestamp.dat", "::").set_axis(["user", "item", "rating"], axis=1)
    users = _read(folder / "users.dat", "::").iloc[:, :4].set_axis(["user", "gender", "age", "occupation"], axis=1)
    movies = _read(folder / "movies.dat", "::", "latin-1").iloc[:, [0, 2]].set_axis(["item", "genres"], axis=1)
    return _tables(spark, ratings, users, movies)


_LOADERS = {"ml-100k": _ml_100k, "ml-1m": _ml_1m}


def _read(path: Path, separator: str, encoding: str = "utf-8") -> pd.DataFrame:
    if not path.is_file():
        raise UsageError(f"{path} is not there: --data names a folder with ml-100k and ml-1m as GroupLens packs them")
    return pd.read_csv(path, sep=separator, header=None, encoding=encoding, engine="python")


def _tables(spark: SparkSession, ratings: pd.DataFrame, users: pd.DataFrame, items: pd.DataFrame) -> Tables:
    users = users.astype({"occupation": str, "age": float})
    ratings = ratings.astype({"rating": float})
    return Tables(*(spark.createDataFrame(frame).coalesce(2) for frame in (ratings, users, items)))


INTRO = """RMSE on the ratings of 20 % of the users, held out wholly, from attributes alone. NIMC and IMC "as in the
paper" fit raw ratings with 50 factors on occupation, age band and gender, genres and 20 right singular vectors. Raw
ratings (mean 3.5) flatter nobody: a shrunken mean of the movie's ratings beats both. The last NIMC has linear terms,
ids of the movies and the global mean as offset. Spark's ALS has no score for a user without ratings; FMRegressor has
one-hot attributes and movies."""
