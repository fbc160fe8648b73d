"""Measures the latest candidate on its held-out ratings, in cells of known and new ids, beside baselines."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from jobs._job import Context, Result, run_job
from jobs._tables import check_same_split, read_tables, shared_model, split_ratings
from nimc_spark.engine.context import held
from nimc_spark.io.contracts import ddl
from nimc_spark.io.registry import Entry
from nimc_spark.ml.evaluation import Ranking, evaluate_model


def body(context: Context) -> Result:
    config = context.config
    entry = context.registry.resolve("candidate")
    check_same_split(config, entry.lineage["split"])
    with context.stage("read"):
        tables = read_tables(context, entry.lineage["table_versions"])
        parts = split_ratings(config, tables.ratings)
        model = shared_model(context, entry.path, tables, training_only=True)
    ranking = Ranking.of(model, config.evaluate.k, config.evaluate.relevant)
    with context.stage("evaluate"), held(parts[0]) as training, held(parts[1]) as held_out:
        context.kept.enter_context(model.heldFactors())
        cells = evaluate_model(model, training, held_out, ranking)
    with context.stage("write"):
        version = _write(context, entry, cells)
    paths = {"metrics": context.lake.path("metrics"), "model": entry.path}
    counts = {"ratings_held_out": sum(cell["n"] for cell in cells.values())}
    return Result(counts, cells, paths, {**tables.versions, "metrics": version}, {"model_version": entry.version})


def _write(context: Context, entry: Entry, cells: Mapping[str, Mapping[str, Any]]) -> int:
    """One row a number; those of this model version and run_date are replaced."""
    rows = [
        (
            context.run_date,
            context.run_id,
            entry.name,
            entry.version,
            cell,
            predictor,
            metric,
            float(value),
            _count(cell_of, of, metric),
        )
        for cell, cell_of in cells.items()
        for predictor, of in cell_of.items()
        if isinstance(of, Mapping)
        for metric, value in of.items()
        if metric != "users" and math.isfinite(value)
    ]
    frame = context.spark.createDataFrame(sorted(rows), ddl("metrics")).coalesce(1)
    where = {"run_date": context.run_date, "model_name": entry.name, "model_version": entry.version}
    return context.lake.write("metrics", frame, replace_where=where).version


def _count(cell: Mapping[str, Any], of: Mapping[str, Any], metric: str) -> int:
    """What the mean is over: ratings for errors, users for list metrics."""
    return int(cell["n"] if metric in ("rmse", "mae") else of["users"])


def main(argv: Sequence[str]) -> int:
    return run_job("evaluate", argv, body, __doc__ or "")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
