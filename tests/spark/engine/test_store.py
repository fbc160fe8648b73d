"""Files beside tasks: what is there is what was written, and whatever happens to them a pass has the same bits."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest
from pyspark.sql import SparkSession

from nimc_spark.data.passes import ITEM_LANE, Kind, RecordName
from nimc_spark.engine import store
from nimc_spark.engine.blocks import BlockSet
from nimc_spark.engine.spark_oracle import SparkOracle
from nimc_spark.kernels.statistics import LossGradient
from tests.spark.engine.oracle_problem import folder_of, local_oracle, model_of, random_parameters
from tests.unit.problems import bits

NAME = RecordName(3, Kind.BLOCK, 1, 0)
ITEM = RecordName(ITEM_LANE, Kind.ITEM_PART, 0, 0)
PAYLOAD = pa.py_buffer(bytes(range(256)) * 40)


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of an executor that is this process; the first of two."""
    monkeypatch.setenv("SPARK_LOCAL_DIRS", f"{tmp_path},/nowhere")
    return tmp_path


def test_what_is_kept_is_found(scratch: Path) -> None:
    for name in (NAME, ITEM):
        assert store.find("one", name) is None
        store.keep("one", name, PAYLOAD)
    for name in (NAME, ITEM):
        found = store.find("one", name)
        assert found is not None
        assert found.equals(PAYLOAD)
        # Arrow maps arrays in place where they are aligned.
        assert found.address % 64 == 0
    assert store.find("other", NAME) is None
    assert sorted(path.name for path in scratch.glob("nimc/one/*")) == ["-1.0.0.0", "3.2.1.0"]


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda content: b"",
    "cut": lambda content: content[:-1],
    "longer": lambda content: content + b"x",
    "flipped": lambda content: content[:-9] + bytes([content[-9] ^ 1]) + content[-8:],
    "foreign": lambda content: b"PAR1" * 200,
    "other size": lambda content: content[:8] + b"\x01" + content[9:],
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_file_that_is_not_what_was_written_is_none(scratch: Path, damage: str) -> None:
    store.keep("one", NAME, PAYLOAD)
    assert store.find("one", NAME) is not None
    (path,) = scratch.glob("nimc/one/*")
    path.write_bytes(DAMAGE[damage](path.read_bytes()))
    assert store.find("one", NAME) is None
    store.keep("one", NAME, PAYLOAD)
    assert store.find("one", NAME) is not None


def test_a_file_of_another_name_is_none(scratch: Path) -> None:
    store.keep("one", NAME, PAYLOAD)
    other = NAME._replace(chunk=7)
    (scratch / "nimc/one/3.2.1.0").rename(scratch / "nimc/one/3.2.1.7")
    assert store.find("one", other) is None


def test_what_is_there_is_not_written_again(scratch: Path) -> None:
    store.keep("one", NAME, PAYLOAD)
    (path,) = scratch.glob("nimc/one/*")
    before = path.stat()
    store.keep("one", NAME, PAYLOAD)
    assert path.stat().st_ino == before.st_ino


def test_what_is_forgotten_is_gone(scratch: Path) -> None:
    for dataset in ("one", "one more"):
        store.keep(dataset, NAME, PAYLOAD)
        assert store.find(dataset, NAME) is not None
    store.forget("one")
    assert [path.name for path in scratch.glob("nimc/*")] == ["one more"]
    assert store.find("one", NAME) is None
    assert store.find("one more", NAME) is not None


def test_no_room_or_no_right_is_no_error(scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (scratch / "nimc").write_text("a file where the folder should be")
    store.keep("one", NAME, PAYLOAD)
    assert store.find("one", NAME) is None
    (scratch / "nimc").unlink()
    monkeypatch.setattr(store, "_RESERVE", 1 << 60)
    store.keep("one", NAME, PAYLOAD)
    assert store.find("one", NAME) is None
    monkeypatch.delenv("SPARK_LOCAL_DIRS")
    store.keep("one", NAME, PAYLOAD)
    store.touch("one")
    assert store.find("one", NAME) is None


def test_what_nobody_asked_for_in_an_hour_makes_room(scratch: Path) -> None:
    ages = {"old": 4000, "used": 4000, "new": 10}
    for dataset in ages:
        store.keep(dataset, NAME, PAYLOAD)
    for dataset, age in ages.items():
        before = time.time() - age
        os.utime(scratch / "nimc" / dataset, (before, before))
    store.touch("used")
    store.keep("next", NAME, PAYLOAD)
    assert sorted(path.name for path in scratch.glob("nimc/*")) == ["new", "next", "used"]


def truncated(folder: Path) -> None:
    for path in list(folder.glob("*"))[1::2]:
        path.write_bytes(path.read_bytes()[:100])


def read_only(folder: Path) -> None:
    """As a folder that cannot be written: a file is in its place."""
    shutil.rmtree(folder)
    folder.write_text("")


LOSSES: dict[str, Callable[[Path], None]] = {
    "gone": shutil.rmtree,
    "one gone": lambda folder: next(folder.glob("*")).unlink(),
    "truncated": truncated,
    "read-only": read_only,
}


@pytest.mark.parametrize("loss", LOSSES)
def test_a_pass_has_the_same_bits_whatever_happens_to_the_files(
    spark: SparkSession, blocks: BlockSet, loss: str
) -> None:
    model = model_of(blocks, "float64")
    parameters = [random_parameters(model, seed) for seed in (1, 2)]
    wanted = bits(local_oracle(blocks).run(LossGradient(), model, parameters))
    oracle, folder = SparkOracle(spark, blocks), folder_of(spark, blocks)

    def passes(count: int) -> list[object]:
        return [bits(oracle.run(LossGradient(), model, parameters)) for _ in range(count)]

    assert passes(3) == [wanted] * 3
    assert oracle.misses == 0
    assert len(list(folder.glob("*"))) == blocks.records.names.distinct().count()
    LOSSES[loss](folder)
    assert passes(2) == [wanted] * 2
    lasting = loss == "read-only"
    assert oracle.misses == (2 if lasting else 1)
    if lasting:
        # Nor is it tried in every pass.
        assert passes(8) == [wanted] * 8
        assert oracle.misses == 6
        folder.unlink()
