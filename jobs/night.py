"""A night in one Spark application: prepare, train, evaluate, score."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

from jobs import evaluate, prepare, score, train
from jobs._job import Context, Result, run_job

STAGES = {"prepare": prepare.body, "train": train.body, "evaluate": evaluate.body, "score": score.body}


def body(context: Context) -> Result:
    counts: dict[str, int] = {}
    metrics: Mapping[str, Any] = {}
    paths: dict[str, str] = {}
    extra: dict[str, Any] = {}
    for name, run in STAGES.items():
        with context.stage(name):
            result = run(context)
        counts |= result.counts
        paths |= result.paths
        context.table_versions |= result.table_versions
        extra |= result.extra
        if name == "evaluate":
            metrics = result.metrics
    return Result(counts, metrics, paths, context.table_versions, {**extra, "stages": context.stages})


def main(argv: Sequence[str]) -> int:
    return run_job("night", argv, body, __doc__ or "")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
