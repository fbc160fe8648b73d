"""Books of tables that came in: rows in = rows used + rows quarantined, for each."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import date
from functools import reduce

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from nimc_spark.errors import DataError
from nimc_spark.io.quarantine import REASON, UNPARSEABLE, Classified, write_quarantine
from nimc_spark.io.tables import Lake, Written

_OF_SCHEMA = "; does the schema have a type for each column of the file, in its order?"

_Found = Mapping[str, Mapping[str | None, int]]
"""Rows by table and reason, None for accepted ones."""


@dataclass(frozen=True)
class Books:
    """`counts` as ratings_in, ratings_used, ratings_quarantined, …; `reasons` by table; `quarantine`: as written."""

    counts: Mapping[str, int]
    reasons: Mapping[str, Mapping[str, int]]
    quarantine: Written


def keep_books(
    lake: Lake,
    tables: Mapping[str, Classified],
    wheres: Mapping[str, str],
    run_id: str,
    run_date: date,
    *,
    prefix: str = "",
    may_be_empty: Collection[str] = (),
) -> Books:
    """Counts the rows of `tables` and writes the rejected ones into quarantine, there as `prefix` + the table's name.

    `wheres` names the tables in errors. Raises DataError for a table without a row unless it `may_be_empty`, and for
    one of which no row can be used; its rows are in quarantine then. Raises it also where a source changed meanwhile.
    """
    found = _found(tables)
    reasons = {name: {reason: n for reason, n in by.items() if reason is not None} for name, by in found.items()}
    rejected = {f"{prefix}{name}": t.rejected if reasons[name] else None for name, t in tables.items()}
    quarantine = write_quarantine(lake, rejected, run_id, run_date)
    check_written("quarantine", quarantine, sum(n for by in reasons.values() for n in by.values()))
    return Books(_counts(found, wheres, may_be_empty), reasons, quarantine)


def check_written(table: str, commit: Written, due: int) -> None:
    """Raises DataError where a commit has not the rows that were counted: they were read twice."""
    if commit.rows != due:
        raise DataError(f"table {table}: {commit.rows} rows written, {due} counted: the source changed meanwhile")


def _found(tables: Mapping[str, Classified]) -> _Found:
    """One Spark job for all tables."""
    found: dict[str, dict[str | None, int]] = {name: {} for name in tables}
    frames = [t.rows.groupBy(F.lit(name).alias("table"), REASON).count() for name, t in tables.items()]
    for row in reduce(DataFrame.unionAll, frames).collect():
        found[row["table"]][row[REASON]] = row["count"]
    return found


def _counts(found: _Found, wheres: Mapping[str, str], may_be_empty: Collection[str]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for name, by_reason in found.items():
        rows, used = sum(by_reason.values()), by_reason.get(None, 0)
        if rows == 0 and name not in may_be_empty:
            raise DataError(f"{wheres[name]}: is empty: it has no row")
        if rows > 0 and used == 0:
            raise DataError(f"{wheres[name]}: none of {rows} rows can be used: {_worst_first(by_reason)}")
        counts |= {f"{name}_in": rows, f"{name}_used": used, f"{name}_quarantined": rows - used}
    return counts


def _worst_first(by_reason: Mapping[str | None, int]) -> str:
    worst = sorted(((n, reason) for reason, n in by_reason.items() if reason is not None), reverse=True)
    return "; ".join(f"{reason}: {n}" for n, reason in worst) + (_OF_SCHEMA if worst[0][1] == UNPARSEABLE else "")
