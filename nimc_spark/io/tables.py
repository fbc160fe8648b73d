"""The lake: named tables under one folder, each write one commit, read at a pinned version.

Delta is the ordinary format. With `format="parquet"` a table is a folder of numbered versions, each written beside the
others and then renamed into place: readers see a whole version or none, replacing a part rewrites the table, and the
last `PARQUET_VERSIONS_KEPT` versions stay. That needs a local or mounted file system, whose rename is atomic.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from functools import reduce
from pathlib import Path
from typing import Literal, Protocol

from pyspark.errors import AnalysisException
from pyspark.sql import Column, DataFrame, Row, SparkSession
from pyspark.sql import functions as F

from nimc_spark.engine.index import quoted, quoted_name
from nimc_spark.errors import DataError, NimcError, SetupError, UsageError
from nimc_spark.io.contracts import TABLES, Table
from nimc_spark.io.failures import translated

Value = str | int | date
Where = Mapping[str, Value | Sequence[Value]]
"""Rows whose column has the value, or one of the values, for every column named."""
Mode = Literal["overwrite", "append"]

PARQUET_VERSIONS_KEPT = 10
_NO_TABLE = ("DELTA_TABLE_ONLY_OPERATION", "DELTA_PATH_DOES_NOT_EXIST", "DELTA_TABLE_NOT_FOUND")
_COMMITS_SEARCHED = 20
_URI = re.compile(r"^[A-Za-z][A-Za-z0-9+.-]*:")


@dataclass(frozen=True)
class Written:
    """One commit: its version, and the rows that it added."""

    version: int
    rows: int


class _Store(Protocol):
    def version(self, path: str) -> int | None: ...

    def read(self, path: str, version: int) -> DataFrame: ...

    def write(self, path: str, df: DataFrame, mode: Mode, where: Where | None, contract: Table) -> Written: ...


class Lake:
    """Tables of `contracts.TABLES` under `root`, by name.

    Args:
        root: a folder, or a URI of any file system that Spark reads; a relative folder starts at the working directory.
        table_format: "delta" or "parquet".
    """

    def __init__(self, spark: SparkSession, root: str, table_format: str = "delta") -> None:
        self.spark = spark
        self.root = absolute(root)
        if table_format not in ("delta", "parquet"):
            raise UsageError(f"format = {table_format!r}: allowed: delta, parquet")
        if table_format == "parquet" and _URI.match(self.root):
            raise UsageError(f"lake = {root!r}: format parquet needs a local folder; or use format: delta")
        self.format = table_format
        self._store: _Store = _Delta(spark) if table_format == "delta" else _Parquet(spark)

    def path(self, name: str) -> str:
        """Where the table, or another folder of the lake, is."""
        return f"{self.root.rstrip('/')}/{name}"

    def version(self, name: str) -> int | None:
        """The newest version of the table; None if there is no such table."""
        return self._store.version(self.path(name))

    def exists(self, name: str) -> bool:
        return self.version(name) is not None

    def read(self, name: str, version: int | None = None) -> DataFrame:
        """The table at `version`, by default the newest. Raises DataError if there is none."""
        newest = self.version(name) if version is None else version
        if newest is None:
            raise DataError(f"table {name}: there is none at {self.path(name)}; run the job that writes it first")
        try:
            return self._store.read(self.path(name), newest)
        except AnalysisException as error:
            newest = self.version(name)
            raise DataError(f"table {name}: version {version} cannot be read; the newest is {newest}") from error

    def write(
        self, name: str, df: DataFrame, *, mode: Mode = "overwrite", replace_where: Where | None = None
    ) -> Written:
        """Writes `df` in one commit.

        `mode="overwrite"` replaces the whole table, its columns too, or with `replace_where` only the rows that match,
        which all rows of `df` must; `mode="append"` adds rows.

        Raises:
            DataError: columns other than the table's contract, or rows outside `replace_where`.
            NimcError: another writer committed to the same rows meanwhile; nothing was written.
            SetupError: the folder cannot be written.
        """
        contract = TABLES[name]
        contract.check(df.schema)
        try:
            return self._store.write(self.path(name), df, mode, replace_where, contract)
        except Exception as error:
            known = translated(error, f"table {name} at {self.path(name)}")
            if known is None:
                raise
            raise known from error


def absolute(path: str) -> str:
    """A URI as it is; a plain path made absolute, since Delta's SQL knows a path only by its being so."""
    return path if _URI.match(path) else os.path.abspath(path)


def ensure_writable(root: str) -> None:
    """Makes a local folder and tries to write in it, before work goes into it. Raises SetupError."""
    if _URI.match(root):
        return
    try:
        Path(root).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=root):
            pass
    except OSError as error:
        raise SetupError(
            f"lake {root} cannot be written: {error.strerror}; give another folder or its permission"
        ) from None


class _Delta:
    def __init__(self, spark: SparkSession) -> None:
        self._spark = spark

    def version(self, path: str) -> int | None:
        commits = self._last_commits(path, 1)
        return int(commits[0]["version"]) if commits else None

    def read(self, path: str, version: int) -> DataFrame:
        return self._spark.read.format("delta").option("versionAsOf", version).load(path)

    def write(self, path: str, df: DataFrame, mode: Mode, where: Where | None, contract: Table) -> Written:
        mark = str(uuid.uuid4())
        writer = df.write.format("delta").mode(mode).partitionBy(*contract.partition_by).option("userMetadata", mark)
        if contract.open:
            # Attributes may have names with blanks and the like, which Delta takes only so, and only from the start.
            writer = writer.option("delta.columnMapping.mode", "name")
        if where is not None:
            writer = writer.option("replaceWhere", " AND ".join(_sql_equals(c, v) for c, v in where.items()))
        elif mode == "overwrite":
            writer = writer.option("overwriteSchema", "true")
        writer.save(path)
        commits = self._last_commits(path, _COMMITS_SEARCHED)
        for commit in commits:
            if commit["userMetadata"] == mark:
                return Written(commit["version"], int((commit["operationMetrics"] or {}).get("numOutputRows", 0)))
        # Nothing replaced by nothing is no commit.
        return Written(commits[0]["version"], 0)

    def _last_commits(self, path: str, count: int) -> list[Row]:
        """Rows of the table's history, newest first; none if there is no table."""
        try:
            return self._spark.sql(f"DESCRIBE HISTORY delta.{quoted_name(path)} LIMIT {count}").collect()
        except AnalysisException as error:
            # A damaged table is another error, and must not pass for one that is yet to be made.
            if error.getCondition() in _NO_TABLE:
                return []
            raise


class _Parquet:
    def __init__(self, spark: SparkSession) -> None:
        self._spark = spark

    def version(self, path: str) -> int | None:
        return max(self._versions(path), default=None)

    def read(self, path: str, version: int) -> DataFrame:
        return self._spark.read.parquet(f"{path}/{version}")

    def write(self, path: str, df: DataFrame, mode: Mode, where: Where | None, contract: Table) -> Written:
        last = self.version(path)
        rows = df.count()
        kept = None if last is None else self._kept(self.read(path, last), mode, where)
        if where is not None:
            self._check_inside(df, where)
        new = -1 if last is None else last
        staged = Path(path, f".staging-{uuid.uuid4()}")
        try:
            (df if kept is None else kept.unionByName(df)).write.parquet(str(staged))
            staged.rename(Path(path, str(new + 1)))
        except FileExistsError:
            raise _lost_race(path) from None
        except OSError as error:
            raise _lost_race(path) if Path(path, str(new + 1)).exists() else error from None
        finally:
            shutil.rmtree(staged, ignore_errors=True)
        for old in sorted(self._versions(path))[:-PARQUET_VERSIONS_KEPT]:
            shutil.rmtree(Path(path, str(old)), ignore_errors=True)
        return Written(new + 1, rows)

    @staticmethod
    def _versions(path: str) -> list[int]:
        return [int(f.name) for f in Path(path).glob("*") if f.name.isdigit()] if Path(path).is_dir() else []

    @staticmethod
    def _kept(old: DataFrame, mode: Mode, where: Where | None) -> DataFrame | None:
        if mode == "append":
            return old
        return None if where is None else old.where(~_matches(where))

    @staticmethod
    def _check_inside(df: DataFrame, where: Where) -> None:
        outside = df.where(~_matches(where)).count()
        if outside:
            raise DataError(f"{outside} rows lie outside of what is to be replaced: {dict(where)}")


def _lost_race(path: str) -> NimcError:
    return NimcError(f"{path}: another writer committed first; this write changed nothing, run it again")


def _matches(where: Where) -> Column:
    """True where every column has its value; a null does not match."""
    tests = [F.coalesce(quoted(c).isin(_values(v)), F.lit(False)) for c, v in where.items()]
    return reduce(Column.__and__, tests)


def _values(value: Value | Sequence[Value]) -> list[Value]:
    return [value] if isinstance(value, str | int | date) else list(value)


def _sql_equals(column: str, value: Value | Sequence[Value]) -> str:
    return f"{quoted_name(column)} IN ({', '.join(_sql_literal(v) for v in _values(value))})"


def _sql_literal(value: Value) -> str:
    """The value as a SQL literal: Delta takes replaceWhere as text only."""
    if isinstance(value, date):
        return f"DATE '{value.isoformat()}'"
    if isinstance(value, int):
        return str(int(value))
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"
