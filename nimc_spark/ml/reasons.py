"""Why pairs have their scores: the reasons of both sides in one list."""

from __future__ import annotations

from collections.abc import Mapping

import pyarrow as pa
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from nimc_spark.engine.factors import factor_rows
from nimc_spark.engine.reasons import REASONS_DDL, ColumnNames, side_reasons, strongest
from nimc_spark.kernels.model import SideName
from nimc_spark.ml.training import Trained

_COLUMN = {SideName.USERS: "user", SideName.ITEMS: "item"}


def pair_reasons(trained: Trained, rows: Mapping[SideName, DataFrame], pairs: DataFrame, n: int) -> DataFrame:
    """DataFrame(user, item, reasons) of each of the distinct `pairs`(user, item), the n that add most.

    `rows` are the `known_rows` of their users and items; a side without a row has no reasons, and counts as average for
    those of the other.
    """
    result = pairs
    for side, own in _COLUMN.items():
        other = _COLUMN[side.other]
        partners = factor_rows(trained.sides[side.other], rows[side.other]).select(
            F.col("id").alias("other"), "factors"
        )
        average = F.array(*map(F.lit, trained.sides[side.other].default))
        paired = pairs.select(F.col(own).alias("id"), F.col(other).alias("other")).join(partners, "other", "left")
        paired = paired.select("id", "other", F.coalesce("factors", average).alias("factors"))
        found = side_reasons(trained.sides[side], rows[side], paired, _names(trained, side), n)
        renamed = found.withColumnsRenamed({"id": own, "other": other, "reasons": side.value})
        result = result.join(renamed, [own, other], "left")
    lists = (F.coalesce(F.col(side.value), F.array().cast(REASONS_DDL)) for side in SideName)
    return result.select(*_COLUMN.values(), strongest(F.concat(*lists), n).alias("reasons"))


def _names(trained: Trained, side: SideName) -> ColumnNames:
    labels = tuple(name for group in trained.features[side].groups for name in group.columns)
    if trained.sides[side].history is None:
        return ColumnNames(labels, pa.array([], pa.string()))
    others = trained.sides[side.other].ids.column("id").combine_chunks()
    return ColumnNames(labels, others.cast(pa.string()))
