"""What else there is to rate and to rank with, for the studies that measure beside it.

Spark's own, and cmfrec and LightFM where they are installed: those run in the driver's process, with the attributes of
both sides one-hot.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.util import find_spec
from itertools import product
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd
from pyspark.ml import Pipeline
from pyspark.ml.feature import CountVectorizer, OneHotEncoder, StringIndexer, VectorAssembler
from pyspark.ml.recommendation import ALS
from pyspark.ml.regression import FMRegressor
from pyspark.sql import DataFrame
from pyspark.sql import functions as F
from scipy.sparse import coo_matrix, csr_matrix, hstack, identity

from nimc_spark.engine.evaluation import evaluate_ranking
from nimc_spark.studies.movielens_tables import AGE_BANDS, Tables, collected, rmse

_YEARS = [1940, 1960, 1970, 1980, 1985, 1990, 1993, 1996]


def factorization_machine(tables: Tables, training: DataFrame, held_out: DataFrame, passes: int) -> float:
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
    return rmse(Pipeline(stages=stages).fit(rows).transform(fresh))


def als(
    training: DataFrame, held_out: DataFrame, rank: int = 10, reg_param: float = 0.1, iterations: int = 5
) -> float | None:
    """RMSE of Spark's ALS on the rows that it scores; None where it scores none, as of users without ratings."""
    estimator = ALS(userCol="user", itemCol="item", seed=1, rank=rank, regParam=reg_param, maxIter=iterations)
    with TemporaryDirectory() as folder:
        # Without checkpoints the lineage of some iterations is too deep for the stack of a task's thread.
        training.sparkSession.sparkContext.setCheckpointDir(folder)
        scored = estimator.setCheckpointInterval(2).fit(training).transform(held_out)
        known = scored.where(~F.isnan("prediction"))
        return None if known.isEmpty() else rmse(known)


def installed(name: str) -> bool:
    """Whether a peer that this project does not need can be imported."""
    return find_spec(name) is not None


def cmfrec(
    tables: Tables, training: DataFrame, fitted: DataFrame, validation: DataFrame, held_out: DataFrame
) -> tuple[float, str]:
    """RMSE of cmfrec's collective factorization with attributes, and its setting, the best on `validation`."""
    users, items = (frame.rename_axis(index).reset_index() for frame, index in _named(tables, ("UserId", "ItemId")))
    module = import_module("cmfrec")
    known, part, chosen_on, rows = (_triples(frame) for frame in (training, fitted, validation, held_out))

    def error(setting: tuple[int, float, float], train: pd.DataFrame, test: pd.DataFrame) -> float:
        k, lam, weight = setting
        options = {"scale_lam": True, "w_user": weight, "w_item": weight, "nthreads": 1, "verbose": False}
        model = module.CMF(k=k, lambda_=lam, niter=30, random_state=1, **options).fit(train, U=users, I=items)
        scores = np.nan_to_num(model.predict(test.UserId, test.ItemId), nan=float(train.Rating.mean()))
        return float(np.sqrt(np.mean((np.clip(scores, 1, 5) - test.Rating) ** 2)))

    best = min(product((10, 40), (0.03, 0.06, 0.1, 0.15), (0.1, 1.0)), key=lambda s: error(s, part, chosen_on))
    return error(best, known, rows), f"k {best[0]}, λ {best[1]}, side information {best[2]}"


def lightfm(
    tables: Tables, training: DataFrame, fitted: DataFrame, validation: DataFrame, held_out: DataFrame, k: int
) -> tuple[float, str]:
    """NDCG@k of LightFM (WARP) for new users by their attributes, and its setting, the best of a grid on
    `validation`; ratings from 4 on are hits."""
    module = import_module("lightfm")
    users, items = _attributes(tables)
    X = csr_matrix(users.to_numpy(dtype=np.float32))
    Y = hstack([identity(len(items), dtype=np.float32), items.to_numpy(dtype=np.float32)], format="csr")

    def gain(setting: tuple[int, int, float], train: DataFrame, test: DataFrame) -> float:
        components, epochs, alpha = setting
        rows = collected(train.where("rating >= 4"))
        places = (users.index.get_indexer(rows.user), items.index.get_indexer(rows.item))
        hits = coo_matrix((np.ones(len(rows), np.float32), places), shape=(len(users), len(items)), dtype=np.float32)
        model = module.LightFM(components, loss="warp", item_alpha=alpha, user_alpha=alpha, random_state=1)
        model.fit(hits, user_features=X, item_features=Y, epochs=epochs)
        (user_bias, P), (item_bias, Q) = model.get_user_representations(X), model.get_item_representations(Y)

        def scores(user: int) -> Any:
            return Q @ P[user] + item_bias + user_bias[user]

        return ndcg(scores, users.index, items.index, train, test, k)

    best = max(product((10, 30), (10, 30), (0.0, 1e-5)), key=lambda s: gain(s, fitted, validation))
    return gain(best, training, held_out), f"{best[0]} components, {best[1]} epochs, alpha {best[2]:g}"


def ndcg(
    scores: Callable[[int], Any],
    users: pd.Index[Any],
    items: pd.Index[Any],
    training: DataFrame,
    held_out: DataFrame,
    k: int,
) -> float:
    """NDCG@k of the k items with training ratings that score highest for each held-out user, by place in `users`."""
    catalogue = collected(training.select("item").distinct())["item"]
    allowed = np.isin(items, catalogue)
    relevant = held_out.where("rating >= 4").join(training.select("item").distinct(), "item", "semi")
    rows = []
    for user in collected(relevant.select("user").distinct())["user"]:
        found = np.where(allowed, scores(int(users.get_loc(user))), -np.inf)
        rows += [(user, rank, items[place]) for rank, place in enumerate(np.argsort(-found, kind="stable")[:k], 1)]
    frame = pd.DataFrame(rows, columns=["user", "rank", "item"]).astype({"rank": np.int32})
    lists = training.sparkSession.createDataFrame(frame)
    return float(evaluate_ranking(lists, relevant, k, len(catalogue))[f"ndcg@{k}"])


def _triples(ratings: DataFrame) -> pd.DataFrame:
    return collected(ratings.select("user", "item", "rating")).set_axis(["UserId", "ItemId", "Rating"], axis=1)


def _named(tables: Tables, names: Sequence[str]) -> list[tuple[pd.DataFrame, str]]:
    return list(zip(_attributes(tables), names, strict=True))


def _attributes(tables: Tables) -> tuple[pd.DataFrame, pd.DataFrame]:
    """One-hot columns of users and of items, by id."""
    users, items = collected(tables.users), collected(tables.items)
    bands = pd.cut(users["age"], [-np.inf, *AGE_BANDS, np.inf], right=False).astype(str)
    labels = users[["gender", "occupation"]].assign(band=bands, zip=users["zip"].str[:2])
    years = pd.cut(items["year"], [-np.inf, *_YEARS, np.inf], right=False).astype(str)
    hot = pd.concat([items["genres"].str.get_dummies("|"), pd.get_dummies(years)], axis=1)
    return pd.get_dummies(labels).astype(float).set_index(users["user"]), hot.astype(float).set_index(items["item"])
