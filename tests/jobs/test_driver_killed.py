"""Drivers killed with -9 at each stage of the jobs that write: readers see the old or the new, and the next run ends
as if nothing had been."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from jobs import evaluate, night, predict, prepare, promote, score, train, tune
from nimc_spark.io.registry import Registry
from nimc_spark.io.tables import Lake
from nimc_spark.ml import NIMCModel
from tests.cluster.cluster import Job, until
from tests.jobs.conftest import Night
from tests.jobs.tiny import USER_SCHEMA, Workplace

pytestmark = pytest.mark.soak

MAINS: dict[str, Callable[[Sequence[str]], int]] = {
    "prepare": prepare.main,
    "train": train.main,
    "evaluate": evaluate.main,
    "score": score.main,
    "predict": predict.main,
    "promote": promote.main,
    "tune": tune.main,
    "night": night.main,
}
# Not those of the first night, so that old and new rows can be told apart.
SECTIONS: dict[str, dict[str, Any]] = {
    "prepare": {"rating_range": [1, 4], "gates": {"rows_fall": None}},
    "train": {"train": {"save_every": 2}},
    "promote": {"refit": True},
    "tune": {"tune": {"space": {"model.rank": [1]}, "rounds": 1}},
    "score": {"score": {"k": 3}},
    "night": {
        "score": {"k": 3},
        "split": {"by": "user", "fraction": 0.2, "seed": 2},
        "gates": {"rmse_rise": None, "ndcg_fall": None},
    },
}
# A job, the line of its log after which it is killed, and how many seconds after.
POINTS = [
    *[("prepare", "prepare: prepare", seconds) for seconds in (0.0, 2.0, 4.0, 6.0, 8.0)],
    ("train", "train: read", 0.0),
    ("train", "train: train", 1.0),
    ("train", "pass 5", 0.0),
    ("train", "train: save", 0.0),
    ("train", "train: save", 1.0),
    ("evaluate", "evaluate: evaluate", 0.0),
    ("evaluate", "evaluate: write", 0.2),
    ("score", "score: score", 0.5),
    ("score", "score: gates", 0.0),
    ("score", "score: write", 0.0),
    ("score", "score: write", 0.5),
    ("score", "score: write", 1.0),
    ("predict", "predict: predict", 0.5),
    ("predict", "predict: read", 2.0),
    ("promote", "promote: gates", 0.0),
    ("promote", "promote: refit", 2.0),
    ("tune", "tune: search", 1.0),
    ("tune", "tune: write", 0.5),
    ("night", "night: prepare.prepare", 3.0),
    ("night", "night: train.save", 0.5),
    ("night", "night: evaluate.write", 0.5),
    ("night", "night: score.write", 0.5),
    ("night", "night: promote", 0.0),
]
TABLES = ("ratings", "users", "items", "quarantine", "recommendations", "predictions", "metrics", "trials")
# What tells runs apart, and nothing else.
OF_RUNS = {"run_id", "model_version", "seconds", "created", "written"}


@dataclass(frozen=True)
class Seen:
    """All that a reader of the lake can see but runs: rows of tables, and the numbers of the model in use."""

    tables: dict[str, list[str]]
    production: dict[str, bytes]
    candidate: dict[str, bytes]


def seen(spark: SparkSession, place: Workplace) -> Seen:
    lake = Lake(spark, str(place.lake))
    tables = {name: _rows(lake, name) for name in TABLES}
    registry = Registry(lake, "tiny")
    return Seen(tables, _numbers(registry, "production"), _numbers(registry, "candidate"))


def _rows(lake: Lake, name: str) -> list[str]:
    frame = lake.find(name)
    if frame is None:
        return []
    if name == "metrics":
        # A night that starts again trains another candidate; what was measured of the first one stays.
        newest = frame.agg(F.max("model_version")).collect()[0][0]
        frame = frame.where(F.col("model_version") == newest)
    rows = frame.drop(*OF_RUNS).toPandas()
    return sorted(pd.Series(rows.to_dict("records"), dtype=object).map(repr))


def _numbers(registry: Registry, alias: Any) -> dict[str, bytes]:
    """What the files hold of the version with an alias, which loads."""
    found = registry.latest(alias)
    if found is None:
        return {}
    NIMCModel.load(found.path)
    return {path.name: path.read_bytes() for path in sorted(Path(found.path).glob("members/*/*"))}


@pytest.fixture(scope="module")
def undisturbed(night: Night, spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Seen]:
    """What a job leaves that nobody disturbs, on a copy of the night's lake."""
    found: dict[str, Seen] = {}

    def after(job: str) -> Seen:
        if job not in found:
            place = _copied(night, tmp_path_factory.mktemp(job), job)
            place.run(MAINS[job], **_sections(place, job)).done()
            found[job] = seen(spark, place)
        return found[job]

    return after


def _copied(night: Night, folder: Path, job: str) -> Workplace:
    place = night.copied(folder)
    if job == "promote":
        # The night has promoted its own: here is another to be judged.
        place.run(train.main).done()
    return place


def _sections(place: Workplace, job: str) -> dict[str, Any]:
    if job != "predict":
        return SECTIONS.get(job, {})
    new = place.csv("new.csv", "uid,age,gender\nnew1,25,F\nnew1,30,M\nnew2,41,M\n", USER_SCHEMA)
    return {"predict": {"users": new, "k": 4}}


@pytest.mark.parametrize(("job", "line", "seconds"), POINTS)
def test_a_killed_driver_leaves_the_old_or_the_new(
    night: Night,
    spark: SparkSession,
    undisturbed: Callable[[str], Seen],
    tmp_path: Path,
    job: str,
    line: str,
    seconds: float,
) -> None:
    place, new = _copied(night, tmp_path, job), undisturbed(job)
    old = seen(spark, place)
    # The first night's raw files again: what changes is what a job makes of them.
    sections = _sections(place, job)
    started = Job.start(place, job, *place.arguments(sections))
    until(lambda: started.said(line) or started.ended(), repr(line))
    time.sleep(seconds)
    started.send(signal.SIGKILL)
    started.process.wait()
    assert started.said(line), "".join(started.lines)

    left = seen(spark, place)
    for name, rows in left.tables.items():
        assert rows in (old.tables[name], new.tables[name]), name
    assert left.production in (old.production, new.production)
    assert left.candidate in (old.candidate, new.candidate)

    place.run(MAINS[job], **sections).done()
    assert seen(spark, place) == new
