"""Prints the last runs as a table: what ran, how it ended, how long it took, what it measured, why it failed."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from datetime import datetime

from pyspark.sql import Row
from pyspark.sql import functions as F

from jobs._job import Context, Result, run_job
from jobs._open_runs import OpenRun, open_runs
from nimc_spark.ml.evaluation import overall

_HEAD = (
    "started (UTC)",
    "run_date",
    "job",
    "status",
    "exit",
    "seconds",
    "ratings",
    "rmse",
    "longest stage",
    "run_id",
    "error",
)
_ERROR_SHOWN = 200


def body(context: Context) -> Result:
    last = context.config.runs.last
    not_ended = open_runs(context.config.lake)[-last:]
    found = _recorded(context, last, must_be=not not_ended)
    cells = sorted([*map(_cells, found), *map(_open_cells, not_ended)])[-last:]
    for line in table([_HEAD, *cells]):
        print(line)
    failed = sum(row["status"] != "done" for row in found)
    counts = {"runs": len(found), "runs_failed": failed, "runs_not_ended": len(not_ended)}
    return Result(counts, paths={"runs": context.lake.path("runs")})


def _recorded(context: Context, last: int, must_be: bool) -> list[Row]:
    """The last rows. Raises DataError where there is no such table and there `must_be`."""
    rows = context.lake.read("runs") if must_be else context.lake.find("runs")
    return [] if rows is None else rows.orderBy(F.col("started").desc()).limit(last).collect()


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
        row["run_id"],
        error[0] if len(error[0]) <= _ERROR_SHOWN else error[0][: _ERROR_SHOWN - 1] + "…",
    )


def _open_cells(run: OpenRun) -> tuple[str, ...]:
    started = datetime.fromisoformat(run.started)
    about = f"runs now, or was killed: {run.where}"
    return (f"{started:%Y-%m-%d %H:%M:%S}", run.run_date, run.job, "not ended", "", "", "", "", "", run.run_id, about)


def main(argv: Sequence[str]) -> int:
    return run_job("runs", argv, body, __doc__ or "", recorded=False)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
