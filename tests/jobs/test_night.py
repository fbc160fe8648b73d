"""A night through the real spark-submit, read back table by table; then the nights after it."""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from pyspark.sql import DataFrame, SparkSession

from jobs import evaluate, prepare, score, train
from jobs._config import load_config
from jobs._tables import split_ratings
from nimc_spark import __version__
from nimc_spark.engine.baselines import Shrinkage
from nimc_spark.io.contracts import TABLES
from nimc_spark.io.registry import Registry
from nimc_spark.io.snapshots import current_snapshot
from nimc_spark.io.tables import Lake
from nimc_spark.ml import NIMCModel
from tests.jobs.conftest import Night
from tests.jobs.tiny import COUNTS, ITEMS, REASONS, RUN_DATE, UNRATED_ITEM, USERS, K, ratings

WRITTEN = ("ratings", "users", "items", "quarantine", "snapshots", "models", "metrics", "recommendations", "runs")
EVERYONE = {f"u{user:02d}" for user in range(USERS)} | {"fan", "quiet"}
LISTS = ["run_date", "user_id", "rank", "item_id", "score", "score_source", "model_version"]


@pytest.fixture
def lake(spark: SparkSession, night: Night) -> Lake:
    return Lake(spark, str(night.place.lake))


def rows(frame: DataFrame, *columns: str) -> list[tuple[Any, ...]]:
    return sorted(tuple(row) for row in frame.select(*(columns or frame.columns)).collect())


def test_the_result_line(night: Night) -> None:
    line = night.outcome.done()
    assert set(line) >= {"job", "status", "run_id", "seconds", "counts", "metrics", "paths"}
    assert line["job"] == "night"
    assert {name: line["counts"][name] for name in COUNTS} == COUNTS
    assert line["quarantine_reasons"] == REASONS
    assert line["counts"]["ratings_training"] + line["counts"]["ratings_held_out"] == COUNTS["ratings_used"]
    folders = {"ratings", "users", "items", "quarantine", "model", "metrics", "recommendations"}
    assert set(line["paths"]) == {*folders, "report"}
    assert all(Path(line["paths"][name]).is_dir() for name in folders)
    assert all(entry["title"] == f"Item {entry['item_id']}" for s in line["samples"] for entry in s["items"])
    assert set(line["stages"]) >= {"prepare", "train", "evaluate", "score"}
    assert "Traceback" not in night.outcome.log


def test_the_report_of_a_run_has_what_its_line_has(night: Night) -> None:
    line = night.outcome.done()
    report = Path(line["paths"]["report"])
    assert report.parts[-3:] == (RUN_DATE, f"night-{line['run_id']}", "report.html")
    html = report.read_text(encoding="utf-8")
    sections = ("What came in", "Training", "On held-out ratings", "Calibration", "Gates", "Some lists", "Times")
    assert all(f"<h2>{section}</h2>" in html for section in sections)
    assert all(reason in html for by in REASONS.values() for reason in by)
    # The curves of training and calibration.
    assert html.count("data:image/png;base64,") == 2


def test_metrics_have_the_shape_of_the_contract(night: Night) -> None:
    line = night.outcome.done()
    (cell,) = line["metrics"]
    assert cell == "new_user/known_item"
    found = line["metrics"][cell]
    assert found["n"] == line["counts"]["ratings_held_out"]
    errors, lists = {"rmse", "rmse_se", "mae"}, {f"ndcg@{K}", f"recall@{K}", f"map@{K}", "coverage", "novelty", "users"}
    assert {name: set(of) for name, of in found.items() if name != "n"} == {
        "model": errors | lists,
        "popularity": lists,
        "liked": lists,
        **dict.fromkeys(("item_mean", "user_mean", "global_mean"), errors),
    }
    assert all(math.isfinite(value) for of in found.values() if isinstance(of, dict) for value in of.values())


def test_every_table_keeps_its_contract_and_the_books_balance(night: Night, lake: Lake) -> None:
    for name in WRITTEN:
        TABLES[name].check(lake.read(name).schema)
    assert {f"{name}_used": lake.read(name).count() for name in ("ratings", "users", "items")} == {
        name: count for name, count in COUNTS.items() if name.endswith("_used")
    }
    kept = lake.read("quarantine").collect()
    assert Counter((row["table"], row["reason"]) for row in kept) == {
        (table, reason): count for table, by_reason in REASONS.items() for reason, count in by_reason.items()
    }
    assert {row["run_id"] for row in kept} == {night.outcome.line["run_id"]}
    assert {"unparsed": "u03,three,3,1"} in [json.loads(row["row"]) for row in kept]
    metrics = lake.read("metrics").collect()
    line = night.outcome.line["metrics"]["new_user/known_item"]
    assert {(row["predictor"], row["metric"]): row["value"] for row in metrics} == {
        (predictor, metric): value
        for predictor, of in line.items()
        if predictor != "n"
        for metric, value in of.items()
        if metric != "users"
    }
    assert {(row["metric"], row["n"]) for row in metrics if row["predictor"] == "model"} >= {
        ("rmse", line["n"]),
        (f"ndcg@{K}", line["model"]["users"]),
    }


def test_the_run_is_recorded(night: Night, lake: Lake) -> None:
    line = night.outcome.line
    (run,) = lake.read("runs").collect()
    assert (run["run_id"], run["job"], run["status"], run["exit_code"]) == (line["run_id"], "night", "done", 0)
    assert (str(run["run_date"]), run["code_version"], run["error"]) == (RUN_DATE, __version__, None)
    assert run["counts"] == line["counts"]
    assert json.loads(run["metrics"]) == line["metrics"]
    assert run["table_versions"] == dict.fromkeys(("ratings", "users", "items", "quarantine", "metrics"), 0) | {
        "recommendations": 0
    }
    entry, promoted = Registry(lake, "tiny").entries()
    assert (entry.version, entry.alias, entry.path) == (1, "candidate", line["paths"]["model"])
    assert (promoted.version, promoted.alias, promoted.path) == (1, "production", entry.path)
    assert promoted.lineage == entry.lineage
    assert current_snapshot(lake) == entry.lineage["table_versions"]
    assert entry.lineage["table_versions"] == {"ratings": 0, "users": 0, "items": 0}
    assert entry.lineage["config_hash"] == run["config_hash"]


def test_everybody_gets_a_full_list_without_seen_items(night: Night, lake: Lake) -> None:
    lists = lake.read("recommendations").toPandas()
    seen = lake.read("ratings").toPandas().groupby("user_id")["item_id"].agg(set)
    everything = {*range(ITEMS), UNRATED_ITEM}
    assert set(lists["user_id"]) == EVERYONE
    for user, own in lists.groupby("user_id"):
        unseen = everything - seen.get(user, set())
        assert set(own["item_id"]) <= unseen
        assert own["item_id"].is_unique
        assert sorted(own["rank"]) == list(range(1, min(K, len(unseen)) + 1))
        assert own.sort_values("rank")["score"].is_monotonic_decreasing
    assert np.isfinite(lists["score"]).all()
    # Nothing is known of u05 but ratings; whether these are training ratings decides where its scores come from.
    assert dict(lists.groupby("score_source").size().drop("model")) in ({}, {"baseline": K})
    assert set(lists.loc[lists["user_id"] != "u05", "score_source"]) == {"model"}
    counts = night.outcome.line["counts"]
    assert (counts["users_with_short_lists"], counts["recommendations_missing"]) == (1, K - 2)
    assert counts["recommendations"] == len(lists) == K * len(EVERYONE) - (K - 2)


def test_metrics_are_those_that_pandas_finds(night: Night, lake: Lake, spark: SparkSession) -> None:
    place, line = night.place, night.outcome.line["metrics"]["new_user/known_item"]
    config = load_config(str(place.folder / "config.yaml"))
    training, held_out = (part.toPandas() for part in split_ratings(config, lake.read("ratings")))
    assert not set(training["user_id"]) & set(held_out["user_id"])
    model = NIMCModel.load(night.outcome.line["paths"]["model"])
    model.setUsers(lake.read("users")).setItems(lake.read("items"))
    scored = model.transform(spark.createDataFrame(held_out)).toPandas()
    assert scored.sort_values(["user_id", "item_id"])["rating"].tolist() == (
        held_out.sort_values(["user_id", "item_id"])["rating"].tolist()
    )
    mean = training["rating"].mean()
    by_item = (training["rating"] - mean).groupby(training["item_id"])
    bias = by_item.sum() / (by_item.size() + Shrinkage().item)
    predictions = {
        "model": scored["score"],
        "global_mean": pd.Series(mean, scored.index),
        "item_mean": mean + scored["item_id"].map(bias).fillna(0.0),
    }
    for name, predicted in predictions.items():
        errors = predicted - scored["rating"]
        assert line[name]["rmse"] == pytest.approx(math.sqrt((errors**2).mean()), rel=1e-12)
        assert line[name]["mae"] == pytest.approx(errors.abs().mean(), rel=1e-12)


@pytest.mark.soak
def test_the_nights_after(night: Night, spark: SparkSession, tmp_path: Path) -> None:
    place = night.copied(tmp_path)
    lake = Lake(spark, str(place.lake))
    before = {name: rows(lake.read(name)) for name in ("ratings", "users")}
    first_lists = rows(lake.read("recommendations"), *LISTS)

    assert place.run(prepare.main).done()["counts"] == COUNTS
    assert {name: rows(lake.read(name)) for name in before} == before
    assert lake.version("ratings") == 1
    again = place.run(train.main).done()
    assert again["model_version"] == 2
    assert Path(again["paths"]["model"]).parent == place.lake / "model_files" / "tiny"
    entry = Registry(lake, "tiny").resolve("candidate")
    assert entry.lineage["table_versions"] == {"ratings": 1, "users": 1, "items": 1}

    # Trained once more on the same rows with the same seed it is the same model, and its lists are the same.
    # It is not in production yet.
    assert place.run(score.main).done()["model_version"] == 1
    assert place.run(score.main, "--set", "score.model=candidate").done()["model_version"] == 2
    assert rows(lake.read("recommendations"), *LISTS) == [(*row[:-1], 2) for row in first_lists]
    line = place.run(score.main, "--set", "score.model=1").done()
    assert line["model_version"] == 1
    assert rows(lake.read("recommendations"), *LISTS) == first_lists
    assert {row["run_id"] for row in lake.read("recommendations").select("run_id").collect()} == {line["run_id"]}

    few = "".join(ratings().splitlines(keepends=True)[:200])
    place.config["sources"]["ratings"]["path"] = place.text("few.csv", few)
    assert place.run(prepare.main, "--set=gates.rows_fall=null").done()["counts"]["ratings_in"] == 199
    # The tables have changed since: a model is measured on those it was trained with.
    measured = place.run(evaluate.main, "--set", "evaluate.relevant=null").done()
    assert measured["model_version"] == 2
    errors = {name: (of["rmse"], of["mae"]) for name, of in errors_of(measured).items()}
    assert errors == {name: (of["rmse"], of["mae"]) for name, of in errors_of(night.outcome.line).items()}
    runs = lake.read("runs").orderBy("started").collect()
    assert [run["job"] for run in runs] == [
        "night",
        "prepare",
        "train",
        "score",
        "score",
        "score",
        "prepare",
        "evaluate",
    ]
    assert {(run["status"], run["exit_code"]) for run in runs} == {("done", 0)}


def errors_of(line: dict[str, Any]) -> dict[str, Any]:
    cell = line["metrics"]["new_user/known_item"]
    return {name: cell[name] for name in ("model", "global_mean", "item_mean", "user_mean")}


def test_what_was_measured_before_publishing_is_in_the_line(night: Night) -> None:
    gates = {gate["gate"]: gate for gate in night.outcome.done()["gates"]}
    assert set(gates) == {
        *("rmse_rise", "ndcg_fall", "faulty_lists", "non_finite_scores", "users_without_list", "baseline_rows"),
        *("sameness", "unknown_values of users.age"),
    }
    assert all(gate["holds"] for gate in gates.values())
    assert (gates["faulty_lists"]["value"], gates["users_without_list"]["value"]) == (0, 0)
    # There was no model to compare with.
    assert gates["rmse_rise"]["value"] is None
