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
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from functools import reduce
from pathlib import Path
from typing import Protocol

from pyspark.errors import AnalysisException
from pyspark.sql import Column, DataFrame, DataFrameWriter, Row, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.types import ArrayType, DataType, MapType, StructType, TimestampNTZType

from nimc_spark.engine.index import quoted, quoted_name
from nimc_spark.errors import ConflictError, DataError, SetupError, UsageError
from nimc_spark.io.contracts import TABLES, Table
from nimc_spark.io.failures import CONFLICTS, translated

Value = str | int | date
Where = Mapping[str, Value | Sequence[Value]]
"""Rows whose column has the value, or one of the values, for every column named."""

PARQUET_VERSIONS_KEPT = 10
_NO_TABLE = ("PATH_NOT_FOUND", "DELTA_TABLE_ONLY_OPERATION", "DELTA_PATH_DOES_NOT_EXIST", "DELTA_TABLE_NOT_FOUND")
_COMMITS_SEARCHED = 20
_URI = re.compile(r"^[A-Za-z][A-Za-z0-9+.-]*:")


@dataclass(frozen=True)
class Written:
    """One commit: its version, and the rows that it added."""

    version: int
    rows: int


class _Store(Protocol):
    def version(self, path: str) -> int | None: ...

    def read(self, path: str, version: int | None) -> DataFrame | None: ...

    def append(self, path: str, df: DataFrame, unless: Where | None, contract: Table) -> bool: ...

    def replace(self, path: str, df: DataFrame, where: Where | None, contract: Table) -> Written: ...


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

    def find(self, name: str) -> DataFrame | None:
        """The table, to be read at once: a later reading may find a later version. None if there is no such table."""
        return self._store.read(self.path(name), None)

    def read(self, name: str, version: int | None = None) -> DataFrame:
        """The table at `version`, else as `find` does. Raises DataError if there is none."""
        try:
            found = self.find(name) if version is None else self._store.read(self.path(name), version)
        except AnalysisException as error:
            if version is None:
                raise
            newest = self.version(name)
            raise DataError(f"table {name}: version {version} cannot be read; the newest is {newest}") from error
        if found is None:
            raise DataError(f"table {name}: there is none at {self.path(name)}; run the job that writes it first")
        return found

    def append(self, name: str, df: DataFrame, *, unless: Where | None = None) -> bool:
        """Adds the rows of `df` in one commit and says so; False, and nothing, where another writer came first.

        Of all who append with the same `unless`, which their rows match, at most one adds its rows, whenever they do.
        Raises as `write` does.
        """
        with self._writing(name, df) as contract:
            return self._store.append(self.path(name), df, unless, contract)

    def write(self, name: str, df: DataFrame, *, replace_where: Where | None = None) -> Written:
        """Replaces the whole table, its columns too, or the rows that match `replace_where`, as those of `df` must.

        It is one commit, before which a Delta table may get one that admits a type that is new to it.

        Raises:
            DataError: columns other than the table's contract, or rows outside `replace_where`.
            ConflictError: another writer committed to the same rows meanwhile; nothing was written.
            SetupError: the folder cannot be written.
        """
        with self._writing(name, df) as contract:
            return self._store.replace(self.path(name), df, replace_where, contract)

    @contextmanager
    def _writing(self, name: str, df: DataFrame) -> Iterator[Table]:
        contract = TABLES[name]
        contract.check(df.schema)
        try:
            yield contract
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

    def read(self, path: str, version: int | None) -> DataFrame | None:
        reader = self._spark.read.format("delta")
        if version is not None:
            return reader.option("versionAsOf", version).load(path)
        try:
            return reader.load(path)
        except AnalysisException as error:
            _check_missing(error)
            return None

    def append(self, path: str, df: DataFrame, unless: Where | None, contract: Table) -> bool:
        writer = self._writer(df, contract).mode("append")
        if unless is None:
            writer.save(path)
            return True
        mark = str(uuid.uuid4())
        # Delta lets the first transaction of an application id through and drops or fails those after it.
        once = writer.option("txnAppId", repr(sorted(unless.items()))).option("txnVersion", 1)
        try:
            once.option("userMetadata", mark).save(path)
        except CONFLICTS:
            return False
        return any(commit["userMetadata"] == mark for commit in self._last_commits(path, _COMMITS_SEARCHED))

    def replace(self, path: str, df: DataFrame, where: Where | None, contract: Table) -> Written:
        self._admit_types(path, df.schema)
        mark = str(uuid.uuid4())
        writer = self._writer(df, contract).mode("overwrite").option("userMetadata", mark)
        if where is not None:
            writer = writer.option("replaceWhere", " AND ".join(_sql_equals(c, v) for c, v in where.items()))
            # A table that an earlier version of the package wrote may lack a column of the contract.
            writer = writer.option("mergeSchema", "true")
        else:
            writer = writer.option("overwriteSchema", "true")
        writer.save(path)
        commits = self._last_commits(path, _COMMITS_SEARCHED)
        for commit in commits:
            if commit["userMetadata"] == mark:
                return Written(commit["version"], int((commit["operationMetrics"] or {}).get("numOutputRows", 0)))
        # Nothing replaced by nothing is no commit.
        return Written(commits[0]["version"], 0)

    def _admit_types(self, path: str, schema: StructType) -> None:
        """A table whose first rows had no timestamp without a zone takes one only after it was told to, in a commit of
        its own."""
        if not _has_time_without_zone(schema) or self.version(path) is None:
            return
        table = f"delta.{quoted_name(path)}"
        features = self._spark.sql(f"DESCRIBE DETAIL {table}").collect()[0]["tableFeatures"]
        if "timestampNtz" not in (features or ()):
            self._spark.sql(f"ALTER TABLE {table} SET TBLPROPERTIES ('delta.feature.timestampNtz' = 'supported')")

    def _last_commits(self, path: str, count: int) -> list[Row]:
        """Rows of the table's history, newest first; none if there is no table."""
        try:
            return self._spark.sql(f"DESCRIBE HISTORY delta.{quoted_name(path)} LIMIT {count}").collect()
        except AnalysisException as error:
            _check_missing(error)
            return []

    @staticmethod
    def _writer(df: DataFrame, contract: Table) -> DataFrameWriter:
        writer = df.write.format("delta").partitionBy(*contract.partition_by)
        # Attributes may have names with blanks and the like, which Delta takes only so, and only from the start.
        return writer.option("delta.columnMapping.mode", "name") if contract.open else writer


def _has_time_without_zone(kind: DataType) -> bool:
    """Whether values of the type are, or hold, timestamps without a zone."""
    inner: list[DataType] = []
    if isinstance(kind, StructType):
        inner = [field.dataType for field in kind.fields]
    elif isinstance(kind, ArrayType):
        inner = [kind.elementType]
    elif isinstance(kind, MapType):
        inner = [kind.keyType, kind.valueType]
    return isinstance(kind, TimestampNTZType) or any(map(_has_time_without_zone, inner))


def _check_missing(error: AnalysisException) -> None:
    """Raises an error that says anything but that there is no table: a damaged one must not pass for one to be made."""
    if error.getCondition() not in _NO_TABLE:
        raise error


class _Parquet:
    def __init__(self, spark: SparkSession) -> None:
        self._spark = spark

    def version(self, path: str) -> int | None:
        return max(self._versions(path), default=None)

    def read(self, path: str, version: int | None) -> DataFrame | None:
        found = self.version(path) if version is None else version
        return None if found is None else self._spark.read.parquet(f"{path}/{found}")

    def append(self, path: str, df: DataFrame, unless: Where | None, contract: Table) -> bool:
        last = self.version(path)
        old = self.read(path, last)
        if unless is not None and old is not None and not old.where(_matches(unless)).isEmpty():
            return False
        try:
            self._stage(path, last, df, old)
        except ConflictError:
            if unless is None:
                raise
            return False
        return True

    def replace(self, path: str, df: DataFrame, where: Where | None, contract: Table) -> Written:
        last = self.version(path)
        rows = df.count()
        kept = None
        if where is not None:
            self._check_inside(df, where)
            old = self.read(path, last)
            kept = None if old is None else old.where(~_matches(where))
        return Written(self._stage(path, last, df, kept), rows)

    def _stage(self, path: str, last: int | None, df: DataFrame, kept: DataFrame | None) -> int:
        """The version after `last`, of the rows of `df` and those kept."""
        new = 0 if last is None else last + 1
        staged = Path(path, f".staging-{uuid.uuid4()}")
        try:
            (df if kept is None else kept.unionByName(df, allowMissingColumns=True)).write.parquet(str(staged))
            staged.rename(Path(path, str(new)))
        except FileExistsError:
            raise _lost_race(path) from None
        except OSError as error:
            raise _lost_race(path) if Path(path, str(new)).exists() else error from None
        finally:
            shutil.rmtree(staged, ignore_errors=True)
        for old in sorted(self._versions(path))[:-PARQUET_VERSIONS_KEPT]:
            shutil.rmtree(Path(path, str(old)), ignore_errors=True)
        return new

    @staticmethod
    def _versions(path: str) -> list[int]:
        return [int(f.name) for f in Path(path).glob("*") if f.name.isdigit()] if Path(path).is_dir() else []

    @staticmethod
    def _check_inside(df: DataFrame, where: Where) -> None:
        outside = df.where(~_matches(where)).count()
        if outside:
            raise DataError(f"{outside} rows lie outside of what is to be replaced: {dict(where)}")


def _lost_race(path: str) -> ConflictError:
    return ConflictError(f"{path}: another writer committed first; this write changed nothing, run it again")


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
