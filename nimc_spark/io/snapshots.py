"""Which versions of the input tables belong together: what prepare commits last, and what the other jobs read.

A prepare that is interrupted between two tables leaves the snapshot as it was, and so what readers see.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, date, datetime

from nimc_spark.errors import DataError
from nimc_spark.io.contracts import ddl
from nimc_spark.io.failures import translated
from nimc_spark.io.tables import Lake


def publish_snapshot(lake: Lake, versions: Mapping[str, int], run_id: str, run_date: date) -> int:
    """Makes these versions the ones that are read, in one commit; its version."""
    row = (run_date, run_id, datetime.now(UTC), dict(versions))
    return lake.write("snapshots", lake.spark.createDataFrame([row], ddl("snapshots"))).version


def current_snapshot(lake: Lake) -> dict[str, int] | None:
    """The versions of the input tables by name; None in a lake that prepare has not written. Raises DataError for a row
    that prepare has not written."""
    found = lake.find("snapshots")
    row = None if found is None else found.first()
    if row is None:
        return None
    versions = row.asDict().get("table_versions")
    if not isinstance(versions, dict) or not all(isinstance(version, int) for version in versions.values()):
        raise DataError(f"{lake.path('snapshots')}: the row names no versions: run prepare again, it writes it anew")
    return versions


def snapshot_rows(lake: Lake) -> dict[str, int | None]:
    """Rows of the tables in the current snapshot, by name; None for one that is gone or cannot be read any more. A
    damaged snapshot has no tables: prepare, which asks, writes another."""
    try:
        versions = current_snapshot(lake) or {}
    except DataError:
        versions = {}
    return {name: _rows(lake, name, version) for name, version in sorted(versions.items())}


def _rows(lake: Lake, name: str, version: int) -> int | None:
    try:
        return lake.read(name, version).count()
    except Exception as error:
        if translated(error) is None:
            raise
        return None
