"""Scores pairs, or gives new users (or all users, with new items) their best items, from raw attributes, and from
ratings given after the training where the model has histories."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

from pyspark.sql import DataFrame
from pyspark.sql import functions as F
from pyspark.sql.types import DoubleType, FloatType, IntegralType

from jobs._config import Source
from jobs._filters import Filters, read_filters
from jobs._job import Context, Result, run_job
from jobs._reasons import explained
from jobs._samples import samples
from jobs._tables import Tables, load_model, read_tables
from nimc_spark.engine.context import held
from nimc_spark.engine.index import quoted
from nimc_spark.errors import DataError, UsageError
from nimc_spark.io.books import keep_books
from nimc_spark.io.contracts import ITEM, USER
from nimc_spark.io.prepare import Rules, classify_attributes, classify_pairs, classify_ratings
from nimc_spark.io.quarantine import Classified
from nimc_spark.io.sources import read_source
from nimc_spark.kernels.model import SideName
from nimc_spark.ml import NIMCModel


@dataclass(frozen=True)
class _Request:
    """What was asked, by table name: "users", "items", "pairs", "ratings"."""

    tables: Mapping[str, Classified]

    def used(self, name: str) -> DataFrame | None:
        return self.tables[name].used if name in self.tables else None


def body(context: Context) -> Result:
    config = context.config
    if not _sources(context).keys() - {"ratings"}:
        raise UsageError("predict: nothing is asked: set predict.users, predict.items or predict.pairs to a table")
    if config.predict.candidates is not None and config.predict.users is None:
        raise UsageError("predict.candidates: whose? set predict.users to the table of these users")
    entry = context.registry.resolve(config.score.model)
    with context.stage("read"):
        request = _read(context)
        tables = _extended(read_tables(context), request)
        model = load_model(entry.path, tables, tables.ratings)
        unseen = {
            side.value: _unseen(model, side, frame)
            for side in SideName
            if (frame := request.used(side.value)) is not None
        }
    with (
        context.stage("predict"),
        _scored(context, model, request) as (found, filters),
        explained(model, found, config.predict.reasons) as scored,
    ):
        rows = scored.withColumns(
            {
                "model_version": F.lit(entry.version),
                "run_date": F.lit(context.run_date),
                "run_id": F.lit(context.run_id),
            }
        )
        written = context.lake.write("predictions", rows, replace_where={"run_date": context.run_date})
        if "pairs" not in request.tables:
            context.samples += samples(config, scored, tables.items)
    counts = {**context.counts, **filters.counts, "predictions": written.rows}
    versions = {**tables.versions, "predictions": written.version}
    extra = {"model_version": entry.version, "unseen": unseen}
    paths = {"predictions": context.lake.path("predictions")}
    if any(context.quarantine_reasons.values()):
        paths["quarantine"] = context.lake.path("quarantine")
    return Result(counts, {}, paths, versions, extra)


def _unseen(model: NIMCModel, side: SideName, frame: DataFrame) -> dict[str, dict[str, int]]:
    """`unseen_counts` of every column that a member of the model reads."""
    members = model.members.values()
    return {c: n for m in members for c, n in m.trained.features[side].unseen_counts(frame).items()}


@contextmanager
def _scored(context: Context, model: NIMCModel, request: _Request) -> Iterator[tuple[DataFrame, Filters]]:
    """Rows of the predictions table without the run's columns, and the filters that lists of users obey; lists are
    kept, since they are read twice.

    Those who are asked for bring their attributes, so that nobody else of their side is computed.
    """
    users, items, pairs = (request.used(name) for name in ("users", "items", "pairs"))
    if pairs is not None:
        yield model.transform(pairs).withColumn("rank", F.lit(None).cast("int")), Filters()
        return
    predict = context.config.predict
    by_id = {"user": USER, "item": ITEM}
    if users is not None:
        with model.heldFactors(SideName.ITEMS):
            filters = read_filters(context, model, predict.candidates)
            with held(filters.recommend(model, predict.k, users)) as lists:
                yield lists.withColumnsRenamed(by_id), filters
        return
    with model.heldFactors(SideName.USERS), held(model.recommend(predict.k, items=items)) as lists:
        yield lists.withColumnsRenamed(by_id), Filters()


def _read(context: Context) -> _Request:
    sources = _sources(context)
    wheres = {name: f"predict.{name} ({source.path})" for name, source in sources.items()}
    tables = {name: _classify(context, name, source, wheres[name]) for name, source in sources.items()}
    context.enter_books(keep_books(context.lake, tables, wheres, context.run_id, context.run_date, prefix="predict."))
    return _Request(tables)


def _classify(context: Context, name: str, source: Source, where: str) -> Classified:
    config, columns = context.config, context.config.raw_columns()

    def read(needed: Sequence[str]) -> DataFrame:
        return read_source(context.spark, f"predict.{name}", source.readable(), needed)

    if name == "pairs":
        return classify_pairs(read([columns.user, columns.item]), columns, where)
    if name == "ratings":
        rules = Rules(rating_range=config.rating_range, duplicates=config.duplicate_policy())
        return classify_ratings(read(columns.of_ratings), columns, rules, where)
    declared = config.declared(name)
    raw_id, id_name = (columns.user, USER) if name == "users" else (columns.item, ITEM)
    raw = read([raw_id, *(column for d in declared for column in d.sources)])
    return classify_attributes(raw, raw_id, id_name, declared, where)


def _sources(context: Context) -> dict[str, Source]:
    asked = context.config.predict
    named = {"users": asked.users, "items": asked.items, "pairs": asked.pairs, "ratings": asked.ratings}
    return {name: source for name, source in named.items() if source is not None}


def _extended(tables: Tables, request: _Request) -> Tables:
    """The tables with the request's rows added; a row of the request takes the place of one with its id."""
    users = _with_new(tables.users, request.used("users"), [USER])
    items = _with_new(tables.items, request.used("items"), [ITEM])
    ratings = _with_new(tables.ratings, request.used("ratings"), [USER, ITEM])
    return replace(tables, users=users, items=items, ratings=tables.ratings if ratings is None else ratings)


def _with_new(table: DataFrame | None, new: DataFrame | None, key: Sequence[str]) -> DataFrame | None:
    if table is None or new is None:
        return table if new is None else new
    own = _in_types_of(table, new, key)
    return table.join(own.select(*key), list(key), "anti").unionByName(own, allowMissingColumns=True)


def _in_types_of(table: DataFrame, new: DataFrame, key: Sequence[str]) -> DataFrame:
    """The new rows with their numbers in the types of the table, where those hold them, since a category is the number
    as it is written: 3 is not 3.0. Raises DataError for other types than the table's; Spark would cast, or fail to."""
    faults, columns = [], []
    for field in new.schema:
        column, here = quoted(field.name), field.dataType
        there = table.schema[field.name].dataType if field.name in table.columns else here
        # Spark's names of types are silent about nulls in them.
        found, wanted = here.simpleString(), there.simpleString()
        whole = isinstance(here, IntegralType) and field.name not in key
        if whole and isinstance(there, FloatType | DoubleType):
            column = column.cast(there).alias(field.name)
        # Whole numbers of two sizes are written alike.
        elif found != wanted and not (whole and isinstance(there, IntegralType)):
            faults.append(f"{field.name} is {found}, but {wanted} in the lake")
        columns.append(column)
    if faults:
        raise DataError(f"predict: {'; '.join(faults)}: give both the same type in predict.*.schema")
    return new.select(*columns)


def main(argv: Sequence[str]) -> int:
    return run_job("predict", argv, body, __doc__ or "")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
