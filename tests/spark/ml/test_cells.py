"""A model of several members: each speaks in its cells with its own scores, bit for bit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import SparkSession

from nimc_spark import NIMC, NIMCModel
from nimc_spark.engine.cells import CELLS, kind_of_cells
from nimc_spark.engine.evaluation import cell_name
from nimc_spark.errors import DataError, UsageError
from nimc_spark.ml.persistence import _checksum, _json
from tests.spark.ml.conftest import ITEMS, NEW_USER, USERS, Toy
from tests.spark.ml.test_model import best, lists_of

KK, KN, NK, NN = CELLS
ROUTER = {KK: "warm", KN: "cold", NK: "cold", NN: "bare"}
# Rated after the training, of ids that no member was trained on; without any trace.
LATER, NEW_ITEM, NOBODY = 500, 600, 999
BRIEF: dict[str, Any] = {"maxIter": 3, "ratingsPerLane": 60, "seed": 5}
Scores = dict[tuple[int, int], tuple[float, str]]


@pytest.mark.parametrize(
    ("cells", "kind"),
    [
        (CELLS, "random"),
        ([KK, NN], "random"),
        ([NK, NN], "user"),
        ([KN, NN], "item"),
        ([KN, NK, NN], "both"),
        ([NN], "user"),
    ],
)
def test_a_member_is_judged_as_it_is_used(cells: list[str], kind: str) -> None:
    assert kind_of_cells(cells) == kind


@pytest.fixture(scope="module")
def alone(toy: Toy, feature_model: NIMCModel) -> dict[str, NIMCModel]:
    """Histories and ids, attributes of users, ids of other users; of different ranks. None knows everybody."""
    train = toy.train.where("item != 5")
    warm = NIMC(rank=3, clip=False, userFeatures=[{"kind": "id"}, {"kind": "history"}], **BRIEF).fit(train)
    bare = NIMC(rank=1, clip=False, **BRIEF).fit(train.where("user != 7"))
    bare.setContext(train)
    return {"bare": bare, "cold": feature_model.copy().setContext(train), "warm": warm.setItems(toy.items)}


@pytest.fixture(scope="module")
def model(spark: SparkSession, toy: Toy, alone: dict[str, NIMCModel]) -> NIMCModel:
    """User 7 and item 5 are trained by some members, but have no rating in the context."""
    later = spark.createDataFrame([(LATER, 0, 4.0), (LATER, 1, 2.0)], "user int, item int, rating double")
    context = toy.train.where("user != 7 and item != 5").unionByName(later)
    return NIMCModel.routed(alone, ROUTER).setUsers(toy.users).setItems(toy.items).setContext(context)


@pytest.fixture(scope="module")
def pairs(spark: SparkSession) -> list[tuple[int, int]]:
    users = [*range(USERS), NEW_USER, LATER, NOBODY]
    return [(user, item) for user in users for item in [*range(ITEMS), NEW_ITEM]]


def scores_of(spark: SparkSession, model: NIMCModel, pairs: list[tuple[int, int]]) -> Scores:
    frame = spark.createDataFrame(pairs, "user long, item string").coalesce(1)
    return {(r.user, int(r.item)): (r.prediction, r.score_source) for r in model.transform(frame).collect()}


@pytest.fixture(scope="module")
def scores(spark: SparkSession, model: NIMCModel, pairs: list[tuple[int, int]]) -> Scores:
    return scores_of(spark, model, pairs)


def test_each_cell_has_the_scores_of_its_member_alone(
    spark: SparkSession, model: NIMCModel, pairs: list[tuple[int, int]], scores: Scores
) -> None:
    own = {name: scores_of(spark, member, pairs) for name, member in model.members.items()}
    assert list(own) == ["warm", "cold", "bare"]
    known_users, known_items = {*range(USERS), LATER} - {7}, {*range(ITEMS)} - {5}
    speakers = {(u, i): ROUTER[cell_name(u in known_users, i in known_items)] for u, i in pairs}
    assert set(speakers.values()) == set(own)
    for pair, speaker in speakers.items():
        score, source = own[speaker][pair]
        assert scores[pair] == (score, {"model": f"model:{speaker}"}.get(source, source))
    # The member that speaks must know both: here bare was trained without user 7, warm without ratings of NEW_ITEM.
    assert {scores[pair][1] for pair in ((7, 5), (NEW_USER, NEW_ITEM), (NOBODY, 0), (LATER, NEW_ITEM))} == {"baseline"}
    assert (scores[LATER, 2][1], scores[7, 2][1]) == ("model:warm", "model:cold")


def test_lists_are_the_best_of_transforms_scores(spark: SparkSession, model: NIMCModel, scores: Scores) -> None:
    plain = {pair: score for pair, (score, _) in scores.items() if pair[1] != NEW_ITEM}
    with model.heldFactors():
        asked = spark.createDataFrame([(u,) for u in (3, 7, NEW_USER, LATER, NOBODY)], "user long")
        rows = model.recommend(5, asked).collect()
        lists = lists_of(
            model.recommendForItemSubset(spark.createDataFrame([(0,), (5,)], "item int"), 4), "item", "user"
        )
    wanted = best(plain, 5, 0)
    found = {u: sorted((r.rank, r.item, r.score) for r in rows if r.user == u) for u in {r.user for r in rows}}
    assert found == {u: [(n, i, s) for n, (i, s) in enumerate(wanted[u], 1)] for u in (3, 7, NEW_USER, LATER, NOBODY)}
    assert all(r.score_source == scores[r.user, r.item][1] for r in rows)
    trained = {pair: score for pair, score in plain.items() if pair[0] != NOBODY}
    assert lists == {item: best(trained, 4, 1)[item] for item in (0, 5)}


def test_a_loaded_model_has_the_same_members_and_scores(
    spark: SparkSession, toy: Toy, model: NIMCModel, pairs: list[tuple[int, int]], scores: Scores, tmp_path: Path
) -> None:
    path = tmp_path / "model"
    model.save(str(path))
    assert sorted(p.name for p in (path / "members").iterdir()) == ["bare", "cold", "warm"]
    loaded = NIMCModel.load(str(path)).setUsers(toy.users).setItems(toy.items)
    assert (loaded.router, list(loaded.members)) == (ROUTER, ["warm", "cold", "bare"])
    assert {name: (m.getRank(), m.summary) for name, m in loaded.members.items()} == {
        name: (m.getRank(), m.summary) for name, m in model.members.items()
    }
    with pytest.raises(UsageError, match="setContext or contextTable"):
        loaded.transform(toy.test)
    assert scores_of(spark, loaded.setContext(model._context), pairs) == scores
    with pytest.raises(UsageError, match=r"several members: use members\[…\] with one of warm, cold, bare"):
        _ = loaded.summary
    manifest = json.loads((path / "manifest.json").read_text())
    del manifest["checksum"], manifest["router"][NN]
    manifest["checksum"] = _checksum(_json(manifest))
    (path / "manifest.json").write_bytes(_json(manifest))
    with pytest.raises(DataError, match=r"manifest\.json cannot be used: router\.new_user/new_item: missing"):
        NIMCModel.load(str(path))


def test_members_that_do_not_fit_together_are_refused(toy: Toy, alone: dict[str, NIMCModel], model: NIMCModel) -> None:
    def refused(message: str, router: dict[str, str] = ROUTER, **members: NIMCModel) -> None:
        with pytest.raises(UsageError, match=message):
            NIMCModel.routed(alone | members, router)

    refused(
        r"the same objective; found 'ratings' of bare, 'ratings' of cold, 'ranking' of warm",
        warm=alone["warm"].copy({alone["warm"].objective: "ranking"}),
    )
    refused(r"the same userCol; found 'id' of bare", bare=alone["bare"].copy({alone["bare"].userCol: "id"}))
    refused("the member cold has members itself", cold=model)
    refused(
        r"router\.new_user/new_item: missing; give one of the members: bare, cold, warm",
        {**{KK: "warm"}, KN: "cold", NK: "bare"},
    )
