"""A night in one Spark application: prepare, train, evaluate, gates, refit if asked for, score, promote."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

from jobs import evaluate, prepare, promote, score, train
from jobs._job import Context, Result, run_job

STAGES: dict[str, Callable[[Context], Result]] = {
    "prepare": prepare.body,
    "train": train.body,
    "evaluate": evaluate.body,
}


class _Night:
    """What its stages gave, together."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self.paths: dict[str, str] = {}
        self.extra: dict[str, Any] = {}

    def run(self, name: str, body: Callable[[Context], Result]) -> Result:
        context = self._context
        with context.stage(name):
            result = body(context)
        context.counts |= result.counts
        context.table_versions |= result.table_versions
        self.paths |= result.paths
        self.extra |= result.extra
        return result


def body(context: Context) -> Result:
    config, night = context.config, _Night(context)
    names = list(STAGES)
    for name in names[names.index(config.night.first_stage) :]:
        night.run(name, STAGES[name])
    metrics = context.metrics
    promote.judge(context, metrics)
    if config.refit and context.entry is not None:
        context.entry = promote.refit(context, context.entry)
    if config.score.model is not None:
        # The model that the config names is scored, and nothing is promoted.
        context.entry = None
    night.run("score", score.body)
    if context.entry is not None:
        with context.stage("promote"):
            context.registry.give("production", context.entry)
    return Result(context.counts, metrics, night.paths, context.table_versions, night.extra)


def main(argv: Sequence[str]) -> int:
    return run_job("night", argv, body, __doc__ or "")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
