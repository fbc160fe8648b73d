"""Histories as features: as if made by hand in training, and from the context ratings when scoring."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pyspark.ml.linalg import Vectors
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from nimc_spark import NIMC, NIMCModel
from nimc_spark.engine.outside import ItemsAt
from nimc_spark.errors import DataError, UsageError
from nimc_spark.kernels.model import SideName
from tests.spark.engine.oracle_problem import persisted
from tests.spark.ml.conftest import ITEMS, USERS, Toy
from tests.spark.ml.test_estimator import numbers_of, rows_of

EQUAL, RESIDUALS = {"kind": "history"}, {"kind": "history", "weights": "residuals", "group": "liked"}
USER_FEATURES = [{"kind": "id"}, EQUAL, RESIDUALS]
ITEM_FEATURES = [{"kind": "passthrough", "column": "features"}, RESIDUALS]
SETTINGS: dict[str, Any] = {"rank": 2, "activation": "tanh", "clip": False, "ratingsPerLane": 60, "maxIter": 5}
# Rated after the training; no user of the training has this id.
LATER = 500


def estimator(toy: Toy, **params: Any) -> NIMC:
    features = {"userFeatures": USER_FEATURES, "itemFeatures": ITEM_FEATURES}
    penalties = {"users": {"history": 2.0, "liked": {"factors": 3.0, "linear": 1.0}}, "items": {"liked": 4.0}}
    return NIMC(**{**SETTINGS, "groupRegParam": penalties, **features, **params}).setItems(toy.items)


@pytest.fixture(scope="module")
def model(toy: Toy) -> NIMCModel:
    return estimator(toy).fit(toy.train)


def by_hand(train: DataFrame) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The users' two histories and the items' one; biases are shrunken by 5 ratings, each about the mean alone."""
    R = np.full((USERS, ITEMS), np.nan)
    for user, item, rating in train.collect():
        R[user, item] = rating
    rated, centred = ~np.isnan(R), np.nan_to_num(R - np.nanmean(R))
    of_items = centred.sum(axis=0) / (rated.sum(axis=0) + 5)
    of_users = centred.sum(axis=1) / (rated.sum(axis=1) + 5)
    per_user, per_item = np.sqrt(rated.sum(axis=1)), np.sqrt(rated.sum(axis=0))
    liked = np.where(rated, centred - of_items, 0.0) / per_user[:, None]
    liked_by = (np.where(rated, centred - of_users[:, None], 0.0) / per_item).T
    return rated / per_user[:, None], liked, liked_by


def test_training_is_as_with_vectors_made_by_hand(spark: SparkSession, toy: Toy) -> None:
    # λ of histories and of other features are not the same where they are unset.
    alike = {"regParam": 2.0, "linearRegParam": 0.5}
    found = estimator(toy, userFeatures=[EQUAL, RESIDUALS], **alike).fit(toy.train)
    user_order, item_order = (found.trained.sides[side].ids["id"].to_pylist() for side in SideName)
    equal, liked, liked_by = by_hand(toy.train)
    both = zip(equal[:, item_order].tolist(), liked[:, item_order].tolist(), strict=True)
    users = [(u, Vectors.dense(a), Vectors.dense(b)) for u, (a, b) in enumerate(both)]
    attributes = dict(toy.items.collect())
    items = [
        (i, attributes.get(i, Vectors.dense(0, 0)), Vectors.dense(y))
        for i, y in enumerate(liked_by[:, user_order].tolist())
    ]
    of_users = [
        {"kind": "passthrough", "column": "equal", "group": "history"},
        {"kind": "passthrough", "column": "liked", "group": "liked"},
    ]
    of_items = [ITEM_FEATURES[0], {"kind": "passthrough", "column": "liked", "group": "liked"}]
    other = estimator(toy, userFeatures=of_users, itemFeatures=of_items, **alike)
    other.setUsers(spark.createDataFrame(users, ["user", "equal", "liked"]).coalesce(1))
    other.setItems(spark.createDataFrame(items, ["item", "features", "liked"]).coalesce(1))
    wanted = other.fit(toy.train)
    np.testing.assert_allclose(found.summary.losses, wanted.summary.losses, rtol=1e-8)
    pairs = [sorted(rows_of(m.transform(toy.test).select("user", "item", "prediction"))) for m in (found, wanted)]
    np.testing.assert_allclose(*pairs, rtol=1e-6)


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
def test_a_loaded_model_scores_the_same_bits_from_the_same_context(toy: Toy, model: NIMCModel, tmp_path: Path) -> None:
    model.save(str(tmp_path / "model"))
    loaded = NIMCModel.load(str(tmp_path / "model")).setItems(toy.items)
    with pytest.raises(UsageError, match="setContext or contextTable"):
        loaded.transform(toy.test)
    toy.train.repartition(3).write.parquet(str(tmp_path / "context"))
    loaded._set(contextTable=str(tmp_path / "context"))
    assert numbers_of(loaded) == numbers_of(model)
    assert rows_of(loaded.transform(toy.test)) == rows_of(model.transform(toy.test))


@pytest.mark.soak
def test_who_rated_after_the_training_is_as_a_twin_who_rated_before(spark: SparkSession, toy: Toy) -> None:
    """Without ids, all that the model knows of a user is the history."""
    model = estimator(toy, userFeatures=[EQUAL, RESIDUALS]).fit(toy.train)
    twin = toy.train.where("user = 4").withColumn("user", F.lit(LATER).cast("long"))
    model.setContext(toy.train.unionByName(twin))
    asked = spark.createDataFrame([(4, "x"), (LATER, "y"), (LATER + 1, "z")], "user long, other string")
    lists = model.recommendForUserSubset(asked, ITEMS).collect()
    ranked = {row.user: [(r.item, r.rating) for r in row.recommendations] for row in lists}
    assert ranked[LATER] == ranked[4]
    assert ranked[LATER + 1] != ranked[4]
    pairs = spark.createDataFrame([(u, 3) for u in ranked], "user long, item int")
    sources = {row.user: row.score_source for row in model.transform(pairs).collect()}
    assert sources == {4: "model", LATER: "model", LATER + 1: "baseline"}


def test_factors_of_a_user_with_ratings_alone(spark: SparkSession, toy: Toy, model: NIMCModel) -> None:
    side, items = model.trained.sides[SideName.USERS], model.trained.sides[SideName.ITEMS].ids.to_pylist()
    assert side.history is not None
    context = spark.createDataFrame([(LATER, 0, 4.0), (LATER, 7, 1.0), (LATER, 999, 5.0)], ["user", "item", "rating"])
    later = model.copy().setContext(context)
    place = {row["id"]: n for n, row in enumerate(items)}
    equal, liked = side.history.rows[:ITEMS], side.history.rows[ITEMS:]
    z = np.zeros(3)
    for item, rating in ((0, 4.0), (7, 1.0)):
        residual = rating - side.history.mean - items[place[item]]["bias"]
        z += (equal[place[item]] + residual * liked[place[item]]) / np.sqrt(2)
    row = next(r for r in later.factors(SideName.USERS).collect() if r.id == LATER)
    np.testing.assert_allclose(row.factors, [*np.tanh(z[:2]), side.constant + z[2], 1.0], rtol=1e-12)


def test_a_context_with_broken_ratings_is_refused(spark: SparkSession, toy: Toy, model: NIMCModel) -> None:
    broken = spark.createDataFrame(
        [(1, 1, float("nan")), (1, 2, None), (1, 3, 2.0)], "user int, item int, rating double"
    )
    with pytest.raises(DataError, match="2 ratings that are null, NaN, infinite or beyond"):
        model.copy().setContext(broken).transform(toy.test)
    with pytest.raises(DataError, match="no column ratingCol"):
        model.copy().setContext(broken.drop("rating")).transform(toy.test)


@pytest.mark.soak
def test_where_the_items_are_evaluated_changes_rounding_only(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    """The driver and jobs of their own give the same bits."""

    def fitted(**params: Any) -> NIMCModel:
        return estimator(toy, **{"solver": "lbfgs", "dtype": "float64", "maxIter": 4, **params}).fit(toy.train)

    on_driver = fitted()
    assert on_driver.summary.items_at == "outside the blocks, on the driver"
    with monkeypatch.context() as patched:
        patched.setattr("nimc_spark.ml.problem.items_at", lambda *_: ItemsAt.BLOCKS)
        inside = fitted()
    assert inside.summary.items_at == "in the blocks"
    np.testing.assert_allclose(on_driver.summary.losses, inside.summary.losses, rtol=1e-10)
    pairs = [sorted(rows_of(m.transform(toy.test).select("user", "item", "prediction"))) for m in (on_driver, inside)]
    np.testing.assert_allclose(*pairs, rtol=1e-9)
    monkeypatch.setattr("nimc_spark.engine.outside.DRIVER_ENTRIES", 0)
    in_jobs = fitted()
    assert in_jobs.summary.items_at == "outside the blocks, in jobs of their own"
    assert numbers_of(in_jobs) == numbers_of(on_driver)
    assert fitted(solver="gncg", maxIter=2).summary.items_at == "in the blocks"


def test_the_same_history_twice_is_refused(toy: Toy) -> None:
    with pytest.raises(UsageError, match=r"a second .kind: history, weights: equal"):
        estimator(toy, userFeatures=[EQUAL, EQUAL]).fit(toy.train)


def test_more_columns_than_the_driver_can_hold_are_refused_before_training(
    toy: Toy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nimc_spark.ml.problem.driver_memory", lambda: 2**15)
    with pytest.raises(UsageError, match=r"leave out the .* of users \(\d+ columns\) and the .* columns\), or lower"):
        estimator(toy).fit(toy.train)
