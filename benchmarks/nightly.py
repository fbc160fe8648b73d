"""A night's lists: 1e5 users × 2e4 items, ten each, by the `score` job through spark-submit, from Delta tables to one.

    whole / scoring = (read + score + gates + write) / score        stages of the job's result line

`score` is the stage that evaluates both sides' factors, takes out what was seen, makes the lists and counts them.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml
from pyspark.sql import SparkSession

from benchmarks.problem import Setting, write
from benchmarks.report import Row, row
from jobs._settings import ROOT

_SETTING = Setting(1_000_000, 100_000, 20_000, 32, 32, 32)
_RUNS = 3
_STAGES = ("read", "score", "gates", "write")


def run(spark: SparkSession) -> list[Row]:
    """Rows of the ratio, then of the stages."""
    with TemporaryDirectory() as folder:
        write(_SETTING, Path(folder))
        for side, name in (("users", "user"), ("items", "item")):
            raw = spark.read.parquet(f"{folder}/{side}").withColumnRenamed("id", name)
            raw.write.parquet(f"{folder}/raw_{side}")
        config = _config(Path(folder))
        _submit("prepare+train", config)
        nights = [_submit("score", config) for _ in range(_RUNS)]
    wholes = [sum(night["stages"][s] for s in _STAGES) for night in nights]
    ratios = [whole / night["stages"]["score"] for whole, night in zip(wholes, nights, strict=True)]
    scored = f"{nights[0]['counts']['recommendations']} rows"
    return [
        row("nightly score, Delta in to Delta out / scoring alone", ratios, target="≤ 1.5, aim 1.2", note=scored),
        row("whole, s", wholes, ".1f"),
        *(row(f"{stage}, s", [night["stages"][stage] for night in nights], ".1f") for stage in _STAGES),
        row("the job from its start, s", [night["seconds"] for night in nights], ".1f"),
    ]


def _config(folder: Path) -> Path:
    folders = {"ratings": "ratings", "users": "raw_users", "items": "raw_items"}
    tables = {name: {"path": str(folder / own), "format": "parquet"} for name, own in folders.items()}
    features = [{"kind": "passthrough", "column": "values"}]
    config = {
        "lake": str(folder / "lake"),
        "name": "nightly",
        "sources": tables,
        "columns": {"user": "user", "item": "item", "rating": "rating"},
        "duplicates": "mean",
        "features": {"users": features, "items": features},
        "model": {"rank": _SETTING.rank, "max_passes": 10},
        "score": {"k": 10},
    }
    path = folder / "nightly.yaml"
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    return path


def _submit(jobs: str, config: Path) -> dict[str, Any]:
    command = [str(ROOT / "spark-submit.sh"), jobs, "--config", str(config)]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    last: dict[str, Any] = json.loads(answer.stdout.splitlines()[-1])
    if answer.returncode:
        raise RuntimeError(f"{jobs} ended with {answer.returncode}: {last.get('error')}")
    return last
