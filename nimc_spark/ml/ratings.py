"""Ratings as training and scoring see them: columns by their roles, targets by the objective."""

from __future__ import annotations

from collections.abc import Mapping

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.types import NumericType

from nimc_spark.engine.index import check_names, id_type, quoted
from nimc_spark.engine.profile import LARGEST
from nimc_spark.errors import DataError, UsageError
from nimc_spark.ml.params import NIMCParams
from nimc_spark.ml.sides import read_table

_PAIR = {"user": "userCol", "item": "itemCol", "rating": "ratingCol"}
_RATING = _PAIR | {"weight": "weightCol", "offset": "offsetCol"}


def context_ratings(params: NIMCParams, held: DataFrame | None, spark: SparkSession) -> DataFrame:
    """DataFrame(user, item, rating) of the ratings that are known when scoring, as training would see them: those held,
    else contextTable.

    Raises UsageError if there are none, DataError for ratings that are null or not finite.
    """
    name = params.optional("contextTable")
    if held is None and name is None:
        raise UsageError("this model scores by histories: give the known ratings with setContext or contextTable")
    ratings = canonical_ratings(params, read_table(spark, name) if held is None else held, _PAIR)
    broken = ratings.where(~(F.abs(F.coalesce("rating", F.lit(float("nan")))) <= LARGEST)).count()
    if broken:
        raise DataError(
            f"the context has {broken} ratings that are null, NaN, infinite or beyond {LARGEST:g}; leave them out"
        )
    return targets(params, ratings)


def canonical_ratings(params: NIMCParams, dataset: DataFrame, roles: Mapping[str, str] = _RATING) -> DataFrame:
    """DataFrame(user, item, rating[, weight][, offset]) of the columns that the Params name."""
    check_names(dataset, "the ratings")
    names = {role: params.optional(param) for role, param in roles.items()}
    used = {role: name for role, name in names.items() if name is not None}
    missing = [f"{roles[role]} = {name!r}" for role, name in used.items() if name not in dataset.columns]
    if missing:
        raise DataError(f"the ratings have no column {', '.join(missing)}; they have: {', '.join(dataset.columns)}")
    columns = []
    for role, name in used.items():
        kind = dataset.schema[name].dataType
        if role in ("user", "item"):
            id_type(dataset, name)  # raises for what is no id
            columns.append(quoted(name).alias(role))
        elif not isinstance(kind, NumericType):
            raise DataError(f"the column {name!r} ({roles[role]}) is {kind.simpleString()}; it must be a number")
        else:
            columns.append(quoted(name).cast("double").alias(role))
    return dataset.select(*columns)


def targets(params: NIMCParams, ratings: DataFrame) -> DataFrame:
    """The canonical ratings as training sees them: for ranking 1 for a positive, 0 for another."""
    if not params.ranks:
        return ratings
    threshold = params.optional("positiveFrom")
    # NaN is above every number, and null is null: both stay what they are, to be refused.
    positive = F.lit(1.0) if threshold is None else (F.col("rating") >= threshold).cast("double")
    return ratings.withColumn("rating", F.when(F.abs("rating") < float("inf"), positive).otherwise(F.col("rating")))
