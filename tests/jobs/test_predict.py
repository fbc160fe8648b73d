"""The predict job: new users and items from raw attributes alone, and pairs."""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from jobs import evaluate, score, train
from jobs.predict import main
from nimc_spark.io.contracts import TABLES
from nimc_spark.io.tables import Lake
from tests.jobs.conftest import Night
from tests.jobs.tiny import ITEM_SCHEMA, ITEMS, UNRATED_ITEM, USER_SCHEMA, Workplace

EVERY_ITEM = {*range(ITEMS), UNRATED_ITEM}


@pytest.fixture
def place(night: Night, tmp_path: Path) -> Workplace:
    return night.copied(tmp_path)


def test_new_users_from_raw_attributes(place: Workplace, spark: SparkSession) -> None:
    new = "uid,age,gender\nnew1,25,F\nnew2,,other\n,30,M\nnew3,abc,F\nnew4,20,M\nnew4,21,M\nnew5,NaN,F\nu01,70,F\n"
    asked = {"users": place.csv("new.csv", new, USER_SCHEMA), "k": 4, "reasons": 2}
    line = place.run(main, predict=asked).done()
    assert line["counts"] == {"users_in": 8, "users_used": 3, "users_quarantined": 5, "predictions": 12}
    reasons = {"null user_id": 1, "unparseable row": 1, "duplicate user_id, rows differ": 2, "non-finite age": 1}
    assert line["quarantine_reasons"] == {"users": reasons}
    assert line["unseen"]["users"] == {
        "age": {"unknown": 0, "null": 1, "rows": 3},
        "gender": {"unknown": 1, "null": 0, "rows": 3},
    }
    lake = Lake(spark, str(place.lake))
    kept = [row for row in lake.read("quarantine").collect() if row["table"] == "predict.users"]
    assert Counter(row["reason"] for row in kept) == reasons
    predictions = lake.read("predictions")
    TABLES["predictions"].check(predictions.schema)
    rows = predictions.collect()
    assert Counter(row["user_id"] for row in rows) == {"new1": 4, "new2": 4, "u01": 4}
    assert {row["rank"] for row in rows} == {1, 2, 3, 4}
    assert {row["item_id"] for row in rows} <= EVERY_ITEM
    assert all(math.isfinite(row["score"]) and row["score_source"] == "model" for row in rows)
    # The unknown category has a slot of its own, whose weights are not those of any known one.
    best = {user: [row["score"] for row in rows if row["user_id"] == user] for user in ("new1", "new2")}
    assert best["new1"] != best["new2"]
    assert [sample["user_id"] for sample in line["samples"]] == ["new1", "new2", "u01"]
    given = {
        feature for row in rows if row["user_id"] == "new1" for side, feature, _ in row["reasons"] if side == "users"
    }
    assert given <= {"age", "gender=F"}
    assert max(len(row["reasons"]) for row in rows) == 2
    assert all(reason["contribution"] > 0 for row in rows for reason in row["reasons"])
    assert any("reasons" in entry for sample in line["samples"] for entry in sample["items"])


@pytest.mark.soak
def test_new_items_for_all_users(place: Workplace, spark: SparkSession) -> None:
    new = [{"iid": iid, "genres": "Drama|Opera", "mood": [1, 0.5], "name": f"New {iid}"} for iid in (1001, 1002)]
    path = place.text("new.json", "".join(json.dumps(row) + "\n" for row in new))
    line = place.run(main, predict={"items": {"path": path, "format": "json", "schema": ITEM_SCHEMA}}).done()
    assert line["counts"] == {"items_in": 2, "items_used": 2, "items_quarantined": 0, "predictions": 2 * 32}
    assert line["unseen"]["items"]["genres"] == {"unknown": 2, "null": 0, "rows": 2}
    rows = Lake(spark, str(place.lake)).read("predictions").collect()
    assert {row["item_id"] for row in rows} == {1001, 1002}


def test_every_pair_gets_a_score(place: Workplace, spark: SparkSession) -> None:
    pairs = "uid,iid\nu01,1\nu01,99\nquiet,2\nnobody,1\nu01,12345\nnobody,12345\nu01,1\n,1\nu01,\nu01,x\n"
    line = place.run(main, predict={"pairs": place.csv("pairs.csv", pairs, "uid STRING, iid LONG")}).done()
    assert line["counts"] == {"pairs_in": 10, "pairs_used": 7, "pairs_quarantined": 3, "predictions": 7}
    assert line["quarantine_reasons"]["pairs"] == {"null user_id": 1, "null item_id": 1, "unparseable row": 1}
    assert "samples" not in line
    rows = Lake(spark, str(place.lake)).read("predictions").collect()
    sources = Counter((row["user_id"], row["item_id"], row["score_source"]) for row in rows)
    assert sources == {
        ("u01", 1, "model"): 2,
        ("u01", 99, "model"): 1,
        ("quiet", 2, "model"): 1,
        ("nobody", 1, "baseline"): 1,
        ("u01", 12345, "baseline"): 1,
        ("nobody", 12345, "baseline"): 1,
    }
    assert all(math.isfinite(row["score"]) and row["model_version"] == 1 for row in rows)


@pytest.mark.soak
def test_lists_go_into_the_same_table_as_pairs(place: Workplace, spark: SparkSession) -> None:
    pairs = place.csv("pairs.csv", "uid,iid\nu01,1\n", "uid STRING, iid LONG")
    assert place.run(main, predict={"pairs": pairs}).done()["counts"]["predictions"] == 1
    new = place.csv("new.csv", "uid,age,gender\nnew1,25,F\n", USER_SCHEMA)
    place.run(main, predict={"users": new, "k": 2}).done()
    assert [row["rank"] for row in Lake(spark, str(place.lake)).read("predictions").orderBy("rank").collect()] == [1, 2]


@pytest.mark.soak
def test_who_rates_after_the_training_is_personal_without_another(place: Workplace, spark: SparkSession) -> None:
    """A model with histories: the request's ratings count, wrong ones are in quarantine, and score sees the lake's."""
    features = place.config["features"]
    place.config["features"] = features | {"users": [*features["users"], {"kind": "history", "weights": "residuals"}]}
    place.run(train.main).done()
    place.run(evaluate.main).done()
    place.run(score.main, score={"k": 3, "model": "candidate"}).done()
    new = place.csv("new.csv", "uid,age,gender\nnew1,25,F\nnew2,25,F\n", USER_SCHEMA)
    given = "".join(f"new1,{item},{1 + 4 * (item % 2)},9\n" for item in range(10))
    rated = place.csv(
        "rated.csv", f"uid,iid,stars,at\n{given}new2,3,7,9\n", "uid STRING, iid LONG, stars DOUBLE, at LONG"
    )
    wanted = {"score": {"model": "candidate"}, "predict": {"users": new, "ratings": rated, "k": 4}}
    line = place.run(main, **wanted).done()
    assert line["counts"]["ratings_used"] == 10
    assert line["quarantine_reasons"]["ratings"] == {"rating outside [1, 5]": 1}
    rows = Lake(spark, str(place.lake)).read("predictions").collect()
    scores = {user: [row["score"] for row in rows if row["user_id"] == user] for user in ("new1", "new2")}
    # The same attributes, other ratings.
    assert scores["new1"] != scores["new2"]
    alone = place.run(main, score={"model": "candidate"}, predict={"ratings": rated}).refused(2)
    assert "nothing is asked" in alone
