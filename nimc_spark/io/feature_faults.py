"""Values of declared features that no model can take: not finite, or a vector of another length than the others."""

from __future__ import annotations

from collections.abc import Sequence

from pyspark.ml.functions import vector_to_array
from pyspark.ml.linalg import VectorUDT
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql.types import ArrayType, BooleanType, NumericType

from nimc_spark.data.declarations import Declaration
from nimc_spark.engine.index import quoted
from nimc_spark.errors import DataError
from nimc_spark.io.quarantine import Faults


def feature_faults(df: DataFrame, declarations: Sequence[Declaration], where: str) -> Faults:
    """Conditions on the rows of `df` for the declared columns, each with its reason.

    The length of a vector column is the one that most rows have (of equally many the shortest).

    Raises:
        DataError: a declared column that is missing, or not a number, vector or array where one is needed.
    """
    names = [name for declaration in declarations for name in declaration.sources]
    missing = [name for name in names if name not in df.columns]
    if missing:
        present = ", ".join(column for column in df.columns if not column.startswith("__nimc_"))
        raise DataError(f"{where}: features name a column that is missing: {', '.join(missing)}; present: {present}")
    faults: list[tuple[Column, str]] = []
    for declaration in declarations:
        if declaration.kind in ("numeric", "bucketize", "passthrough"):
            for name in declaration.sources:
                faults += _number_faults(df, name, declaration.kind, where)
    return faults


def _number_faults(df: DataFrame, name: str, kind: str, where: str) -> Faults:
    column, data_type = quoted(name), df.schema[name].dataType
    if isinstance(data_type, NumericType | BooleanType):
        return [(_not_finite(column.cast("double")), f"non-finite {name}")]
    is_array = isinstance(data_type, ArrayType) and isinstance(data_type.elementType, NumericType)
    if kind != "passthrough" or not (is_array or isinstance(data_type, VectorUDT)):
        wanted = "a number, a vector or an array of numbers" if kind == "passthrough" else "a number"
        raise DataError(f"{where}: column {name} is {data_type.simpleString()}, and {kind} needs {wanted}")
    values = column.cast("array<double>") if is_array else vector_to_array(column)
    width = _usual_width(df, values)
    return [
        (column.isNull(), f"null {name}"),
        (F.size(values) != width, f"length of {name} is not {width}"),
        (F.exists(values, lambda x: x.isNull() | _not_finite(x)), f"non-finite {name}"),
    ]


def _usual_width(df: DataFrame, values: Column) -> int:
    widths = df.select(F.size(values).alias("width")).where("width >= 0").groupBy("width").count().collect()
    return int(min(((-row["count"], row["width"]) for row in widths), default=(0, 0))[1])


def _not_finite(column: Column) -> Column:
    return F.isnan(column) | (F.abs(column) == float("inf"))
