"""Lists of recommendations and factors: ALS's shapes, nobody lost, the same bits as transform."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from pyspark.ml.linalg import Vectors
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from nimc_spark import NIMCModel
from nimc_spark.errors import DataError, TrainingError
from tests.spark.ml.conftest import BARE_ITEM, ITEMS, NEW_USER, USERS, Toy

Lists = dict[int, list[tuple[int, float]]]


def lists_of(frame, own: str, other: str) -> Lists:
    return {row[own]: [(r[other], r["rating"]) for r in row["recommendations"]] for row in frame.collect()}


@pytest.fixture(scope="module")
def scores(spark: SparkSession, feature_model: NIMCModel) -> dict[tuple[int, int], float]:
    """transform's scores of all users and items."""
    users = spark.createDataFrame([(u,) for u in [*range(USERS), NEW_USER]], "user long")
    pairs = users.crossJoin(spark.range(ITEMS).withColumnRenamed("id", "item"))
    return {(r.user, r.item): r.prediction for r in feature_model.transform(pairs).collect()}


def best(scores: dict[tuple[int, int], float], k: int, own: int) -> Lists:
    lists: Lists = {}
    for pair, score in scores.items():
        lists.setdefault(pair[own], []).append((pair[1 - own], score))
    return {key: sorted(entries, key=lambda e: (-e[1], e[0]))[:k] for key, entries in lists.items()}


def test_lists_are_the_best_of_transforms_scores_bit_for_bit(
    feature_model: NIMCModel, scores: dict[tuple[int, int], float]
) -> None:
    for_users, for_items = feature_model.recommendForAllUsers(5), feature_model.recommendForAllItems(100)
    assert for_users.schema.simpleString() == "struct<user:int,recommendations:array<struct<item:int,rating:double>>>"
    assert for_items.schema.simpleString() == "struct<item:int,recommendations:array<struct<user:int,rating:double>>>"
    assert lists_of(for_users, "user", "item") == best(scores, 5, 0)
    assert lists_of(for_items, "item", "user") == best(scores, 100, 1)


def test_lists_are_ordered_by_scores_and_give_them_as_transform_does(toy: Toy, ids_model: NIMCModel) -> None:
    free, narrow = ids_model.copy({ids_model.clip: False}), ids_model.copy()
    narrow._trained = replace(ids_model.trained, rating_range=(2.5, 3.5))
    wanted = lists_of(free.recommendForAllUsers(ITEMS), "user", "item")
    assert max(score for entries in wanted.values() for _, score in entries) > 3.5
    assert lists_of(narrow.recommendForAllUsers(ITEMS), "user", "item") == {
        user: [(item, min(max(score, 2.5), 3.5)) for item, score in entries] for user, entries in wanted.items()
    }
    found = {(r.user, r.item): r.prediction for r in narrow.transform(toy.test).collect()}
    assert found.items() <= {(u, i): min(max(s, 2.5), 3.5) for u, entries in wanted.items() for i, s in entries}.items()


def test_subsets_bring_new_users_and_lose_nobody(
    spark: SparkSession, feature_model: NIMCModel, scores: dict[tuple[int, int], float]
) -> None:
    wanted = best(scores, 3, 0)
    known = spark.createDataFrame([(4,), (NEW_USER,), (4,), (999,)], "user long")
    found = lists_of(feature_model.recommendForUserSubset(known, 3), "user", "item")
    assert found.keys() == {4, NEW_USER, 999}
    assert {u: found[u] for u in (4, NEW_USER)} == {u: wanted[u] for u in (4, NEW_USER)}
    assert len(found[999]) == 3
    # A new user with the attributes of NEW_USER gets the same list.
    rows = [(999, Vectors.dense(0.5, -0.5)), (4, Vectors.dense(0.5, -0.5))]
    twins = feature_model.recommendForUserSubset(spark.createDataFrame(rows, ["user", "features"]), 3)
    found = lists_of(twins, "user", "item")
    assert found[999] == wanted[NEW_USER]
    # Features alone speak for a user here: known user 4, given others, is scored by those.
    assert found[4] == wanted[NEW_USER]
    items = spark.createDataFrame([(1,), (BARE_ITEM,), (77,)], "item int")
    found = lists_of(feature_model.recommendForItemSubset(items, 2), "item", "user")
    by_item = best(scores, 2, 1)
    assert found.keys() == {1, BARE_ITEM, 77}
    assert {i: found[i] for i in (1, BARE_ITEM)} == {i: by_item[i] for i in (1, BARE_ITEM)}
    with pytest.raises(DataError, match="the users have no column 'user'; they have: id"):
        feature_model.recommendForUserSubset(spark.range(2), 3)


def test_flat_lists_leave_out_what_is_excluded_and_say_where_scores_come_from(
    spark: SparkSession, toy: Toy, feature_model: NIMCModel
) -> None:
    users = spark.createDataFrame([(1,), (999,)], "user int")
    seen = toy.train.where("user = 1").select("user", "item")
    rows = feature_model.recommend(ITEMS, users, exclude=seen).collect()
    seen_items = {row.item for row in seen.collect()}
    assert {r.item for r in rows if r.user == 1} == set(range(ITEMS)) - seen_items
    assert {(r.user, r.score_source) for r in rows} == {(1, "model"), (999, "baseline")}
    assert [r.rank for r in rows if r.user == 999] == list(range(1, ITEMS + 1))


def test_factors_have_two_columns_more_and_multiply_to_the_score(toy: Toy, ids_model: NIMCModel) -> None:
    users, items = (
        {r.id: np.array(r.features) for r in f.collect()} for f in (ids_model.userFactors, ids_model.itemFactors)
    )
    assert users.keys() == set(range(USERS))
    assert items.keys() == set(range(ITEMS))
    assert {len(row) for row in (*users.values(), *items.values())} == {4}
    low, high = ids_model.trained.rating_range
    assert [low, high] == list(toy.train.agg(F.min("rating"), F.max("rating")).first())
    for row in ids_model.transform(toy.test).collect():
        inner = np.clip(users[row.user] @ items[row.item], low, high)
        assert row.prediction == pytest.approx(inner, rel=1e-12)


def test_an_empty_model_says_so(spark: SparkSession) -> None:
    with pytest.raises(TrainingError, match="this NIMCModel is empty"):
        _ = NIMCModel().userFactors
