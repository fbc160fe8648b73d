"""Writes every user's K best items for one run_date, in one commit that replaces that date's rows, if gates hold."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql.types import DataType, DateType, DoubleType, IntegralType

from jobs._filters import read_filters
from jobs._gates import list_checks, require, unknown_checks
from jobs._job import Context, Result, run_job
from jobs._reasons import explained
from jobs._samples import samples
from jobs._tables import Tables, read_tables, shared_model
from nimc_spark.engine.context import held
from nimc_spark.engine.list_checks import ListMeasures, measure_lists, overlap, score_drift
from nimc_spark.errors import DataError
from nimc_spark.io.contracts import ITEM, USER
from nimc_spark.kernels.model import SideName
from nimc_spark.ml import NIMCModel
from nimc_spark.ml.model import RANKS_BY_RATINGS


def body(context: Context) -> Result:
    config = context.config
    entry = context.entry or context.registry.resolve(config.score.model)
    with context.stage("read"):
        tables = read_tables(context)
        model = shared_model(context, entry.path, tables, training_only=False)
        seen = tables.ratings.select(F.col(USER).alias("user"), F.col(ITEM).alias("item"))
    with ExitStack() as kept:
        with context.stage("score"):
            users = kept.enter_context(held(_everyone(tables)))
            context.kept.enter_context(model.heldFactors())
            filters = read_filters(context, model)
            chosen = filters.recommend(model, config.score.k, users, seen if config.score.exclude_seen else None)
            lists = kept.enter_context(held(chosen))
            item_count = (model.factors(SideName.ITEMS) if filters.items is None else filters.items).count()
            measures = measure_lists(lists, config.score.k, item_count)
            counts = {**filters.counts, **_counts(measures, users.count(), config.score.k)}
        context.counts |= counts
        with context.stage("gates"):
            checks = list_checks(config.gates, measures, counts, item_count, _changes(context, lists))
            if config.gates.unknown_values is not None:
                checks += unknown_checks(config.gates, _unseen(model, tables))
            named = lists.withColumnsRenamed({"user": USER, "item": ITEM})
            if not all(check.holds for check in checks):
                # Whoever decides about the gate sees some of them.
                context.samples += samples(config, named.withColumn("reasons", F.lit(None)), tables.items)
            require(context, "nothing was published", checks)
        with context.stage("write"):
            rows = kept.enter_context(explained(model, named, config.score.reasons))
            # Readers look a user up: files hold ranges of users.
            ranges = rows.repartitionByRange(USER).sortWithinPartitions(USER, "rank")
            # What is alike in all rows comes after they were shuffled and sorted.
            published = _rows(context, ranges, entry.version)
            written = context.lake.write("recommendations", published, replace_where={"run_date": context.run_date})
            context.samples += samples(config, rows, tables.items)
    counts["recommendations"] = written.rows
    if not model.ranks:
        context.warnings.append(RANKS_BY_RATINGS)
    versions = {**tables.versions, "recommendations": written.version}
    paths = {"recommendations": context.lake.path("recommendations")}
    return Result(counts, {}, paths, versions, {"model_version": entry.version})


def _changes(context: Context, lists: DataFrame) -> dict[str, float]:
    """By gate that has a limit, what is measured against the lists of the last date; empty if there are none."""
    known = {"overlap": overlap, "score_drift": score_drift}
    limited = {gate: change for gate, change in known.items() if getattr(context.config.gates, gate) is not None}
    before = _before(context, lists) if limited else None
    return {} if before is None else {gate: change(lists, before) for gate, change in limited.items()}


def _unseen(model: NIMCModel, tables: Tables) -> list[tuple[str, Mapping[str, Mapping[str, int]]]]:
    """Values that training had not seen, by side and column, of every member of the model."""
    frames = {SideName.USERS: tables.users, SideName.ITEMS: tables.items}
    fitted = [member.trained.features for member in model.members.values()]
    return [(s.value, own[s].unseen_counts(df)) for own in fitted for s, df in frames.items() if df is not None]


def _before(context: Context, lists: DataFrame) -> DataFrame | None:
    """The lists of the last date before this one. Raises DataError where they cannot be compared with `lists`."""
    published = context.lake.find("recommendations")
    if published is None:
        return None
    own: dict[str, DataType] = {"run_date": DateType(), "score": DoubleType()}
    own |= {USER: lists.schema["user"].dataType, ITEM: lists.schema["item"].dataType}
    there = {field.name: field.dataType for field in published.schema}
    faults = [
        f"{name} is {there[name].simpleString() if name in there else 'missing'}, now {kind.simpleString()}"
        for name, kind in own.items()
        # Whole numbers of two sizes are compared, and kept, as the larger.
        if there.get(name) != kind and not all(isinstance(k, IntegralType) for k in (kind, there.get(name)))
    ]
    if faults:
        path = context.lake.path("recommendations")
        raise DataError(f"table recommendations: {'; '.join(faults)}: one table has one type; move {path} away")
    earlier = published.where(F.col("run_date") < F.lit(context.run_date))
    last = earlier.agg(F.max("run_date")).collect()[0][0]
    if last is None:
        return None
    lists = published.where(F.col("run_date") == F.lit(last))
    return lists.select(F.col(USER).alias("user"), F.col(ITEM).alias("item"), "score")


def _counts(measures: ListMeasures, users: int, k: int) -> dict[str, int]:
    """Users, and by how much lists, of which some may have no row at all, are shorter than k."""
    short, missing = users - measures.full, k * users - measures.wanted
    return {"users_scored": users, "users_with_short_lists": short, "recommendations_missing": missing}


def _everyone(tables: Tables) -> DataFrame:
    """Every user that has attributes or a rating, once: nobody is left out."""
    known = tables.ratings.select(USER)
    return (known if tables.users is None else known.union(tables.users.select(USER))).distinct()


def _rows(context: Context, lists: DataFrame, version: int) -> DataFrame:
    columns: list[Column | str] = [
        F.lit(context.run_date).alias("run_date"),
        USER,
        "rank",
        ITEM,
        "score",
        "score_source",
        "reasons",
        F.lit(version).alias("model_version"),
        F.lit(context.run_id).alias("run_id"),
    ]
    return lists.select(*columns)


def main(argv: Sequence[str]) -> int:
    return run_job("score", argv, body, __doc__ or "")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
