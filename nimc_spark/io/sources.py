"""Reading raw tables with a declared schema: CSV, JSON, Parquet, Delta.

A CSV with a header is matched by name: each column of the schema must be in the header, in any order, and other columns
are left out. With the reader's option `enforceSchema: true` its header is skipped and the schema holds by position, as
in a CSV without one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import cast

from py4j.protocol import Py4JJavaError
from pyspark.errors import PySparkException
from pyspark.sql import DataFrame, DataFrameReader, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.types import StringType, StructField, StructType

from nimc_spark.engine.index import quoted
from nimc_spark.errors import DataError, UsageError
from nimc_spark.io.failures import in_one_line, translated

CORRUPT = "__nimc_corrupt"
"""Column with the text of a row that could not be parsed by the schema; null for the others."""

_OURS = {
    name.lower()
    for name in ("mode", "columnNameOfCorruptRecord", "badRecordsPath", "columnPruning", "inferSchema", "path")
}
# Spark reads the values of these when the rows are read, and any but these two is an error then.
_FLAGS = ("header", "enforceSchema", "multiLine", "ignoreLeadingWhiteSpace", "ignoreTrailingWhiteSpace", "preferDate")


@dataclass(frozen=True)
class Source:
    """One raw table: where it is, csv, json, parquet or delta, Spark's reader options, and its columns as DDL."""

    path: str
    format: str = "csv"
    options: Mapping[str, str] = field(default_factory=dict)
    schema: str | None = None


def check_options(options: Mapping[str, str]) -> None:
    """Raises UsageError for options that `read_source` sets itself, and for flags that are neither true nor false."""
    flags = {flag.lower(): flag for flag in _FLAGS}
    for name, value in options.items():
        if name.lower() in flags and value.lower() not in ("true", "false"):
            raise UsageError(f"option {name} = {value!r}: must be true or false")
    taken = sorted(name for name in options if name.lower() in _OURS)
    if taken:
        raise UsageError(f"option {', '.join(taken)}: set by the reader itself, so that no row is lost; leave it out")


def read_source(spark: SparkSession, name: str, source: Source, needed: Sequence[str] = ()) -> DataFrame:
    """The raw table with the columns of its schema and `CORRUPT`.

    Args:
        name: what errors call the table, such as "ratings".
        needed: columns that must be there.

    Raises:
        DataError: no such path, a file that cannot be read, columns that are missing or of another type than declared.
    """
    where = f"{name} ({source.path})"
    try:
        declared = None if source.schema is None else cast(StructType, StructType.fromDDL(source.schema))
        if source.format in ("csv", "json"):
            if declared is None:
                raise UsageError(f"{where}: format {source.format} needs a schema")
            df = _read_text(spark, where, source, declared)
        else:
            df = _read_typed(spark, where, source, declared)
    except Exception as error:
        known = translated(error, where)
        if known is error:
            raise
        if known is None and isinstance(error, PySparkException | Py4JJavaError):
            # Options, schemas and paths are the user's: what Spark says of them is about the source.
            known = DataError(f"{where} cannot be read: {in_one_line(error)}")
        if known is None:
            raise
        raise known from error
    present = [column for column in df.columns if column != CORRUPT]
    _check_present(where, needed, present)
    _check_unique(where, present)
    return df


def _read_text(spark: SparkSession, where: str, source: Source, declared: StructType) -> DataFrame:
    options = {key.lower(): value for key, value in source.options.items()}
    schema = declared
    reader = (
        spark.read.options(**source.options).option("mode", "PERMISSIVE").option("columnNameOfCorruptRecord", CORRUPT)
    )
    if source.format == "csv":
        # With pruning a row of too few or too many columns would pass unseen.
        reader = reader.option("columnPruning", "false")
        # As other tools write CSV: a quote within quotes is doubled.
        reader = reader.option("escape", options.get("escape", '"'))
        if options.get("header", "").lower() == "true" and "enforceschema" not in options:
            schema = _in_header_order(spark.read.options(**source.options), where, source, declared)
            reader = reader.option("enforceSchema", "false")
    corrupt = StructField(CORRUPT, StringType())
    df = reader.schema(StructType([*schema.fields, corrupt])).format(source.format).load(source.path)
    return df.select(*(quoted(column) for column in declared.names), CORRUPT)


def _in_header_order(reader: DataFrameReader, where: str, source: Source, declared: StructType) -> StructType:
    """The file's columns in its own order, with the declared types; those that were not declared as text."""
    header = reader.option("inferSchema", "false").csv(source.path).columns
    if not header:
        raise DataError(f"{where}: is empty: not even a header")
    _check_header(reader, where, source.path, header)
    _check_present(where, declared.names, header)
    types = {f.name: f.dataType for f in declared.fields}
    return StructType([StructField(column, types.get(column, StringType())) for column in header])


def _check_header(reader: DataFrameReader, where: str, path: str, header: Sequence[str]) -> None:
    """Raises DataError for columns without a name, or of one name. Spark reads a header that it has made up names for,
    which end with the column's place, and then finds that it is not the file's."""
    if not any(column.endswith(str(place)) for place, column in enumerate(header)):
        return
    first = reader.option("header", "false").csv(path).first()
    names = [] if first is None else [str(name or "").lower() for name in first]
    unnamed = [str(place) for place, name in enumerate(names, start=1) if not name]
    twice = sorted({name for name in names if name and names.count(name) > 1})
    if unnamed:
        raise DataError(
            f"{where}: column {', '.join(unnamed)} has no name in the header: name it, or leave it out "
            "(pandas: to_csv(index=False))"
        )
    if twice:
        raise DataError(f"{where}: column {', '.join(twice)} is in the header twice (upper and lower case are one)")


def _read_typed(spark: SparkSession, where: str, source: Source, declared: StructType | None) -> DataFrame:
    df = spark.read.options(**source.options).format(source.format).load(source.path)
    if declared is not None:
        _check_present(where, declared.names, df.columns)
        types = {f.name: f.dataType.simpleString() for f in df.schema.fields}
        wrong = [
            f"{f.name} is {types[f.name]}, declared {f.dataType.simpleString()}"
            for f in declared.fields
            if types[f.name] != f.dataType.simpleString()
        ]
        if wrong:
            raise DataError(f"{where}: {'; '.join(wrong)}: change the schema in the config, or the data")
        df = df.select(*(quoted(column) for column in declared.names))
    return df.withColumn(CORRUPT, F.lit(None).cast("string"))


def _check_present(where: str, needed: Sequence[str], present: Sequence[str]) -> None:
    missing = [column for column in needed if column not in present]
    if missing:
        raise DataError(f"{where}: missing column {', '.join(missing)}; present: {', '.join(present)}")


def _check_unique(where: str, present: Sequence[str]) -> None:
    lowered = [column.lower() for column in present]
    twice = sorted({column for column in lowered if lowered.count(column) > 1})
    if twice:
        raise DataError(
            f"{where}: column {', '.join(twice)} is there twice (upper and lower case are the same to Spark)"
        )
