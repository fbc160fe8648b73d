"""The model registry: an append-only log of which version holds which alias, over model folders in the lake.

Nothing in it is ever changed: a version keeps its files and metrics, and giving an alias is a new row. Files are saved
first, in a folder of their own, and get their number with the commit that registers them: what an interrupted run
leaves has none, and of two runs at once each gets its own.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from pyspark.sql import Row
from pyspark.sql import functions as F

from nimc_spark.errors import ConflictError, DataError
from nimc_spark.io.contracts import ddl
from nimc_spark.io.tables import Lake, Where

Alias = Literal["candidate", "refit", "production"]
"""`candidate`: trained on a split's training rows; `refit`: like a candidate, on all rows; `production`: published."""
MODEL_FOLDER = "model_files"
_ATTEMPTS = 20


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
        """The log of this model, oldest first. Raises DataError for a row that is damaged."""
        log = self._lake.find("models")
        rows = [] if log is None else log.where(F.col("name") == self.name).collect()
        return sorted(map(self._entry, rows), key=lambda e: (e.created, e.version))

    def _entry(self, row: Row) -> Entry:
        """Raises DataError for a row that none of ours wrote."""
        try:
            entry = Entry(
                name=row["name"],
                version=int(row["version"]),
                alias=row["alias"],
                path=row["path"],
                metrics=json.loads(row["metrics"]),
                lineage=json.loads(row["lineage"]),
                created=row["created"],
            )
            wanted = {"path": str, "metrics": dict, "lineage": dict, "created": datetime}
            wrong = [name for name, kind in wanted.items() if not isinstance(getattr(entry, name), kind)]
            if wrong:
                raise ValueError(f"{', '.join(wrong)} cannot be used")
        except (TypeError, ValueError) as error:
            known = row.asDict()
            where = f"version {known.get('version')} of {self.name} in {self._lake.path('models')}"
            raise DataError(f"registry: the row of {where} is damaged ({error}): restore the table") from None
        return replace(entry, path=self._inside(entry.path))

    def new_path(self) -> str:
        """A folder that nobody else has: save a model there, then register it."""
        return self._lake.path(f"{MODEL_FOLDER}/{self.name}/{uuid.uuid4().hex[:16]}")

    def register(
        self,
        path: str,
        *,
        alias: Alias = "candidate",
        metrics: Mapping[str, Any] | None = None,
        lineage: Mapping[str, Any] | None = None,
    ) -> Entry:
        """The next version, for the files at `path`, which came from `new_path`; one commit.

        Raises ConflictError if others take one number after the other meanwhile.
        """
        for _ in range(_ATTEMPTS):
            version = 1 + max((entry.version for entry in self.entries()), default=0)
            entry = Entry(self.name, version, alias, path, metrics or {}, lineage or {}, datetime.now(UTC))
            if self._log(entry, unless={"name": self.name, "version": version}):
                return entry
        raise ConflictError(f"model {self.name}: others register versions all the time; run it again")

    def give(self, alias: Alias, entry: Entry) -> Entry:
        """Gives `alias` to a version that is there, in one commit."""
        given = replace(entry, alias=alias, created=datetime.now(UTC))
        self._log(given)
        return given

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

    def _log(self, entry: Entry, unless: Where | None = None) -> bool:
        row = asdict(entry) | {
            "path": f"{MODEL_FOLDER}/{self.name}/{PurePosixPath(entry.path).name}",
            "metrics": json.dumps(entry.metrics, sort_keys=True),
            "lineage": json.dumps(entry.lineage, sort_keys=True),
        }
        return self._lake.append("models", self._lake.spark.createDataFrame([row], ddl("models")), unless=unless)

    def _inside(self, path: str) -> str:
        """Where the files are, if that is in this model's folder: rows of the registry are data that others can write.

        Raises DataError for a path that leads elsewhere, by its text or by a link.
        """
        folder = self._lake.path(f"{MODEL_FOLDER}/{self.name}")
        parts = PurePosixPath(path).parts
        found = self._lake.path(path)
        own = parts[:-1] == (MODEL_FOLDER, self.name) and parts[-1] != ".."
        if not own or Path(found).resolve().parent != Path(folder).resolve():
            raise DataError(f"registry: the path {path!r} leaves the folder {folder}; it is not followed")
        return found
