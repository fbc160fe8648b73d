"""Raw rows whose declared features no model can take, each with its reason."""

from __future__ import annotations

from collections.abc import Sequence

from pyspark.sql import DataFrame

from nimc_spark.data.declarations import Declaration
from nimc_spark.engine.feature_checks import check_columns, length_faults, value_faults, width_counts
from nimc_spark.errors import DataError
from nimc_spark.io.quarantine import Faults
from nimc_spark.io.sources import CORRUPT


def feature_faults(df: DataFrame, id_col: str, declarations: Sequence[Declaration], where: str) -> Faults:
    """Conditions on the rows of `df` for the declared columns; one Spark job if a vector or array passes through.

    The length of such a column is the one that most rows have (of equally many the shortest).

    Raises:
        DataError: a declared column that is missing, or of a type that its kind cannot read.
    """
    try:
        check_columns(df.drop(CORRUPT), id_col, declarations)
    except DataError as error:
        raise DataError(f"{where}: {error}") from None
    widths = {
        name: min(((-rows, width) for width, rows in counts.items() if width is not None), default=(0, 0))[1]
        for name, counts in width_counts(df, declarations).items()
    }
    return [*length_faults(df, declarations, widths), *value_faults(df, declarations)]
