"""A tiny problem that the model can represent, and two models fitted to it, shared by the tests of the API."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from pyspark.ml.linalg import Vectors
from pyspark.sql import DataFrame, SparkSession

from nimc_spark import NIMC, NIMCModel

USERS, ITEMS = 24, 16
# In the users' table, without a rating; an item with ratings, without a row of attributes.
NEW_USER, BARE_ITEM = 100, 3
ITEM_FEATURES = [{"kind": "passthrough", "column": "features"}, {"kind": "id"}]


@dataclass(frozen=True)
class Toy:
    """rating = 3 + p_i·q_j, p and q of two columns; `train` and `test` are disjoint pairs, every id is in `train`."""

    train: DataFrame
    test: DataFrame
    users: DataFrame
    items: DataFrame


@pytest.fixture(scope="session")
def toy(spark: SparkSession) -> Toy:
    random = np.random.default_rng(0)
    P, Q = random.normal(size=(USERS, 2)), random.normal(size=(ITEMS, 2))
    pairs = [(u, i) for u in range(USERS) for i in range(ITEMS)]
    chosen = {(u, i) for u, i in pairs if random.random() < 0.7 or u == i or i == u % ITEMS}
    rows = [(u, i, 3.0 + float(P[u] @ Q[i]), (u, i) in chosen) for u, i in pairs]
    frame = spark.createDataFrame(rows, "user int, item int, rating double, train boolean").coalesce(2)
    users = [(u, Vectors.dense(p.tolist())) for u, p in enumerate(P)] + [(NEW_USER, Vectors.dense(0.5, -0.5))]
    items = [(i, Vectors.dense(q.tolist())) for i, q in enumerate(Q) if i != BARE_ITEM]
    return Toy(
        frame.where("train").drop("train"),
        frame.where("not train").drop("train"),
        # Ids of another integer type than the ratings'.
        spark.createDataFrame(users, ["user", "features"]).coalesce(1),
        spark.createDataFrame(items, ["item", "features"]).coalesce(1),
    )


@pytest.fixture(scope="session")
def ids_model(toy: Toy) -> NIMCModel:
    """Ids alone, several lanes."""
    return NIMC(rank=2, regParam=0.02, linearRegParam=0.02, regPower=0.0, maxIter=30, ratingsPerLane=60).fit(toy.train)


@pytest.fixture(scope="session")
def feature_model(toy: Toy) -> NIMCModel:
    """Features of both sides; ids of the items too."""
    estimator = NIMC(rank=2, activation="tanh", maxIter=6, clip=False, itemFeatures=ITEM_FEATURES)
    return estimator.setUsers(toy.users).setItems(toy.items).fit(toy.train)
