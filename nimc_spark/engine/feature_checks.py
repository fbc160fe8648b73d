"""What is wrong with the columns and rows of an attribute table, before any feature is fitted or applied.

Columns are checked by schema alone; what is wrong with a row is a Column, so that callers can quarantine it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from functools import reduce

from pyspark.ml.linalg import VectorUDT
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql.types import (
    ArrayType,
    AtomicType,
    BinaryType,
    BooleanType,
    DataType,
    NumericType,
    StringType,
)

from nimc_spark.data.declarations import Bucketize, Cross, Declaration, MultiHot, Numeric, OneHot, Passthrough
from nimc_spark.engine.index import quoted
from nimc_spark.engine.vectors import has_unusable
from nimc_spark.errors import DataError

RowFaults = Iterator[tuple[Column, str]]
"""Conditions on rows that are never null, each with its reason; it names the column."""


def check_columns(df: DataFrame, id_col: str, declarations: Sequence[Declaration]) -> None:
    """Raises DataError if a column that is needed is missing or has a type its declaration cannot read."""
    needed = dict.fromkeys([id_col, *(name for declaration in declarations for name in declaration.sources)])
    missing = [name for name in needed if name not in df.columns]
    if missing:
        raise DataError(f"missing columns {missing} in the attribute table; present: {df.columns}")
    for declaration in declarations:
        for name in declaration.sources:
            _check_type(name, declaration, df.schema[name].dataType)


def vector_columns(df: DataFrame, declarations: Sequence[Declaration]) -> list[str]:
    """Passthrough columns of vectors or arrays."""
    found = (
        name
        for declaration in declarations
        if isinstance(declaration, Passthrough)
        for name in declaration.sources
        if _is_vector(df.schema[name].dataType)
    )
    return list(dict.fromkeys(found))


def value_faults(df: DataFrame, declarations: Sequence[Declaration]) -> RowFaults:
    """Rows with a declared number that is NaN or infinite, or a passthrough number or entry that is null."""
    for declaration in declarations:
        if not isinstance(declaration, Numeric | Bucketize | Passthrough):
            continue
        for name in declaration.sources:
            column = quoted(name)
            if _is_vector(df.schema[name].dataType):
                yield has_unusable(_values(df, name)), f"non-finite {name}"
                continue
            if isinstance(declaration, Passthrough):
                yield column.isNull(), f"null {name}"
            yield column.isNotNull() & _unusable(column), f"non-finite {name}"


def non_finite(df: DataFrame, declarations: Sequence[Declaration]) -> Column:
    """True where any of `value_faults` holds; never null."""
    return reduce(Column.__or__, (condition for condition, _ in value_faults(df, declarations)), F.lit(False))


def length_faults(df: DataFrame, declarations: Sequence[Declaration], widths: Mapping[str, int]) -> RowFaults:
    """Rows with a passthrough vector or array that is null or of another length than `widths` says."""
    for name in vector_columns(df, declarations):
        yield quoted(name).isNull(), f"null {name}"
        yield ~width_of(df, name).eqNullSafe(F.lit(widths[name])), f"length of {name} is not {widths[name]}"


def width_counts(df: DataFrame, declarations: Sequence[Declaration]) -> dict[str, dict[int | None, int]]:
    """Rows by length, None for null, of each passthrough vector or array column; no Spark job if there is none."""
    names = vector_columns(df, declarations)
    if not names:
        return {}
    lengths = F.explode(
        F.array(*[F.struct(F.lit(k).alias("k"), width_of(df, n).alias("w")) for k, n in enumerate(names)])
    )
    rows = df.select(lengths.alias("row")).groupBy("row.k", "row.w").count().collect()
    counts: dict[str, dict[int | None, int]] = {name: {} for name in names}
    for position, width, count in rows:
        counts[names[position]][width] = count
    return counts


def width_of(df: DataFrame, name: str) -> Column:
    """Length of a vector or array, null for null."""
    column = quoted(name)
    if isinstance(df.schema[name].dataType, ArrayType):
        return F.array_size(column)
    vector = F.unwrap_udt(column)
    return F.coalesce(vector["size"], F.array_size(vector["values"]))


def _check_type(name: str, declaration: Declaration, data_type: DataType) -> None:
    match declaration:
        case Cross(splits=splits) if name in splits:
            fits, allowed = _is_number(data_type), "a number or a boolean where it has splits"
        case OneHot() | Cross():
            fits, allowed = _is_category(data_type), "text, a number, a boolean, a date or a time"
        case MultiHot(separator=None):
            fits = isinstance(data_type, ArrayType) and _is_category(data_type.elementType)
            allowed = "an array of text or numbers, or text with a separator declared"
        case MultiHot():
            fits, allowed = isinstance(data_type, StringType), "text, or an array with no separator declared"
        case Passthrough(columns=()):
            numbers = data_type.elementType if isinstance(data_type, ArrayType) else data_type
            fits = isinstance(data_type, VectorUDT) or _is_number(numbers)
            allowed = "a vector, an array of numbers or a number"
        case _:
            fits, allowed = _is_number(data_type), "a number or a boolean"
    if not fits:
        found = data_type.simpleString()
        raise DataError(f"column {name!r} is {found}; a feature of kind {declaration.kind} needs {allowed}")


def _is_vector(data_type: DataType) -> bool:
    return isinstance(data_type, VectorUDT | ArrayType)


def _is_number(data_type: DataType) -> bool:
    return isinstance(data_type, NumericType | BooleanType)


def _is_category(data_type: DataType) -> bool:
    return isinstance(data_type, AtomicType) and not isinstance(data_type, BinaryType)


def _values(df: DataFrame, name: str) -> Column:
    """Entries of an array, or the stored entries of a vector; null for null."""
    column = quoted(name)
    return column if isinstance(df.schema[name].dataType, ArrayType) else F.unwrap_udt(column)["values"]


def _unusable(number: Column) -> Column:
    """True for null, NaN and ±inf. Spark orders NaN above every number, so it is not below infinity."""
    return ~F.coalesce(F.abs(number.cast("double")) < F.lit(math.inf), F.lit(False))
