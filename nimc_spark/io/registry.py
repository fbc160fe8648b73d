"""The model registry: an append-only log of which version holds which alias, over model folders in the lake.

Nothing in it is ever changed: a version keeps its files and metrics, and giving an alias is a new row.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import PurePosixPath
from typing import Any, Literal

from pyspark.sql import functions as F

from nimc_spark.errors import DataError
from nimc_spark.io.contracts import ddl
from nimc_spark.io.tables import Lake

Alias = Literal["candidate", "production"]
MODEL_FOLDER = "model_files"


@dataclass(frozen=True)
class Entry:
    """One version of a model as the registry has it; `path` is absolute."""

    name: str
    version: int
    alias: str
    path: str
    metrics: Mapping[str, Any]
    lineage: Mapping[str, Any]
    created: datetime


class Registry:
    """The versions of the model called `name` in the lake."""

    def __init__(self, lake: Lake, name: str) -> None:
        self._lake = lake
        self.name = name

    def entries(self) -> list[Entry]:
        """The log of this model, oldest first."""
        log = self._lake.find("models")
        rows = [] if log is None else log.where(F.col("name") == self.name).collect()
        entries = [
            Entry(
                name=row["name"],
                version=row["version"],
                alias=row["alias"],
                path=self._lake.path(_inside(row["path"])),
                metrics=json.loads(row["metrics"]),
                lineage=json.loads(row["lineage"]),
                created=row["created"],
            )
            for row in rows
        ]
        return sorted(entries, key=lambda e: (e.created, e.version))

    def next_version(self) -> int:
        """One more than the highest there is, from 1."""
        return 1 + max((entry.version for entry in self.entries()), default=0)

    def path(self, version: int) -> str:
        """Where the files of a version belong: save the model there, then register it."""
        return self._lake.path(self._relative(version))

    def register(
        self,
        version: int,
        *,
        alias: Alias = "candidate",
        metrics: Mapping[str, Any] | None = None,
        lineage: Mapping[str, Any] | None = None,
    ) -> Entry:
        """Gives `alias` to a version whose files are at `path(version)`, in one commit."""
        entry = Entry(self.name, version, alias, self.path(version), metrics or {}, lineage or {}, datetime.now(UTC))
        row = asdict(entry) | {
            "path": self._relative(version),
            "metrics": json.dumps(entry.metrics, sort_keys=True),
            "lineage": json.dumps(entry.lineage, sort_keys=True),
        }
        self._lake.append("models", self._lake.spark.createDataFrame([row], ddl("models")))
        return entry

    def latest(self, alias: Alias) -> Entry | None:
        """The version that holds `alias` now."""
        return next((entry for entry in reversed(self.entries()) if entry.alias == alias), None)

    def resolve(self, which: Alias | int | None = None) -> Entry:
        """The version asked for; None means production if there is one, else the latest candidate.

        Raises DataError, naming what there is.
        """
        entries = self.entries()[::-1]
        if isinstance(which, int):
            found = [entry for entry in entries if entry.version == which]
        else:
            aliases = ("production", "candidate") if which is None else (which,)
            found = [entry for alias in aliases for entry in entries if entry.alias == alias]
        if found:
            return found[0]
        there = ", ".join(sorted({f"{entry.version} ({entry.alias})" for entry in entries})) or "none"
        wanted = "" if which is None else f" {which}"
        raise DataError(
            f"model {self.name}{wanted}: not in {self._lake.path('models')}; there: {there}; run train first"
        )

    def _relative(self, version: int) -> str:
        return f"{MODEL_FOLDER}/{self.name}/{version}"


def _inside(path: str) -> str:
    """A path that stays in the lake, or DataError: rows of the registry are data that others can write."""
    parts = PurePosixPath(path).parts
    if not parts or parts[0] != MODEL_FOLDER or ".." in parts or ":" in parts[0]:
        raise DataError(f"registry: the path {path!r} leaves the lake's {MODEL_FOLDER} folder; it is not followed")
    return path
