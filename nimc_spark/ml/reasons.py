"""Why pairs have their scores: the reasons of both sides in one list."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from nimc_spark.engine.reasons import REASONS_TYPE, FeatureNames, side_reasons, strongest
from nimc_spark.kernels.model import SideName
from nimc_spark.ml.training import Trained


def pair_reasons(
    trained: Trained,
    rows: Mapping[SideName, DataFrame],
    factors: Mapping[SideName, DataFrame],
    pairs: DataFrame,
    n: int,
) -> DataFrame:
    """DataFrame(user, item, reasons) of each of the distinct `pairs`(user, item), the n that add most.

    `rows` are the `known_rows` of their users and items, `factors` DataFrame(id, factors) of these. A side without a
    row has no reasons, and counts as average for those of the other. Null is an id too: one that the model has not.
    """
    result = pairs
    for side in SideName:
        own, other = side.one, side.other.one
        average = F.array(*map(F.lit, trained.sides[side.other].default))
        asked = pairs.select(F.col(other).alias("other")).distinct()
        known = factors[side.other].select(F.col("id").alias("other"), "factors")
        partners = asked.join(known, "other", "left").select("other", F.coalesce("factors", average).alias("factors"))
        paired = pairs.select(F.col(own).alias("id"), F.col(other).alias("other"))
        found = side_reasons(trained.sides[side], rows[side], paired, partners, _names(trained, side), n)
        renamed = found.withColumnsRenamed({"id": "own", "reasons": side.value})
        same = [F.col(own).eqNullSafe(F.col("own")), F.col(other).eqNullSafe(F.col("other"))]
        result = result.join(renamed, same, "left").drop("own", "other")
    lists = (F.coalesce(F.col(side.value), F.array().cast(REASONS_TYPE)) for side in SideName)
    return result.select(*(side.one for side in SideName), strongest(F.concat(*lists), n).alias("reasons"))


def _names(trained: Trained, side: SideName) -> FeatureNames:
    fitted = trained.features[side]
    labels = tuple(name for group in fitted.groups for name in group.columns)
    histories = trained.sides[side].history is not None
    others = _as_text(trained.sides[side.other].ids) if histories else pa.array([], pa.string())
    return FeatureNames(labels, fitted.constants, others)


def _as_text(ids: pa.Table) -> pa.Array:
    """The ids of a side in their order as Spark writes them; binary ones in hexadecimal digits."""
    binary = pa.types.is_binary(ids.schema.field("id").type)
    place = pa.array(np.arange(ids.num_rows))
    frame = SparkSession.active().createDataFrame(ids.select(["id"]).append_column("place", place))
    text = F.hex("id") if binary else F.col("id").cast("string")
    return frame.select("place", text.alias("text")).toArrow().sort_by("place").column("text").combine_chunks()
