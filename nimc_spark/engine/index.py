"""Ids and their places: parts, positions within a part, and ids of one table matched to another's type.

Ids stay what they are. A hash of an id decides where its row is computed, never what it is.
"""

from __future__ import annotations

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F
from pyspark.sql.types import (
    AtomicType,
    BooleanType,
    DataType,
    DatetimeType,
    FractionalType,
    LongType,
    NumericType,
    StringType,
    VariantType,
)

from nimc_spark.errors import DataError

RESERVED = "__nimc_"


def quoted_name(name: str) -> str:
    """The name as SQL reads it: dots, spaces and backticks in it are only characters."""
    return "`" + name.replace("`", "``") + "`"


def quoted(name: str) -> Column:
    """The column of exactly this name, whatever characters it has."""
    return F.col(quoted_name(name))


def check_names(df: DataFrame, where: str) -> None:
    """Raises DataError for columns that Spark cannot tell apart, and for names kept for the library's own columns."""
    lowered = [name.lower() for name in df.columns]
    twice = sorted({name for name, low in zip(df.columns, lowered, strict=True) if lowered.count(low) > 1})
    own = [name for name in df.columns if name.lower().startswith(RESERVED)]
    if twice:
        raise DataError(f"{where}: columns of one name, but for upper and lower case: {', '.join(twice)}")
    if own:
        raise DataError(f"{where}: columns {', '.join(own)}: {RESERVED}… is kept for inner use")


def id_type(df: DataFrame, name: str) -> DataType:
    """Native type of the id column `name`. Raises DataError for arrays, maps, structs and variants: they are no ids."""
    kind = df.schema[name].dataType
    if not isinstance(kind, AtomicType) or isinstance(kind, VariantType):
        raise DataError(
            f"the column {name!r} is {kind.simpleString()}: ids are single values, such as numbers, strings or dates"
        )
    return kind


def part_of(identifier: Column, parts: int) -> Column:
    """part = pmod(xxhash64(id as string), parts) as int: the same for an id held as int, long or string."""
    return F.pmod(F.xxhash64(identifier.cast("string")), F.lit(parts)).cast("int")


def index_ids(df: DataFrame, id_col: str, parts: int) -> DataFrame:
    """DataFrame(id, part int, position int): position = rank of the id within its part, from 0, in native order.

    `df` holds each id once. Which id gets which place depends on the ids and `parts` alone.
    """
    placed = df.select(quoted(id_col).alias("id")).withColumn("part", part_of(F.col("id"), parts))
    order = Window.partitionBy("part").orderBy("id")
    return placed.withColumn("position", F.row_number().over(order) - 1)


def align_id(identifier: Column, source: DataType, target: DataType) -> Column:
    """`identifier` in another table's id type, null where it has no exact counterpart there.

    7, 7L, 7.0 and "7" are one id; "07", 1.5 and "abc" are no integer. A value converts if the way back returns it.
    Raises DataError for types of which none converts, such as a date and an integer.
    """
    if source == target:
        return identifier
    if not _convertible(source, target):
        found, wanted = source.simpleString(), target.simpleString()
        raise DataError(f"ids are {found} in one table and {wanted} in another: no {found} is any {wanted}")
    converted = _cast(identifier, source, target)
    return F.when(_cast(converted, target, source) == identifier, converted)


def _convertible(source: DataType, target: DataType) -> bool:
    """Whether some value of a type may be one of the other: text with all, others within their kind."""
    kinds = ((NumericType, BooleanType), (DatetimeType,))
    text = any(isinstance(kind, StringType) for kind in (source, target))
    return text or any(isinstance(source, kind) and isinstance(target, kind) for kind in kinds)


def _cast(identifier: Column, source: DataType, target: DataType) -> Column:
    """null where there is no such value; a whole number that is held as float or double is written without a point."""
    cast = identifier.try_cast(target)
    if not isinstance(source, FractionalType) or not isinstance(target, StringType):
        return cast
    whole = identifier.try_cast(LongType())
    return F.when(whole.cast(source) == identifier, whole.cast(target)).otherwise(cast)
