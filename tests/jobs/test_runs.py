"""The runs job: the last nights as a table; and what is said where executors lack something."""

from __future__ import annotations

import os
from datetime import UTC, date, datetime
from pathlib import Path

import pytest
from pyspark.errors import PythonException
from pyspark.sql import Row, SparkSession

from jobs import _preflight, runs, score
from jobs._facts import facts_of
from jobs._open_runs import FOLDER, open_run, open_runs
from nimc_spark.errors import SetupError
from nimc_spark.io.failures import translated
from nimc_spark.io.tables import Lake
from tests.jobs.conftest import Night
from tests.jobs.tiny import RUN_DATE


def test_the_last_runs_as_a_table(
    night: Night, spark: SparkSession, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = night.copied(tmp_path)
    message = place.run(score.main, "--set", "score.model=8").refused(3)
    assert runs.main(place.arguments({})) == 0
    *lines, _ = capsys.readouterr().out.splitlines()
    head, good, failed = lines
    assert head.split()[:3] == ["started", "(UTC)", "run_date"]
    rmse = night.outcome.done()["metrics"]["new_user/known_item"]["model"]["rmse"]
    assert good.split()[2:6] == [RUN_DATE, "night", "done", "0"]
    assert f"  379      {rmse:.4f}  " in good
    assert f"  {night.outcome.line['run_id']}" in good
    assert failed.split()[2:6] == [RUN_DATE, "score", "failed", "3"]
    assert failed.endswith(f"  {message}")
    # Looking at runs is no run.
    assert Lake(spark, str(place.lake)).read("runs").count() == 2
    line = place.run(runs.main, "--set", "runs.last=1").done()
    assert line["counts"] == {"runs": 1, "runs_failed": 1, "runs_not_ended": 0}
    # None of them has left anything.
    assert list((place.lake / FOLDER).iterdir()) == []


def test_a_long_error_is_cut() -> None:
    begun = datetime(2025, 1, 8, 3, 0, 0)
    known = {"started": begun, "run_date": begun.date(), "job": "score", "status": "failed", "exit_code": 4}
    row = Row(**known, seconds=1.0, run_id="a-run", metrics=None, counts=None, stages=None, error="e" * 201 + "\nmore")
    assert runs._cells(row)[-2:] == ("a-run", "e" * 199 + "…")


def test_a_run_that_was_killed_is_seen(night: Night, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = night.copied(tmp_path)
    begun = datetime(2025, 1, 8, 3, 0, 0, tzinfo=UTC)
    killed = open_run(str(place.lake), "a-run", date(2025, 1, 8), "night", begun)
    killed.__enter__()
    for name, content in {"half": "{", "foreign": "[1]", "other": '{"job": "x"}'}.items():
        (place.lake / FOLDER / f"{name}.json").write_text(content)
    assert [run.run_id for run in open_runs(str(place.lake))] == ["a-run"]
    assert runs.main(place.arguments({})) == 0
    *lines, _ = capsys.readouterr().out.splitlines()
    (seen,) = (line for line in lines if "not ended" in line)
    assert seen.startswith("2025-01-08 03:00:00  2025-01-08  night  not ended")
    assert f"runs now, or was killed: process {os.getpid()} on " in seen
    killed.__exit__(None, None, None)
    assert open_runs(str(place.lake)) == []
    # A lake where no file can be made is no reason not to run.
    for lake in ("gs:?//", "nowhere://lake"):
        with open_run(lake, "b-run", date(2025, 1, 8), "night", begun):
            assert open_runs(lake) == []


def test_executors_with_what_the_driver_has_pass(spark: SparkSession) -> None:
    _preflight.check_executors(spark)


def test_executors_that_differ_are_named() -> None:
    own = facts_of(0)
    wrong = {**own, "host": "node7", "numpy": "1.0", "numba": "missing", "python": "3.8.1", "scratch": "No space left"}
    faults = _preflight._faults(wrong)
    assert faults == [
        f"numpy is 1.0 on node7, {own['numpy']} on the driver",
        f"numba is missing on node7, {own['numba']} on the driver",
        f"Python is 3.8.1 on node7, {own['python']} on the driver",
        "the scratch folder on node7 cannot be written: No space left",
    ]
    assert _preflight._faults({**own, "host": "node7"}) == []


@pytest.mark.parametrize(
    ("said", "message"),
    [
        (
            "ModuleNotFoundError: No module named 'nimc_spark'",
            "the executors' Python has no package nimc_spark; see docs/",
        ),
        (
            "pyspark.errors.exceptions.base.PySparkRuntimeError: [PYTHON_VERSION_MISMATCH] Python in worker has "
            "different version: 3.9 than that in driver: 3.11, PySpark cannot run with different minor versions.",
            "the executors' Python is 3.9, not 3.11; see docs/operations.md",
        ),
    ],
)
def test_a_task_without_its_packages_is_an_error_of_the_environment(said: str, message: str) -> None:
    error = PythonException(f'Traceback (most recent call last):\n  File "worker.py", line 1\n{said}\n')
    found = translated(error)
    assert isinstance(found, SetupError)
    assert str(found).startswith(message)
