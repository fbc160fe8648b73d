"""Real processes: one spark-submit an exit code (0 is the night's; 3 and 5 in the soak), and what needs no Spark."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from jobs import _several, _submit
from jobs._settings import ROOT
from jobs._submit import job_names
from nimc_spark.errors import UsageError
from tests.jobs.conftest import Night
from tests.jobs.tiny import tiny


def test_exit_2_for_a_wrong_config(tmp_path: Path) -> None:
    place = tiny(tmp_path)
    message = place.submit("night", "--set", "model.rnak=3").refused(2)
    assert message.startswith('--set model.rnak=3: model.rnak: unknown key; did you mean "rank"? allowed: rank, ')
    assert not place.lake.exists()


@pytest.mark.soak
def test_exit_3_for_a_missing_file(tmp_path: Path) -> None:
    place = tiny(tmp_path)
    place.config["sources"]["ratings"]["path"] = str(tmp_path / "none.csv")
    outcome = place.submit("night")
    assert outcome.refused(3) == f"ratings ({tmp_path}/none.csv): no such path: file:{tmp_path}/none.csv"
    # One line for a file that is not there: neither a traceback of Python nor a stack of Java.
    assert "\tat " not in outcome.log
    assert place.commits() == set()


@pytest.mark.soak
def test_exit_5_for_a_collapsed_training(night: Night, tmp_path: Path) -> None:
    place = night.copied(tmp_path)
    before = place.commits()
    message = place.submit("train", "--set", "model.reg=1e5").refused(5)
    assert message.startswith("training collapsed: ")
    assert place.commits() == before


@pytest.mark.parametrize(("java_home", "where"), [(None, "PATH"), ("/nowhere", "JAVA_HOME=/nowhere")])
def test_exit_6_without_java(tmp_path: Path, java_home: str | None, where: str) -> None:
    tools = tmp_path / "bin"
    tools.mkdir()
    for name in ("bash", "dirname"):
        found = next(path for path in (Path(f, name) for f in os.get_exec_path()) if path.exists())
        (tools / name).symlink_to(found)
    environment = {key: value for key, value in os.environ.items() if key != "JAVA_HOME"} | {"PATH": str(tools)}
    environment |= {} if java_home is None else {"JAVA_HOME": java_home}
    answer = subprocess.run(
        [ROOT / "spark-submit.sh", "night", *tiny(tmp_path).arguments({})],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert answer.returncode == 6
    assert answer.stderr.startswith(f"error: no java found in {where}: install a full Java 17 or newer")
    assert len(answer.stderr.splitlines()) == 1


@pytest.mark.parametrize("job", job_names())
def test_help_has_an_example(job: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert import_module(f"jobs.{job}").main(["--help"]) == 0
    asked = "recovery" if job == "reproduce" else "--config conf/ml-100k.yaml"
    assert f"example: ./spark-submit.sh {job} {asked}" in capsys.readouterr().out


def test_several_jobs_share_an_application(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [*tiny(tmp_path).arguments({}), "--dry-run"]
    line = _submit.command(["night+predict", *arguments])
    assert line[-len(arguments) - 2 :] == [str(ROOT / "jobs" / "_several.py"), "night+predict", *arguments]
    with pytest.raises(UsageError, match="unknown job 'nigth'"):
        _submit.command(["predict+nigth", *arguments])
    assert _several.main(["night+predict", *arguments]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(line["job"], line["status"]) for line in lines] == [("night", "dry run"), ("predict", "dry run")]
    # The first that fails is the last one.
    assert _several.main(["night+predict", *arguments, "--set", "model.rank=0"]) == 2
    assert [json.loads(line)["job"] for line in capsys.readouterr().out.splitlines()] == ["night"]


def test_a_dry_run_starts_no_spark(tmp_path: Path) -> None:
    place = tiny(tmp_path)
    # By plain python, where a Spark session could not start.
    answer = subprocess.run(
        [sys.executable, "-m", "jobs.night", *place.arguments({}), "--dry-run", "--set", "model.rank=3"],
        cwd=ROOT,
        env=os.environ | {"JAVA_HOME": "/nowhere"},
        capture_output=True,
        text=True,
        check=False,
    )
    line = json.loads(answer.stdout)
    assert (answer.returncode, line["status"], line["config"]["model"]["rank"]) == (0, "dry run", 3)
    assert line["paths"]["ratings"] == f"{tmp_path}/ratings.csv"
    assert not place.lake.exists()
