"""Reasons through the model: what a pair's score loses without a feature, of every side, member and kind of id."""

from __future__ import annotations

from typing import Any

import pytest
from pyspark.ml.functions import array_to_vector, vector_to_array
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from nimc_spark import NIMC, NIMCModel
from nimc_spark.errors import DataError, UsageError
from tests.spark.ml.conftest import BARE_ITEM, NEW_USER, Toy

Reasons = dict[tuple[int, int], list[tuple[str, str, float]]]
NOBODY = 999


def reasons_of(spark: SparkSession, model: NIMCModel, pairs: list[tuple[int, int]], n: int = 100) -> Reasons:
    frame = spark.createDataFrame(pairs, "user long, item string")
    rows = model.reasons(frame, n).collect()
    assert len(rows) == len(set(pairs))
    return {(r.user, int(r.item)): [tuple(reason) for reason in r.reasons] for r in rows}


def scores(spark: SparkSession, model: NIMCModel, pairs: list[tuple[int, int]]) -> dict[tuple[int, int], float]:
    rows = model.transform(spark.createDataFrame(pairs, "user int, item int")).collect()
    return {(row.user, row.item): row.prediction for row in rows}


def without(table: DataFrame, place: int) -> DataFrame:
    """One entry of every vector left out."""
    values = F.transform(vector_to_array("features"), lambda x, i: F.when(i == place, 0.0).otherwise(x))
    return table.withColumn("features", array_to_vector(values))


def test_a_reason_is_what_the_score_loses(spark: SparkSession, toy: Toy, feature_model: NIMCModel) -> None:
    model = feature_model.copy()
    found = reasons_of(spark, model, [(1, 2), (NEW_USER, 2), (4, BARE_ITEM), (NOBODY, 2)])
    pairs = [(1, 2), (NEW_USER, 2)]
    whole, less = scores(spark, model, pairs), {}
    for place in range(2):
        users = model.copy().setUsers(without(toy.users, place)).setItems(toy.items)
        items = model.copy().setUsers(toy.users).setItems(without(toy.items, place))
        less["users", f"features[{place}]"] = scores(spark, users, pairs)
        less["items", f"features[{place}]"] = scores(spark, items, pairs)
    for pair in pairs:
        wanted = {feature: whole[pair] - without_it[pair] for feature, without_it in less.items()}
        mine = {(side, feature): added for side, feature, added in found[pair]}
        mine.pop(("items", "id"), None)
        assert mine == pytest.approx({key: added for key, added in wanted.items() if added > 0}, rel=1e-9)
        assert [added for *_, added in found[pair]] == sorted((added for *_, added in found[pair]), reverse=True)
    # An item without attributes has its id alone, a user of whom nothing is known has nothing.
    assert {feature for side, feature, _ in found[4, BARE_ITEM] if side == "items"} <= {"id"}
    assert {side for side, *_ in found[NOBODY, 2]} <= {"items"}


@pytest.mark.soak
def test_members_give_the_reasons_of_their_cells(spark: SparkSession, toy: Toy, feature_model: NIMCModel) -> None:
    brief: dict[str, Any] = {"maxIter": 3, "clip": False, "seed": 5}
    warm = NIMC(rank=2, userFeatures=[{"kind": "id"}, {"kind": "history"}], **brief).fit(toy.train)
    cells = {"known_user/known_item": "warm", "known_user/new_item": "cold"}
    cells |= {"new_user/known_item": "cold", "new_user/new_item": "cold"}
    routed = NIMCModel.routed({"warm": warm, "cold": feature_model}, cells)
    routed = routed.setUsers(toy.users).setItems(toy.items).setContext(toy.train)
    known, new = (1, 2), (NEW_USER, 2)
    found = reasons_of(spark, routed, [known, new])
    assert found[known] == reasons_of(spark, warm, [known])[known]
    assert found[new] == reasons_of(spark, feature_model, [new])[new]
    rated = {f"history={row.item}" for row in toy.train.where("user = 1").collect()}
    past = {feature for _, feature, _ in found[known]} - {"id"}
    assert past
    assert past <= rated


def test_ids_are_matched_by_value_and_every_pair_comes_back_as_it_was(
    spark: SparkSession, feature_model: NIMCModel
) -> None:
    pairs = spark.createDataFrame(
        [("1", "2"), ("01", "2"), ("abc", "2"), (None, "2"), ("1", "x")], "user string, item string"
    )
    found = {(row.user, row.item): row.reasons for row in feature_model.reasons(pairs, 100).collect()}
    assert set(found) == {(row.user, row.item) for row in pairs.collect()}
    nobody = found[None, "2"]
    assert found["01", "2"] == found["abc", "2"] == nobody
    assert {reason.side for reason in nobody} == {"items"}
    assert {reason.side for reason in found["1", "x"]} <= {"users"}


@pytest.mark.soak
def test_binary_ids_without_linear_terms(spark: SparkSession, toy: Toy) -> None:
    train = toy.train.select(F.unhex(F.hex("user")).alias("user"), F.unhex(F.hex("item")).alias("item"), "rating")
    features = [{"kind": "id"}, {"kind": "history"}]
    model = NIMC(rank=2, linear=False, maxIter=3, userFeatures=features).fit(train)
    rows = model.reasons(train.limit(5), 100).collect()
    past = {reason.feature for row in rows for reason in row.reasons} - {"id"}
    assert past
    assert past <= {f"history={row[0]}" for row in train.select(F.hex("item")).collect()}


def test_what_cannot_be_explained_is_said(spark: SparkSession, feature_model: NIMCModel) -> None:
    pairs = spark.createDataFrame([(1, 2)], "user int, film int")
    with pytest.raises(DataError, match="no column item"):
        feature_model.reasons(pairs)
    with pytest.raises(UsageError, match="n is 0"):
        feature_model.reasons(pairs.withColumnRenamed("film", "item"), 0)
