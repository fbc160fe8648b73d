"""The tune job: a table of trials, a config that holds what was found, and its model as candidate."""

from __future__ import annotations

from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from jobs._config import load_config
from jobs.tune import main
from nimc_spark.io.contracts import TABLES
from nimc_spark.io.tables import Lake
from tests.jobs.conftest import Night


@pytest.mark.soak
def test_the_best_setting_is_written_and_trained(night: Night, spark: SparkSession, tmp_path: Path) -> None:
    place = night.copied(tmp_path)
    model = place.config["model"] | {"objective": "ranking", "positive_from": 4}
    space = {"model.rank": [1], "model.reg.users.attributes.factors": {"times": [4]}}
    line = place.run(main, model=model, tune={"space": space, "rounds": 1}).done()
    trials = Lake(spark, str(place.lake)).read("trials")
    TABLES["trials"].check(trials.schema)
    rows = trials.orderBy("number").collect()
    assert [row["coordinate"] for row in rows] == ["start", *space]
    assert line["metrics"]["validation_error"] == min(row["error"] for row in rows)
    assert 0 <= line["metrics"]["validation_error"] <= 1
    best = load_config(line["paths"]["config"])
    assert best.model.rank == line["best"].get("model.rank", 2)
    assert best.model.objective == "ranking"
    assert line["model_version"] == 2
    assert "validation ratings: below 1000" in line["warnings"][0]


@pytest.mark.soak
def test_each_member_has_a_search_of_its_own(night: Night, spark: SparkSession, tmp_path: Path) -> None:
    place = night.copied(tmp_path)
    members = {"warm": {}, "cold": {"features": {"items": [{"kind": "id"}]}}}
    router = dict.fromkeys(("known_user/known_item", "known_user/new_item"), "warm")
    router |= dict.fromkeys(("new_user/known_item", "new_user/new_item"), "cold")
    space = {"model.rank": [1]}
    line = place.run(main, members=members, router=router, tune={"space": space, "rounds": 1}).done()
    trials = Lake(spark, str(place.lake)).read("trials").orderBy("number").collect()
    assert [row["coordinate"] for row in trials] == [
        *("start", "members.cold.model.rank", "start", "members.warm.model.rank")
    ]
    assert set(line["metrics"]) == {"warm", "cold"}
    assert line["metrics"]["cold"]["validation_error"] == min(row["error"] for row in trials[:2])
    best = load_config(line["paths"]["config"])
    for name, own in best.by_member().items():
        assert own.model.rank == line["best"].get(f"members.{name}.model.rank", 2)
