"""What jobs refuse: each with its exit code, a message that says what to do, no traceback, and nothing half-written."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import SparkSession

from jobs import evaluate, night, predict, prepare, score, train
from jobs._job import Context, Result, run_job
from nimc_spark.io.tables import Lake
from tests.jobs.conftest import Night
from tests.jobs.tiny import ITEM_SCHEMA, USER_SCHEMA, Workplace, tiny

Main = Callable[[Sequence[str]], int]


@pytest.fixture(scope="module")
def kept(night: Night, tmp_path_factory: pytest.TempPathFactory, spark: SparkSession) -> Workplace:
    """A lake after a good night; a job that refuses leaves it as it is."""
    return night.copied(tmp_path_factory.mktemp("kept"))


def refused(place: Workplace, code: int, main: Main, *arguments: str, **sections: Any) -> str:
    before = place.commits()
    message = place.run(main, *arguments, **sections).refused(code)
    assert place.commits() == before
    return message


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("model.rnak=3", 'model.rnak: unknown key; did you mean "rank"?'),
        ("split.by=users", "split.by = 'users': "),
        ("model.rank=0", "model.rank = 0: should be greater than or equal to 1; allowed: an integer from 1 to 1000"),
        ("model.rank=ten", "model.rank = 'ten': "),
        ("model.reg=-1", "model.reg = -1: "),
        ("model.activation=softmax", "softmax"),
        ("split.fraction=1", "split.fraction = 1: "),
        ("rating_range=[5, 1]", "the lowest must be below the highest"),
        ("score.model=newest", "score.model = 'newest': "),
        ("features.users=[{kind: onehot, column: x}]", "onehot"),
        ("sources.ratings.format=xls", "sources.ratings.format = 'xls': "),
        ("name=../../etc", "name = '../../etc': "),
    ],
)
def test_a_wrong_config_value_is_named(tmp_path: Path, change: str, message: str) -> None:
    place = tiny(tmp_path)
    assert message in refused(place, 2, night.main, "--set", change)
    assert not place.lake.exists()


def test_wrong_arguments(tmp_path: Path) -> None:
    place = tiny(tmp_path)
    assert "'tomorrow' is not a date such as 2025-01-31" in refused(place, 2, score.main, "--run-date", "tomorrow")
    assert "none.yaml" in refused(place, 2, score.main, "--config", str(tmp_path / "none.yaml"))
    broken = place.text("broken.yaml", "lake: [\n")
    assert "broken.yaml" in refused(place, 2, score.main, "--config", broken)
    assert "predict: nothing is asked: set predict.users" in refused(place, 2, predict.main)


@pytest.mark.parametrize(
    ("main", "message"),
    [
        (train.main, "table ratings: there is none at {lake}/ratings; run the job that writes it first"),
        (evaluate.main, "model tiny candidate: not in {lake}/models; there: none; run train first"),
        (score.main, "model tiny: not in {lake}/models; there: none; run train first"),
    ],
)
def test_jobs_out_of_order(tmp_path: Path, spark: SparkSession, main: Main, message: str) -> None:
    place = tiny(tmp_path)
    assert refused(place, 3, main) == message.format(lake=place.lake)


def test_a_version_that_is_not_there(kept: Workplace) -> None:
    assert "model tiny 7: not in" in refused(kept, 3, score.main, "--set", "score.model=7")
    assert "there: 1 (candidate), 1 (production)" in refused(kept, 3, score.main, "--set", "score.model=8")


def test_another_split_than_the_models(kept: Workplace) -> None:
    message = refused(kept, 2, evaluate.main, "--set", "split.seed=2")
    assert "the model was trained with {'by': 'user', 'fraction': 0.2, 'seed': 1}" in message


def test_a_split_without_held_out_rows(kept: Workplace) -> None:
    message = refused(kept, 3, train.main, "--set", "split.fraction=0.000001")
    assert "leaves no held-out rows of 379: choose another fraction or seed" in message


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "manifest.json").unlink(), "is no saved model: it has no manifest.json"),
        (lambda folder: (folder / "manifest.json").write_text("{"), "is not JSON"),
        (lambda folder: next(folder.glob("members/*/parameters.npz")).unlink(), "parameters.npz"),
        (lambda folder: next(folder.glob("members/*/users.parquet")).write_bytes(b"?"), "is damaged: its checksum"),
    ],
)
def test_a_model_path_that_is_no_model(
    night: Night, spark: SparkSession, tmp_path: Path, damage: Callable[[Path], None], message: str
) -> None:
    place = night.copied(tmp_path)
    (folder,) = (place.lake / "model_files" / "tiny").iterdir()
    damage(folder)
    error = refused(place, 3, score.main)
    assert str(folder) in error
    assert message in error


def test_training_that_collapses(kept: Workplace) -> None:
    message = refused(kept, 5, train.main, "--set", "model.reg=1e5")
    assert message.startswith("training collapsed: the factors tell no pair from another")
    assert "lower model.reg" in message


def test_training_that_diverges(kept: Workplace) -> None:
    message = refused(kept, 5, train.main, "--set", "model.solver=gd", "--set", "model.step_size=30")
    assert message.startswith("training diverged: the loss grew instead of falling: the step is too large; lower step")


def test_attributes_of_another_width_than_the_models(kept: Workplace) -> None:
    path = kept.text("wide.json", json.dumps({"iid": 500, "genres": "War", "mood": [1, 2, 3]}) + "\n")
    source = {"path": path, "format": "json", "schema": ITEM_SCHEMA}
    message = refused(kept, 3, predict.main, predict={"items": source})
    assert "mood" in message
    assert "2" in message


@pytest.mark.parametrize(
    ("content", "schema", "message"),
    [
        ("uid,age\nn,30\n", "uid STRING, age DOUBLE", "missing column gender; present: uid, age"),
        ("uid,age,gender\n", USER_SCHEMA, "is empty: it has no row"),
        (",,\n,1,F\n,2,M\n", USER_SCHEMA, "column 1, 2, 3 has no name in the header"),
        ("uid,age,gender\n,1,F\n,2,M\n", USER_SCHEMA, "none of 2 rows can be used: null user_id: 2"),
        ("uid,age,gender\nn,1,F\n", "uid STRING, age STRING, gender STRING", "column 'age' is string"),
    ],
)
def test_new_users_that_cannot_be_used(
    night: Night, tmp_path: Path, spark: SparkSession, content: str, schema: str, message: str
) -> None:
    place = night.copied(tmp_path)
    before = place.commits()
    error = place.run(predict.main, predict={"users": place.csv("new.csv", content, schema)}).refused(3)
    assert error.startswith(f"predict.users ({place.folder}/new.csv): ")
    assert message in error
    written = {name.split("/")[0] for name in place.commits() - before}
    # What was read and rejected can be looked at.
    assert written == ({"quarantine"} if "can be used" in message else set())


def test_an_attribute_of_another_type_than_the_lakes(kept: Workplace) -> None:
    users = kept.csv("typed.csv", "uid,age,gender\nn1,3,4\n", "uid STRING, age DOUBLE, gender INT")
    pairs = kept.csv("asked.csv", "uid,iid\nu01,1\nn1,2\n", "uid STRING, iid LONG")
    message = refused(kept, 3, predict.main, predict={"users": users, "pairs": pairs})
    assert message.startswith("predict: gender is int, but string in the lake")
    # A whole number is an age all the same.
    users = kept.csv("typed.csv", "uid,age,gender\nn1,3,F\n", "uid STRING, age INT, gender STRING")
    assert kept.run(predict.main, predict={"users": users, "pairs": pairs}).done()["counts"]["predictions"] == 2


@pytest.mark.soak
def test_earlier_lists_of_other_types(night: Night, spark: SparkSession, tmp_path: Path) -> None:
    place = night.copied(tmp_path)
    lake = Lake(spark, str(place.lake))
    other = lake.read("recommendations").selectExpr("* EXCEPT (item_id)", "concat('i', item_id) AS item_id")
    other.write.format("delta").mode("overwrite").option("overwriteSchema", "true").save(lake.path("recommendations"))
    message = refused(place, 3, score.main, "--run-date", "2025-01-07")
    assert message.startswith("table recommendations: item_id is string, now bigint: one table has one type")


def test_pairs_that_cannot_be_read(kept: Workplace) -> None:
    gone = {"path": str(kept.folder / "gone.csv"), "schema": "uid STRING, iid LONG"}
    assert "no such path" in refused(kept, 3, predict.main, predict={"pairs": gone})
    other = kept.csv("other.csv", "uid,item\nu01,1\n", "uid STRING, item LONG")
    assert "missing column iid; present: uid, item" in refused(kept, 3, predict.main, predict={"pairs": other})


def test_a_lake_that_cannot_be_written(tmp_path: Path) -> None:
    place = tiny(tmp_path)
    place.text("file", "")
    place.config["lake"] = str(tmp_path / "file" / "lake")
    assert "cannot be written" in refused(place, 6, train.main)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("DELTA_VERSION", "4.9.9", "Delta 4.4.0 does not fit Spark 4.2.0: Delta 4.9.9 is needed"),
        ("SPARK_LINE", "4.3", "this is Spark 4.2.0 with Delta 4.4.0, but Spark 4.3.x"),
    ],
)
def test_versions_that_do_not_match(
    kept: Workplace, monkeypatch: pytest.MonkeyPatch, name: str, value: str, message: str
) -> None:
    monkeypatch.setattr(f"jobs._settings.{name}", value)
    assert message in refused(kept, 6, score.main)


def test_a_failed_run_is_recorded(kept: Workplace, spark: SparkSession) -> None:
    outcome = kept.run(score.main, "--set", "score.model=8")
    (run,) = Lake(spark, str(kept.lake)).read("runs").where(f"run_id = '{outcome.line['run_id']}'").collect()
    assert (run["job"], run["status"], run["exit_code"]) == ("score", "failed", 3)
    assert run["error"] == outcome.refused(3)


def test_names_are_data_not_sql(kept: Workplace) -> None:
    name = "x`); DROP TABLE ratings --"
    assert "missing column" in refused(kept, 3, prepare.main, columns=kept.config["columns"] | {"rating": name})


def test_an_error_of_our_own_making_keeps_its_traceback(tmp_path: Path) -> None:
    def body(context: Context) -> Result:
        raise ZeroDivisionError("no such luck")

    outcome = tiny(tmp_path).run(lambda argv: run_job("prepare", argv, body, ""))
    assert (outcome.code, outcome.line["status"]) == (1, "failed")
    assert outcome.line["error"] == "ZeroDivisionError: no such luck"
    assert "Traceback" in outcome.log


def test_an_interrupted_job(tmp_path: Path) -> None:
    def body(context: Context) -> Result:
        raise KeyboardInterrupt

    outcome = tiny(tmp_path).run(lambda argv: run_job("prepare", argv, body, ""))
    assert (outcome.code, outcome.line["error"]) == (130, "interrupted")
    assert "Traceback" not in outcome.log


def test_a_terminated_job(tmp_path: Path) -> None:
    def body(context: Context) -> Result:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60)
        raise AssertionError("it went on")

    outcome = tiny(tmp_path).run(lambda argv: run_job("prepare", argv, body, ""))
    assert (outcome.code, outcome.line["error"]) == (143, "terminated")
    assert "Traceback" not in outcome.log
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
