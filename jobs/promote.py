"""Puts a model into production if it passes the gates, or puts one back that was there before."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

from jobs import evaluate, train
from jobs._gates import model_checks, require
from jobs._job import Context, Result, run_job
from jobs._tables import read_tables
from nimc_spark.io.registry import Entry


def body(context: Context) -> Result:
    registry = context.registry
    entry = registry.resolve(context.config.promote.model or "candidate")
    if any(e.version == entry.version and e.alias == "production" for e in registry.entries()):
        result = Result(paths={"model": entry.path})
    else:
        base = entry.lineage.get("refit_of")
        context.entry = entry if base is None else registry.resolve(base)
        result = evaluate.body(context)
        judge(context, result.metrics)
        if context.config.refit and base is None:
            entry = refit(context, entry)
    registry.give("production", entry)
    paths = {**result.paths, "model": entry.path}
    return Result(result.counts, result.metrics, paths, result.table_versions, {"model_version": entry.version})


def judge(context: Context, cells: Mapping[str, Mapping[str, Any]]) -> None:
    """Raises GateError unless the measured model passes the gates."""
    with context.stage("gates"):
        checks = model_checks(context.config.gates, cells)
        require(context, "the model in production stays", checks)


def refit(context: Context, entry: Entry) -> Entry:
    """A version of its own, trained with the same settings on all ratings that `entry` had, held-out ones too.

    Where nights begin from earlier models it begins from `entry`.
    """
    with context.stage("refit"):
        tables = read_tables(context, entry.lineage["table_versions"])
        earlier = entry if context.config.train.warm_start is not None else None
        model = train.fit(context, tables, tables.ratings, earlier)
        lineage = {"refit_of": entry.version, "split": None}
        return train.register(context, model, tables, "refit", lineage)


def main(argv: Sequence[str]) -> int:
    return run_job("promote", argv, body, __doc__ or "")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
