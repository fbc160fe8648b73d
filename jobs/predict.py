"""Scores pairs, or gives new users (or all users, with new items) their best items, from raw attributes alone."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from jobs._config import Source
from jobs._job import Context, Result, run_job
from jobs._samples import samples
from jobs._tables import Tables, load_model, read_tables
from nimc_spark.engine.index import quoted
from nimc_spark.errors import DataError, UsageError
from nimc_spark.io.contracts import ITEM, USER
from nimc_spark.io.prepare import classify_attributes
from nimc_spark.io.quarantine import write_quarantine
from nimc_spark.io.sources import CORRUPT, read_source
from nimc_spark.kernels.model import SideName
from nimc_spark.ml import NIMCModel


@dataclass(frozen=True)
class _Request:
    """What was asked: accepted new users and items, pairs, and the rejected rows by table."""

    users: DataFrame | None
    items: DataFrame | None
    pairs: DataFrame | None
    rejected: dict[str, DataFrame]
    counts: dict[str, int]


def body(context: Context) -> Result:
    config = context.config
    if config.predict.users is None and config.predict.items is None and config.predict.pairs is None:
        raise UsageError("predict: nothing is asked: set predict.users, predict.items or predict.pairs to a table")
    entry = context.registry.resolve(config.score.model)
    with context.stage("read"):
        request = _read(context)
        tables = _extended(read_tables(context), request)
        model = load_model(entry.path, tables)
        unseen = {
            side: model.trained.features[SideName(side)].unseen_counts(frame)
            for side, frame in (("users", request.users), ("items", request.items))
            if frame is not None
        }
    with context.stage("predict"):
        scored = _scored(context, model, request).withColumn("model_version", F.lit(entry.version))
        rows = scored.withColumn("run_date", F.lit(context.run_date)).withColumn("run_id", F.lit(context.run_id))
        written = context.lake.write("predictions", rows, replace_where={"run_date": context.run_date})
    with context.stage("quarantine"):
        write_quarantine(context.lake, request.rejected, context.run_id, context.run_date)
    shown = samples(
        config, context.lake.read("predictions", written.version).where(F.col("run_id") == context.run_id), tables.items
    )
    counts = {**request.counts, "predictions": written.rows}
    versions = {**tables.versions, "predictions": written.version}
    extra = {"model_version": entry.version, "unseen": unseen, "samples": shown if request.pairs is None else []}
    return Result(counts, {}, {"predictions": context.lake.path("predictions")}, versions, extra)


def _scored(context: Context, model: NIMCModel, request: _Request) -> DataFrame:
    """Rows of the predictions table without the run's columns."""
    if request.pairs is not None:
        return model.transform(request.pairs)
    users = request.users.select(USER) if request.users is not None else None
    items = request.items.select(ITEM) if request.users is None and request.items is not None else None
    lists = model.recommend(context.config.predict.k, users, items)
    return lists.withColumnsRenamed({"user": USER, "item": ITEM})


def _read(context: Context) -> _Request:
    config, columns = context.config, context.config.columns
    rejected: dict[str, DataFrame] = {}
    counts: dict[str, int] = {}
    frames: dict[str, DataFrame | None] = {"users": None, "items": None}
    sides = (
        ("users", config.predict.users, columns.user, USER, config.features.users),
        ("items", config.predict.items, columns.item, ITEM, config.features.items),
    )
    for name, source, raw_id, id_name, declared in sides:
        if source is None:
            continue
        needed = [raw_id, *(column for d in declared for column in d.sources)]
        raw = read_source(context.spark, f"predict.{name}", source.readable(), needed)
        parts = classify_attributes(raw, raw_id, id_name, declared, f"predict.{name} ({source.path})")
        frames[name] = parts.used
        rejected[f"predict.{name}"] = parts.rejected
        counts |= _balance(name, source, raw.count(), parts.used.count())
    pairs = None if config.predict.pairs is None else _pairs(context, config.predict.pairs)
    return _Request(frames["users"], frames["items"], pairs, rejected, counts)


def _balance(name: str, source: Source, rows: int, used: int) -> dict[str, int]:
    if not used:
        raise DataError(f"predict.{name} ({source.path}): none of its {rows} rows can be used")
    return {f"{name}_in": rows, f"{name}_used": used, f"{name}_quarantined": rows - used}


def _pairs(context: Context, source: Source) -> DataFrame:
    columns = context.config.columns
    raw = read_source(context.spark, "predict.pairs", source.readable(), [columns.user, columns.item])
    broken = raw.where(F.col(CORRUPT).isNotNull()).count() if CORRUPT in raw.columns else 0
    if broken:
        raise DataError(f"predict.pairs ({source.path}): {broken} rows cannot be parsed by the schema")
    return raw.select(quoted(columns.user).alias(USER), quoted(columns.item).alias(ITEM))


def _extended(tables: Tables, request: _Request) -> Tables:
    """The tables with the request's rows added; a row of the request takes the place of one with its id."""
    users = _with_new(tables.users, request.users, USER)
    items = _with_new(tables.items, request.items, ITEM)
    return replace(tables, users=users, items=items)


def _with_new(table: DataFrame | None, new: DataFrame | None, column: str) -> DataFrame | None:
    if table is None or new is None:
        return table if new is None else new
    return table.join(new.select(column), column, "anti").unionByName(new, allowMissingColumns=True)


def main(argv: Sequence[str]) -> int:
    return run_job("predict", argv, body, __doc__ or "")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
