"""Rejected rows: why, and where they are kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from functools import reduce

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from nimc_spark.engine.index import quoted
from nimc_spark.io.contracts import ddl
from nimc_spark.io.sources import CORRUPT
from nimc_spark.io.tables import Lake, Written

REASON = "__nimc_reason"
"""Column of a classified table: why the row is rejected, null for an accepted one."""

Faults = Sequence[tuple[Column, str]]
"""Conditions, and the reason that each is; the first that holds counts. A null condition does not hold."""


UNPARSEABLE = "unparseable row"


@dataclass(frozen=True)
class Classified:
    """A raw table with `REASON`; `used` and `rejected` are its two parts as they are written."""

    rows: DataFrame
    used: DataFrame
    rejected: DataFrame


def first_reason(faults: Faults) -> Column:
    return F.coalesce(*(F.when(condition, F.lit(reason)) for condition, reason in faults), F.lit(None).cast("string"))


def row_json(raw_columns: Sequence[str]) -> Column:
    """The raw row as JSON, nulls included; of a row that could not be parsed its text."""
    row = F.struct(*(quoted(column) for column in raw_columns))
    parsed = F.to_json(row, {"ignoreNullFields": "false"})
    return F.when(F.col(CORRUPT).isNotNull(), F.to_json(F.struct(F.col(CORRUPT).alias("unparsed")))).otherwise(parsed)


def write_quarantine(lake: Lake, rejected: Mapping[str, DataFrame | None], run_id: str, run_date: date) -> Written:
    """Writes the rejected rows of some tables in one commit: DataFrames with columns `row` and `reason`, or None.

    They replace what an earlier run for the same date rejected from the same tables: a rerun gives the same rows.
    """
    frames = [
        df.select(
            F.lit(run_date).cast("date").alias("run_date"),
            F.lit(table).alias("table"),
            F.lit(run_id).alias("run_id"),
            "row",
            "reason",
        )
        for table, df in rejected.items()
        if df is not None
    ]
    tables = list(rejected)
    if not frames and (version := lake.version("quarantine")) is not None:
        stale = (F.col("run_date") == F.lit(run_date)) & F.col("table").isin(tables)
        if lake.read("quarantine", version).where(stale).isEmpty():
            return Written(version, 0)
    nothing = lake.spark.createDataFrame([], ddl("quarantine"))
    rows = reduce(DataFrame.unionByName, frames, nothing)
    return lake.write("quarantine", rows, replace_where={"run_date": run_date, "table": tables})
