"""Generated bad inputs: configs, raw files and model files that nobody thought of.

Each ends with the right exit code and a message, or with rows in quarantine; never with a traceback, and never with a
row that is unaccounted for.
"""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyspark.sql import SparkSession

from jobs import night as night_job
from jobs import prepare
from nimc_spark.errors import DataError
from nimc_spark.io.tables import Lake
from nimc_spark.ml import NIMCModel
from tests.jobs.conftest import Night
from tests.jobs.tiny import tiny

# The same inputs in every run: a failure is found again.
ALWAYS = {
    "deadline": None,
    "derandomize": True,
    "database": None,
    "suppress_health_check": [HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
}
TEXT = st.text(st.characters(codec="utf-8"), max_size=8)
JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=4,
)
CELL = (
    st.sampled_from(["", "u01", "1", "3", "4.5", "-1", "NaN", "inf", "1e400", '"', "'; DROP TABLE x --", "null", "07"])
    | st.integers(-(2**70), 2**70).map(str)
    | st.floats().map(str)
    | st.text(st.characters(codec="utf-8", exclude_characters="\x00"), max_size=6)
)
LINE = st.lists(CELL, max_size=6).map(",".join)


def places(tree: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of every value in a config."""
    if path:
        yield path
    for key, value in tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ():
        yield from places(value, (*path, key))


@given(data=st.data())
@settings(max_examples=100, **ALWAYS)
def test_configs(tmp_path: Path, data: st.DataObject) -> None:
    place = tiny(tmp_path)
    tree = copy.deepcopy(place.config)
    *way, last = data.draw(st.sampled_from(list(places(tree))))
    holder = tree
    for key in way:
        holder = holder[key]
    change = data.draw(st.sampled_from(["replace", "remove", "add"]))
    if change == "remove":
        del holder[last]
    elif change == "add" and isinstance(holder, dict):
        holder[data.draw(TEXT)] = data.draw(JUNK)
    else:
        holder[last] = data.draw(JUNK)
    place.config = json.loads(json.dumps(tree))
    outcome = place.run(night_job.main, "--dry-run")
    if outcome.code != 0:
        assert outcome.refused(2)
    assert not Path(tmp_path, "lake").exists()


@pytest.mark.soak
@given(lines=st.lists(LINE, max_size=12), good=st.integers(0, 3))
@settings(max_examples=60, **ALWAYS)
def test_ratings_files(spark: SparkSession, tmp_path: Path, lines: list[str], good: int) -> None:
    place = tiny(tmp_path)
    rows = [f"u{number:02d},{number},4,{number}" for number in range(good)]
    path = place.text("strange.csv", "\n".join(["uid,iid,stars,at", *lines, *rows]) + "\n")
    place.config["sources"]["ratings"]["path"] = path
    place.config["sources"].pop("users")
    place.config["sources"].pop("items")
    place.config |= {"features": {}, "format": "parquet"}
    shutil.rmtree(place.lake, ignore_errors=True)
    outcome = place.run(prepare.main)
    if outcome.code != 0:
        assert outcome.refused(3)
        return
    counts, lake = outcome.done()["counts"], Lake(spark, str(place.lake), "parquet")
    assert counts["ratings_in"] == counts["ratings_used"] + counts["ratings_quarantined"]
    assert lake.read("ratings").count() == counts["ratings_used"] >= good - 3
    assert lake.read("quarantine").count() == counts["ratings_quarantined"]


@given(data=st.data())
@settings(max_examples=40, **ALWAYS)
def test_models_with_a_flipped_bit(night: Night, tmp_path: Path, data: st.DataObject) -> None:
    model = Path(night.outcome.done()["paths"]["model"])
    whole = {path.relative_to(model): path.read_bytes() for path in sorted(model.rglob("*")) if path.is_file()}
    name = data.draw(st.sampled_from(sorted(whole)))
    content = bytearray(whole[name])
    bit = data.draw(st.integers(0, 8 * len(content) - 1))
    content[bit // 8] ^= 1 << bit % 8
    copied = tmp_path / "model"
    shutil.rmtree(copied, ignore_errors=True)
    shutil.copytree(model, copied)
    (copied / name).write_bytes(content)
    if name.name == "manifest.json" and same_json(bytes(content), whole[name]):
        return
    with pytest.raises(DataError, match=r"damaged|is not JSON|no saved model|not a JSON object|model format"):
        NIMCModel.load(str(copied))


def same_json(one: bytes, other: bytes) -> bool:
    """An e may become an E: then the number is what it was."""
    try:
        return bool(json.loads(one) == json.loads(other))
    except ValueError:
        return False
