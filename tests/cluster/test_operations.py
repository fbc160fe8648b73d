"""The commands of docs/operations.md, one after the other, on a cluster whose machines have no packages of Python."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from jobs._settings import ROOT
from tests.cluster.cluster import Cluster, Job, running
from tests.jobs.tiny import Outcome, Workplace, tiny

pytestmark = pytest.mark.soak

# Those of the wheel have a test of their own (test_wheel.py).
ELSEWHERE = ("pip wheel", "-m venv", "nimc ")
# Sizes for a worker of this test, in the place of those of a preset.
SIZES = {"executor.cores": "1", "executor.memory": "768m", "driver.memory": "2g"}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with running(tmp_path_factory.mktemp("cluster")) as started:
        yield started


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Python of the driver's version that has nothing else."""
    folder = tmp_path_factory.mktemp("bare")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    return folder / "bin" / "python"


def commands() -> list[str]:
    """The indented lines of the page that start with a command, those that go on in the next line joined."""
    page = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    lines = re.findall(r"^ {4,}((?:\./|\.venv|env/|python|tar ).*)$", page.replace("\\\n", " "), re.MULTILINE)
    return [line.partition("  #")[0] for line in lines if not any(word in line for word in ELSEWHERE)]


def workplace(cluster: Cluster, folder: Path) -> Workplace:
    """A folder in which the page's commands find what they name: my.yaml, .venv and conf/presets."""
    place = tiny(folder)
    # Splits of a few users move more from night to night than real ones.
    gates = {"rmse_rise": None, "ndcg_fall": None}
    place.text("my.yaml", yaml.safe_dump(place.config | {"gates": gates}))
    (folder / ".venv").symlink_to(sys.prefix)
    shutil.copy(ROOT / "requirements.lock", folder)
    shutil.copytree(ROOT / "conf" / "presets", folder / "conf" / "presets")
    preset = folder / "conf" / "presets" / "standalone.conf"
    text = preset.read_text().replace("spark://host:7077", cluster.url)
    for name, size in SIZES.items():
        text = re.sub(rf"(spark\.{re.escape(name)} +)\S+", rf"\g<1>{size}", text)
    preset.write_text(text)
    return place


def run(command: str, cluster: Cluster, place: Workplace, **environment: str) -> subprocess.CompletedProcess[str]:
    """The command as the page has it, but for addresses, sizes and the number of a version."""
    master = f"--master {cluster.url} --executor-memory 768m --driver-memory 2g"
    line = command.replace("./spark-submit.sh", str(ROOT / "spark-submit.sh"))
    line = line.replace("--master spark://host:7077", master).replace("promote.model=7", "promote.model=1")
    return subprocess.run(
        line, shell=True, cwd=place.folder, env=os.environ | environment, capture_output=True, text=True, check=False
    )


def test_executors_without_packages_are_refused(
    cluster: Cluster, bare: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYSPARK_PYTHON", str(bare))
    place = tiny(tmp_path)
    outcome: Outcome = Job.start(place, "night", *place.arguments({}), options=cluster.options).outcome()
    message = outcome.refused(6)
    assert "docs/operations.md" in message
    assert "pyarrow" in message
    assert place.commits() == set()
    assert (place.lake / "runs" / "_delta_log").is_dir()


def test_every_command_of_the_page(cluster: Cluster, bare: Path, tmp_path: Path) -> None:
    place = workplace(cluster, tmp_path)
    found = commands()
    assert {"night", "score", "promote", "runs"} <= {word for line in found for word in line.split()}
    for command in found:
        # What brings an archive of packages needs none on the machines.
        environment = {"PYSPARK_PYTHON": str(bare)} if "spark.archives" in command else {}
        answer = run(command, cluster, place, **environment)
        assert answer.returncode == 0, f"{command}\n{answer.stdout[-4000:]}\n{answer.stderr[-8000:]}"
