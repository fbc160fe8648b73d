"""A night's lists by the `score` job through spark-submit, from Delta tables to one: 1e5 users × 2e4 items, ten each
(FULL=1: and 1e6 users).

whole / scoring    read + score + gates + write, stages as the job says them, over the lists of as many users and items
                   from factors at hand, nothing taken out, in a session that has made them before (with the JVM of
                   benchmarks: optimizing JIT)
alone              in an application of its own, with a cold JVM (as jobs/_conf sets it) and cold Python workers
again              in an application that has run the job before, so that what every first query costs is left out: a
                   bound from below for the score stage of `night`, which follows other jobs
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import yaml
from pyspark.sql import SparkSession

from benchmarks.problem import Setting, write
from benchmarks.report import Row, in_turns, row
from benchmarks.topk import drain, factor_table
from jobs._settings import ROOT
from nimc_spark.engine.context import held
from nimc_spark.engine.topk import top_k

# Ten ratings a user.
_SIZES = (100_000,)
_FULL_SIZES = (*_SIZES, 1_000_000)
_ITEMS, _WIDTH = 20_000, 32
_RUNS, _K = 3, 10
_STAGES = ("read", "score", "gates", "write")


def run(spark: SparkSession) -> list[Row]:
    """Rows of each size."""
    sizes = _FULL_SIZES if os.environ.get("FULL") == "1" else _SIZES
    return [found for users in sizes for found in _measured(spark, users)]


def _measured(spark: SparkSession, count: int) -> list[Row]:
    """Rows of the ratio, then of the stages."""
    with TemporaryDirectory() as folder:
        write(Setting(10 * count, count, _ITEMS, _WIDTH, _WIDTH, _WIDTH), Path(folder))
        for side, name in (("users", "user"), ("items", "item")):
            raw = spark.read.parquet(f"{folder}/{side}").withColumnRenamed("id", name)
            raw.write.parquet(f"{folder}/raw_{side}")
        config = _config(Path(folder))
        # The first night has no lists before it to compare its own with.
        _submit("prepare+train+score", config, "2026-01-01")
        nights = [_submit("score+score", config, f"2026-01-{day:02}") for day in range(2, _RUNS + 2)]
    users, items = (factor_table(spark, n, seed, _WIDTH) for seed, n in enumerate((count, _ITEMS)))
    with held(users) as own_users, held(items) as own_items:
        found = in_turns({"scoring": lambda: drain(top_k(own_users, own_items, _K))}, _RUNS, 1, warm_up=1)
    scoring = [r.clock for r in found["scoring"]]
    name, (alone, again) = f"{count:.0e} users", zip(*nights, strict=True)
    return [
        row(f"{name}: scoring alone, s", scoring, ".1f"),
        *_rows(f"{name}, alone", alone, scoring),
        *_rows(f"{name}, again", again, scoring),
    ]


def _rows(name: str, jobs: Sequence[dict[str, Any]], scoring: Sequence[float]) -> list[Row]:
    stages = [job["stages"] for job in jobs]
    wholes = [sum(own[stage] for stage in _STAGES) for own in stages]
    ratios = [whole / median(scoring) for whole in wholes]
    rows = f"{jobs[0]['counts']['recommendations']} rows"
    return [
        row(f"{name}: nightly score, Delta in to Delta out / scoring alone", ratios, ".1f", "≤ 1.5, aim 1.2", rows),
        row(f"{name}: whole, s", wholes, ".1f"),
        *(row(f"{name}: {stage}, s", [own[stage] for own in stages], ".1f") for stage in _STAGES),
        row(f"{name}: the job from its start, s", [job["seconds"] for job in jobs], ".1f"),
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
        "model": {"rank": _WIDTH, "max_passes": 10},
        "score": {"k": _K},
    }
    path = folder / "nightly.yaml"
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    return path


def _submit(jobs: str, config: Path, run_date: str) -> list[dict[str, Any]]:
    """The result line of each job."""
    command = [str(ROOT / "spark-submit.sh"), jobs, "--config", str(config), "--run-date", run_date]
    answer = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if answer.returncode:
        raise RuntimeError(f"{jobs} ended with {answer.returncode}: {answer.stdout[-2000:]}")
    return [json.loads(line) for line in answer.stdout.splitlines() if line.startswith('{"job"')]
