"""The column `reasons` of lists and predictions."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from nimc_spark.engine.context import held
from nimc_spark.engine.reasons import REASONS_TYPE
from nimc_spark.io.contracts import ITEM, USER
from nimc_spark.ml import NIMCModel


@contextmanager
def explained(model: NIMCModel, rows: DataFrame, n: int) -> Iterator[DataFrame]:
    """`rows`(user_id, item_id, …) with the n reasons of each, computed once and kept by Spark; or null for n = 0."""
    if n == 0:
        yield rows.withColumn("reasons", F.lit(None).cast(REASONS_TYPE))
        return
    with held(rows.join(model.reasons(rows, n), [USER, ITEM], "left")) as found:
        yield found
