"""A model a cell, from the config to lists: one version, each member with figures of its own."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from jobs import diagnose, evaluate, predict, score, train
from nimc_spark.io.registry import Registry
from nimc_spark.io.tables import Lake
from nimc_spark.ml import NIMCModel
from tests.jobs.conftest import Night
from tests.jobs.tiny import USER_SCHEMA

MEMBERS = {
    "warm": {"features": {"users": [{"kind": "id"}, {"kind": "history"}]}, "model": {"rank": 1}},
    "cold": {"features": {"items": [{"kind": "id"}]}},
}
ROUTER = {
    "known_user/known_item": "warm",
    "known_user/new_item": "cold",
    "new_user/known_item": "cold",
    "new_user/new_item": "cold",
}
FIGURES = {"loss", "passes", "stop_reason"}
SCORE = {"k": 3, "model": "candidate"}


@pytest.mark.soak
def test_members_from_training_to_lists(
    night: Night, spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = night.copied(tmp_path)
    place.config |= {"members": MEMBERS, "router": ROUTER, "score": SCORE}
    trained = place.run(train.main).done()
    assert {name: set(of) for name, of in trained["metrics"].items()} == {"warm": FIGURES, "cold": FIGURES}
    lake = Lake(spark, str(place.lake))
    entry = Registry(lake, "tiny").resolve("candidate")
    assert (entry.version, set(entry.metrics["cold"])) == (2, {*FIGURES, "losses"})
    model = NIMCModel.load(entry.path)
    assert {name: member.getRank() for name, member in model.members.items()} == {"warm": 1, "cold": 2}
    assert trained["counts"]["parameters"] == sum(m.summary.parameters for m in model.members.values())

    (cell,) = place.run(evaluate.main).done()["metrics"]
    assert cell == "new_user/known_item"
    assert place.run(score.main).done()["model_version"] == 2
    lists = Counter((r["user_id"], r["score_source"]) for r in lake.read("recommendations").collect())
    assert (lists["u01", "model:warm"], lists["quiet", "model:cold"]) == (3, 3)

    new = place.csv("new.csv", "uid,age,gender\nnew1,25,F\nnew2,25,F\n", USER_SCHEMA)
    rated = place.csv("rated.csv", "uid,iid,stars,at\nnew1,3,5,9\n", "uid STRING, iid LONG, stars DOUBLE, at LONG")
    line = place.run(predict.main, predict={"users": new, "ratings": rated, "k": 21}).done()
    assert set(line["unseen"]["users"]) == {"age", "gender"}
    answers = Counter((r["user_id"], r["score_source"]) for r in lake.read("predictions").collect())
    # Nobody rated one of the items, and cold knows items by their ids alone.
    assert answers == {
        ("new1", "model:warm"): 20,
        ("new1", "baseline"): 1,
        ("new2", "model:cold"): 20,
        ("new2", "baseline"): 1,
    }

    monkeypatch.chdir(tmp_path)
    certified = place.run(diagnose.main).done()
    assert set(certified["metrics"]) == {"warm", "cold"}
    assert set(certified["paths"]) - {"model", "report"} == {"certificate.warm", "certificate.cold"}
