"""Prints the last runs as a table: what ran, how it ended, how long it took, what it measured, why it failed."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence

from pyspark.sql import Row
from pyspark.sql import functions as F

from jobs._job import Context, Result, run_job
from nimc_spark.ml.evaluation import overall

_HEAD = ("started (UTC)", "run_date", "job", "status", "exit", "seconds", "ratings", "rmse", "longest stage", "error")
_ERROR_SHOWN = 100


def body(context: Context) -> Result:
    last = context.config.runs.last
    found = context.lake.read("runs").orderBy(F.col("started").desc()).limit(last).collect()
    for line in table([_HEAD, *(_cells(row) for row in reversed(found))]):
        print(line)
    failed = sum(row["status"] != "done" for row in found)
    return Result({"runs": len(found), "runs_failed": failed}, paths={"runs": context.lake.path("runs")})


def table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines with their columns under each other."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _cells(row: Row) -> tuple[str, ...]:
    metrics, counts, stages = json.loads(row["metrics"] or "{}"), row["counts"] or {}, row["stages"] or {}
    cells = {name: cell for name, cell in metrics.items() if isinstance(cell, dict)}
    rmse = overall(cells, "model").get("rmse")
    # A stage inside another is part of it.
    longest = max(stages.items(), key=lambda stage: ("." in stage[0], stage[1]), default=None)
    error = (row["error"] or "").splitlines() or [""]
    return (
        f"{row['started']:%Y-%m-%d %H:%M:%S}",
        str(row["run_date"]),
        row["job"],
        row["status"],
        str(row["exit_code"]),
        f"{row['seconds']:.1f}",
        str(counts.get("ratings_used", counts.get("ratings_training", ""))),
        "" if rmse is None else f"{rmse:.4f}",
        "" if longest is None else f"{longest[0]} {longest[1]:.1f}",
        error[0] if len(error[0]) <= _ERROR_SHOWN else error[0][: _ERROR_SHOWN - 1] + "…",
    )


def main(argv: Sequence[str]) -> int:
    return run_job("runs", argv, body, __doc__ or "", recorded=False)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
