"""MovieLens as tables, for the studies that measure on it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from nimc_spark.errors import DataError, UsageError
from nimc_spark.studies.study import Lab

AGE_BANDS = [18, 25, 35, 45, 50, 56]


@dataclass(frozen=True)
class Tables:
    """ratings(user, item, rating, row), users(user, age, gender, occupation, zip), items(item, genres, year).

    `row` numbers the ratings as the file has them.
    """

    ratings: DataFrame
    users: DataFrame
    items: DataFrame


@contextmanager
def movielens_tables(lab: Lab, name: str) -> Iterator[Tables]:
    """The tables of ml-100k or ml-1m, persisted as long as they are in use. Raises UsageError where they are not."""
    if lab.data is None:
        raise UsageError("this study needs MovieLens: give --data DIR with the folders ml-100k and ml-1m")
    tables = _LOADERS[name](lab.spark, lab.data / name)
    frames = (tables.ratings, tables.users, tables.items)
    try:
        yield Tables(*(frame.persist() for frame in frames))
    finally:
        for frame in frames:
            frame.unpersist()


def collected(frame: DataFrame) -> pd.DataFrame:
    """The rows on the driver."""
    rows: pd.DataFrame = frame.toPandas()
    return rows


def rmse(scored: DataFrame) -> float:
    """√ of the mean of (prediction − rating)²."""
    row = scored.agg(F.sqrt(F.avg((F.col("prediction") - F.col("rating")) ** 2))).first()
    if row is None or row[0] is None:
        raise DataError("there is no held-out row to measure on")
    return float(row[0])


def _ml_100k(spark: SparkSession, folder: Path) -> Tables:
    """GroupLens' layout: u.data, u.user, u.item with 19 genre columns, named by u.genre."""
    ratings = _read(folder / "u.data", "\t").iloc[:, :3].set_axis(["user", "item", "rating"], axis=1)
    users = _read(folder / "u.user", "|").set_axis(["user", "age", "gender", "occupation", "zip"], axis=1)
    movies = _read(folder / "u.item", "|", "latin-1")
    genres = [str(g) for g in _read(folder / "u.genre", "|").iloc[:, 0]]
    flags = movies.iloc[:, -len(genres) :].to_numpy(dtype=bool)
    words = ["|".join(g for g, flag in zip(genres, row, strict=True) if flag) for row in flags]
    titles = movies.iloc[:, 1]
    return _tables(spark, ratings, users, pd.DataFrame({"item": movies.iloc[:, 0], "title": titles, "genres": words}))


def _ml_1m(spark: SparkSession, folder: Path) -> Tables:
    ratings = _read(folder / "ratings_no_timestamp.dat", "::").set_axis(["user", "item", "rating"], axis=1)
    users = _read(folder / "users.dat", "::").set_axis(["user", "gender", "age", "occupation", "zip"], axis=1)
    movies = _read(folder / "movies.dat", "::", "latin-1").set_axis(["item", "title", "genres"], axis=1)
    return _tables(spark, ratings, users, movies)


_LOADERS = {"ml-100k": _ml_100k, "ml-1m": _ml_1m}


def _read(path: Path, separator: str, encoding: str = "utf-8") -> pd.DataFrame:
    if not path.is_file():
        raise UsageError(f"{path} is not there: --data names a folder with ml-100k and ml-1m as GroupLens packs them")
    return pd.read_csv(path, sep=separator, header=None, encoding=encoding, engine="python")


def _tables(spark: SparkSession, ratings: pd.DataFrame, users: pd.DataFrame, items: pd.DataFrame) -> Tables:
    users = users.astype({"occupation": str, "age": float, "zip": str})
    ratings = ratings.astype({"rating": float}).assign(row=np.arange(len(ratings)))
    year = items["title"].astype(str).str.extract(r"\((\d{4})\)\s*$")[0].astype(float)
    items = items.drop(columns="title").assign(year=year.fillna(year.median()))
    return Tables(*(spark.createDataFrame(frame).coalesce(2) for frame in (ratings, users, items)))
