"""Scores of given (user, item) pairs from two factor tables; every pair gets one.

    score(i, j) = Σ_c p_ic q_jc

A factor table is DataFrame(id <native type>, factors array<double> of one width, source string), each id once;
source is "model" or "baseline". The sum runs in column order: same bits as the top-K kernel.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql.pandas.functions import arrow_udf

from nimc_spark.engine.index import align_id, id_type, quoted
from nimc_spark.errors import UsageError
from nimc_spark.kernels.topk import dot_columns

MODEL = "model"
BASELINE = "baseline"
SCORE_SOURCE = "score_source"


def factor_matrix(factors: pa.ListArray) -> NDArray[np.float64]:
    """The (n, c) float64 matrix of n factor rows; all rows must have one width and no nulls."""
    widths = np.diff(factors.offsets.to_numpy())
    if factors.null_count or factors.values.null_count or (widths != widths[:1]).any():
        raise ValueError("factor rows must all have the same width and no nulls")
    return np.asarray(factors.flatten().to_numpy()).reshape(len(factors), int(widths[0]) if len(widths) else 0)


def _dot(user_factors: pa.Array, item_factors: pa.Array) -> pa.Array:
    return pa.array(dot_columns(factor_matrix(user_factors), factor_matrix(item_factors)))


def dot_product(user_factors: Column, item_factors: Column) -> Column:
    """Σ_c p_c q_c in column order, of columns array<double> without nulls."""
    product: Column = arrow_udf(_dot, "double")(user_factors, item_factors)  # type: ignore[call-overload]
    return product


def combined_source(user_source: Column, item_source: Column) -> Column:
    """ "model" if both sides come from the model, else "baseline"."""
    return F.when((user_source == MODEL) & (item_source == MODEL), MODEL).otherwise(BASELINE)


def clipped(score: Column, clip: tuple[float, float] | None) -> Column:
    """`score` within `clip` = (lo, hi); as it is without."""
    return score if clip is None else F.greatest(F.lit(float(clip[0])), F.least(F.lit(float(clip[1])), score))


def score_pairs(
    pairs: DataFrame,
    user_col: str,
    item_col: str,
    users: DataFrame,
    items: DataFrame,
    user_default: Sequence[float],
    item_default: Sequence[float],
    prediction_col: str,
    source_col: str = SCORE_SOURCE,
    clip: tuple[float, float] | None = None,
    source_of: Callable[[Column, Column], Column] = combined_source,
) -> DataFrame:
    """The pairs' columns and rows, all kept, with `prediction_col` (double) and `source_col` (string) added.

    A null id, or one that its factor table does not hold, gets the side's default row and source "baseline".
    `source_of` makes a pair's source of those of its two rows, null for no row. `clip` = (lo, hi) bounds the
    predictions. Raises UsageError if the two sides have different widths, or if a new column's name is already there.
    """
    if len(user_default) != len(item_default):
        raise UsageError(f"user factors have width {len(user_default)}, item factors {len(item_default)}: must agree")
    for name in (prediction_col, source_col):
        if name.lower() in map(str.lower, pairs.columns):
            raise UsageError(f"column {name!r} is already in the pairs: choose another name for the scores' column")
    kept = [quoted(name) for name in pairs.columns]
    joined = _with_factors(_with_factors(pairs, "user", user_col, users), "item", item_col, items)
    score = clipped(dot_product(_factors_or("user", user_default), _factors_or("item", item_default)), clip)
    source = source_of(F.col("__nimc_user_source"), F.col("__nimc_item_source"))
    return joined.select(*kept, score.alias(prediction_col), source.alias(source_col))


def _with_factors(pairs: DataFrame, side: str, column: str, table: DataFrame) -> DataFrame:
    prefix = f"__nimc_{side}"
    factors = table.select(*[F.col(name).alias(f"{prefix}_{name}") for name in ("id", "factors", "source")])
    key = align_id(quoted(column), id_type(pairs, column), id_type(table, "id"))
    keyed = pairs.withColumn(f"{prefix}_key", key)
    return keyed.join(factors, F.col(f"{prefix}_key") == F.col(f"{prefix}_id"), "left")


def _factors_or(side: str, default: Sequence[float]) -> Column:
    fallback = F.array(*[F.lit(float(value)) for value in default]).cast("array<double>")
    return F.coalesce(F.col(f"__nimc_{side}_factors"), fallback)
