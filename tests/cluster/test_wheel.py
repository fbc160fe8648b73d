"""The wheel, installed in an empty environment, trains and scores on a cluster from a folder without the sources."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from jobs._settings import JARS, ROOT
from tests.cluster.cluster import Cluster, Job, running
from tests.jobs.tiny import tiny

pytestmark = pytest.mark.soak


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with running(tmp_path_factory.mktemp("cluster")) as started:
        yield started


def run(*line: str | Path) -> None:
    answer = subprocess.run(line, capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stdout + answer.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy: what an earlier build left in the tree would go into it."""
    source = tmp_path_factory.mktemp("source")
    for name in ("nimc_spark", "jobs"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__", "*.nb?"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    folder = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", folder, source)
    (found,) = folder.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def command(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`nimc` of an environment that has nothing else."""
    folder = tmp_path_factory.mktemp("environment")
    run(sys.executable, "-m", "venv", folder)
    python = folder / "bin" / "python"
    run(python, "-m", "pip", "install", "--quiet", "--constraint", ROOT / "requirements.lock", wheel)
    return folder / "bin" / "nimc"


def test_it_holds_all_that_a_job_needs_and_no_more(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {"jobs/night.py", "jobs/_conf/defaults.conf", "jobs/_conf/log4j2.properties"} <= set(names)
    assert "nimc_spark/reports/templates/page.html.j2" in names
    assert {name.split("/")[0] for name in names if ".dist-info" not in name} == {"nimc_spark", "jobs"}


def test_it_trains_and_scores_on_a_cluster(
    cluster: Cluster, command: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PYTHONPATH", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name in [name for name in os.environ if name.startswith(("PYSPARK", "SPARK"))]:
        monkeypatch.delenv(name)
    place = tiny(tmp_path)
    jars = ",".join(str(path) for path in JARS.glob("*.jar"))
    options = [
        *cluster.options,
        "--jars",
        jars,
        "--conf",
        "spark.sql.extensions=io.delta.sql.DeltaSparkSessionExtension",
    ]
    options += ["--conf", "spark.sql.catalog.spark_catalog=org.apache.spark.sql.delta.catalog.DeltaCatalog"]
    arguments = [*place.arguments({}), "--set=model.ratings_per_lane=20", "--set=score.model=candidate"]
    job = Job.start(place, "prepare+train+score", *arguments, options=options, program=command)
    line = job.outcome().done()
    assert line["counts"]["users_scored"] == 32
    assert Path(line["paths"]["report"]).is_file()
    assert list((tmp_path / "cache" / "nimc_spark").glob("*.zip"))
