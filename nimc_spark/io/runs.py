"""The record of runs: one row each, of failed ones too."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import date, datetime

from nimc_spark.io.contracts import ddl
from nimc_spark.io.tables import Lake


@dataclass(frozen=True)
class Run:
    """A row of `runs`; `metrics` is JSON, `started` has its time zone, `error` is None for a run that went well."""

    run_id: str
    run_date: date
    job: str
    started: datetime
    seconds: float
    status: str
    exit_code: int
    config_hash: str
    code_version: str
    table_versions: Mapping[str, int]
    counts: Mapping[str, int]
    metrics: str
    stages: Mapping[str, float]
    error: str | None = None


def record_run(lake: Lake, run: Run) -> None:
    """Appends the row in one commit."""
    row = {name: dict(value) if isinstance(value, Mapping) else value for name, value in asdict(run).items()}
    lake.append("runs", lake.spark.createDataFrame([row], ddl("runs")))
