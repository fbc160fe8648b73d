"""Singular vectors of the training ratings as features: as if made by hand, saved, and zero for new ids."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pyspark.ml.linalg import Vectors
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from nimc_spark import NIMC, NIMCModel
from nimc_spark.errors import UsageError
from nimc_spark.kernels.model import SideName
from tests.spark.engine.oracle_problem import persisted
from tests.spark.ml.conftest import ITEMS, NEW_USER, USERS, Toy
from tests.spark.ml.test_estimator import numbers_of, rows_of

USER_RANK, ITEM_RANK = 2, 4
USER_FEATURES = [{"kind": "rating_svd", "rank": USER_RANK}]
ITEM_FEATURES = [
    {"kind": "rating_svd", "rank": ITEM_RANK, "group": "taste"},
    {"kind": "passthrough", "column": "features"},
    {"kind": "id"},
]
SETTINGS = {
    "rank": 2,
    "activation": "tanh",
    "clip": False,
    "ratingsPerLane": 60,
    "groupRegParam": {"items": {"taste": 3.0}},
}


def estimator(toy: Toy, **params: Any) -> NIMC:
    features = {"userFeatures": USER_FEATURES, "itemFeatures": ITEM_FEATURES}
    return NIMC(**{**SETTINGS, "maxIter": 5, **features, **params}).setItems(toy.items)


@pytest.fixture(scope="module")
def model(toy: Toy) -> NIMCModel:
    return estimator(toy).fit(toy.train)


def by_hand(train: DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """√n times the singular vectors of users and items, the entry of each item vector largest in size positive."""
    R = np.zeros((USERS, ITEMS))
    for user, item, rating in train.collect():
        R[user, item] = rating
    U, _, Vt = np.linalg.svd(R)
    U, V = U[:, :ITEM_RANK], Vt[:ITEM_RANK].T
    signs = np.sign(V[np.abs(V).argmax(axis=0), np.arange(ITEM_RANK)])
    return np.sqrt(USERS) * U * signs, np.sqrt(ITEMS) * V * signs


def test_training_is_as_with_vectors_made_by_hand(spark: SparkSession, toy: Toy, model: NIMCModel) -> None:
    users, items = by_hand(toy.train)
    attributes = dict(toy.items.collect())
    user_rows = [(u, Vectors.dense(x[:USER_RANK].tolist())) for u, x in enumerate(users)]
    item_rows = [(i, attributes.get(i, Vectors.dense(0, 0)), Vectors.dense(y.tolist())) for i, y in enumerate(items)]
    declared = [
        {"kind": "passthrough", "column": "features"},
        {"kind": "passthrough", "column": "vector", "group": "taste"},
        {"kind": "id"},
    ]
    other = estimator(toy, userFeatures=[{"kind": "passthrough", "column": "vector"}], itemFeatures=declared)
    other.setUsers(spark.createDataFrame(user_rows, ["user", "vector"]).coalesce(1))
    other.setItems(spark.createDataFrame(item_rows, ["item", "features", "vector"]).coalesce(1))
    wanted = other.fit(toy.train)
    np.testing.assert_allclose(model.summary.losses, wanted.summary.losses, rtol=1e-8)
    pairs = [sorted(rows_of(m.transform(toy.test).select("user", "item", "prediction"))) for m in (model, wanted)]
    np.testing.assert_allclose(*pairs, rtol=1e-6)
    for side, vectors in ((SideName.USERS, users[:, :USER_RANK]), (SideName.ITEMS, items)):
        ids = model.trained.sides[side].ids
        rows = dict(zip(ids["id"].to_pylist(), ids["vector"].to_pylist(), strict=True))
        np.testing.assert_allclose([rows[i] for i in range(len(rows))], vectors, atol=1e-9)
        np.testing.assert_allclose(np.mean(np.square(list(rows.values())), axis=0), 1.0, rtol=1e-12)


@pytest.mark.soak
def test_any_partitioning_gives_the_same_bits_and_nothing_is_kept(
    spark: SparkSession, toy: Toy, model: NIMCModel
) -> None:
    before = persisted(spark)
    assert model.summary.lanes > 2
    for partitions in (1, 3):
        assert numbers_of(estimator(toy).fit(toy.train.repartition(partitions))) == numbers_of(model)
    assert persisted(spark) == before


@pytest.mark.soak
def test_a_loaded_model_scores_the_same_bits(toy: Toy, model: NIMCModel, tmp_path: Path) -> None:
    model.save(str(tmp_path / "model"))
    loaded = NIMCModel.load(str(tmp_path / "model")).setItems(toy.items)
    assert numbers_of(loaded) == numbers_of(model)
    assert rows_of(loaded.transform(toy.test)) == rows_of(model.transform(toy.test))
    users = toy.test.select("user").distinct()
    assert rows_of(loaded.recommend(3, users)) == rows_of(model.recommend(3, users))


def test_a_new_item_has_zeros_there_and_a_known_one_its_own(spark: SparkSession, toy: Toy, model: NIMCModel) -> None:
    rows = [(i, Vectors.dense(0.5, -1.0)) for i in (0, 900)]
    found = {
        r.id: r for r in model.factors(SideName.ITEMS, spark.createDataFrame(rows, ["item", "features"])).collect()
    }
    side = model.trained.sides[SideName.ITEMS]
    known = {row["id"]: row for row in side.ids.to_pylist()}[0]
    z = np.array([0.5, -1.0]) @ side.declared[:2]
    own = z + known["vector"] @ side.declared[2:] + np.array(known["weights"])
    for item, wanted, offset in ((900, z, 0.0), (0, own, known["offset"])):
        assert found[item].source == "model"
        expected = [*np.tanh(wanted[:2]), 1.0, wanted[2] + offset]
        np.testing.assert_allclose(found[item].factors, expected, rtol=1e-12, atol=1e-14)


def test_a_side_without_a_table_knows_trained_ids_alone(toy: Toy, model: NIMCModel) -> None:
    pairs = toy.test.select("item", F.when(F.col("user") < 5, NEW_USER).otherwise(F.col("user")).alias("user"))
    sources = {(row.user == NEW_USER, row.score_source) for row in model.transform(pairs).collect()}
    assert sources == {(True, "baseline"), (False, "model")}


@pytest.mark.soak
def test_an_item_of_the_complement_without_a_rating_has_zeros(spark: SparkSession, toy: Toy) -> None:
    clicks = toy.train.where("item > 2").withColumn("rating", F.lit(1.0))
    fitted = estimator(toy, complementWeight=0.1, groupRegParam={}).fit(clicks)
    ids = fitted.trained.sides[SideName.ITEMS].ids
    rows = dict(zip(ids["id"].to_pylist(), ids["vector"].to_pylist(), strict=True))
    assert sorted(rows) == list(range(ITEMS))
    assert [i for i, vector in rows.items() if vector is None] == [0, 1, 2]
    assert all(np.isfinite(row.prediction) for row in fitted.transform(toy.test).collect())


def test_a_rank_that_the_ratings_cannot_have_is_refused(spark: SparkSession, toy: Toy) -> None:
    before = persisted(spark)
    message = r"the users declare {kind: rating_svd, rank: 16}, .* 24 users and 16 items: at most 15 is allowed"
    with pytest.raises(UsageError, match=message):
        estimator(toy, userFeatures=[{"kind": "rating_svd", "rank": 16}]).fit(toy.train)
    assert persisted(spark) == before
