"""Who may get what: the config's allow and deny tables, as they hold on the date of the run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from jobs._config import Filter, Source
from jobs._job import Context
from nimc_spark.engine.index import align_id, id_type, quoted
from nimc_spark.errors import DataError, UsageError
from nimc_spark.io.books import keep_books
from nimc_spark.io.contracts import ITEM, USER
from nimc_spark.io.prepare import classify_pairs
from nimc_spark.io.quarantine import Classified
from nimc_spark.io.sources import read_source
from nimc_spark.kernels.model import SideName
from nimc_spark.ml import NIMCModel

_ENDS = {"user": SideName.USERS, "item": SideName.ITEMS}


@dataclass(frozen=True)
class Filters:
    """Rows in force, with ids in the model's types; None where nothing of the kind is declared.

    items: DataFrame(item column of the model), all that can be recommended. candidates: DataFrame(user, item); whoever
    has rows there gets none but these. denied: DataFrame(user, item). `counts` has the books and the rows in force.
    """

    items: DataFrame | None = None
    candidates: DataFrame | None = None
    denied: DataFrame | None = None
    counts: Mapping[str, int] = field(default_factory=dict)

    def recommend(self, model: NIMCModel, k: int, users: DataFrame, seen: DataFrame | None = None) -> DataFrame:
        """`model.recommend` under these filters; `seen` are pairs (user, item) that are left out as well."""
        known = None if seen is None else _aligned(model, seen, ("user", "item"))
        pairs = [frame for frame in (known, self.denied) if frame is not None]
        exclude = reduce(DataFrame.unionByName, pairs) if pairs else None
        return model.recommend(k, users, self.items, exclude, self.candidates)


@dataclass(frozen=True)
class _Rows:
    """Rows of one filter in force: DataFrame(item), or DataFrame(user, item) where `by_user`."""

    allows: bool
    by_user: bool
    frame: DataFrame


def read_filters(context: Context, model: NIMCModel, candidates: Source | None = None) -> Filters:
    """The filters of the config; `candidates` are a request's own (user, item) pairs. Rejected rows are quarantined.

    Raises DataError for an allow table that allows nothing, UsageError for two tables of candidates.
    """
    named = _sources(context, candidates)
    if not named:
        return Filters()
    tables = {name: _classified(context, name, source) for name, source in named.items()}
    wheres = {name: _where(name, source) for name, source in named.items()}
    denying = [name for name in named if name.startswith("deny")]
    books = keep_books(
        context.lake, tables, wheres, context.run_id, context.run_date, prefix="filters.", may_be_empty=denying
    )
    context.enter_books(books)
    rows = {name: _in_force(context, model, name, named[name], table.used) for name, table in tables.items()}
    for name, own in rows.items():
        context.log.info("filters.%s: rows of %s", name, "users and items" if own.by_user else "items, for all users")
    choices = [name for name, own in rows.items() if own.allows and own.by_user]
    if len(choices) > 1:
        raise UsageError(f"{' and '.join(choices)} both name users: candidates of users come from one table")
    own_pairs = [rows[name].frame for name in choices]
    denied = [own.frame for own in rows.values() if own.by_user and not own.allows]
    return Filters(
        _items(model, [own for own in rows.values() if not own.by_user]),
        own_pairs[0] if own_pairs else None,
        reduce(DataFrame.unionByName, denied) if denied else None,
        {**books.counts, **_in_force_counts(rows)},
    )


def _sources(context: Context, candidates: Source | None) -> dict[str, Source]:
    filters = context.config.filters
    named: dict[str, Source] = {f"allow_{n}": source for n, source in enumerate(filters.allow, start=1)}
    named |= {f"deny_{n}": source for n, source in enumerate(filters.deny, start=1)}
    return named if candidates is None else {**named, "candidates": candidates}


def _where(name: str, source: Source) -> str:
    return f"filters.{name} ({source.path})"


def _classified(context: Context, name: str, source: Source) -> Classified:
    """Its ids under the lake's names, and its dates."""
    columns, days = context.config.raw_columns(), _days(source)
    raw = read_source(context.spark, f"filters.{name}", source.readable(), [columns.item, *days])
    ids = (USER, ITEM) if columns.user in raw.columns or name == "candidates" else (ITEM,)
    near = [column for column in raw.columns if USER not in ids and column.lower() == columns.user.lower()]
    if near:
        # It would hold for everybody.
        raise DataError(f"{_where(name, source)}: column {near[0]}: columns.user is {columns.user!r}, spell them alike")
    return classify_pairs(raw, columns, _where(name, source), ids, days)


def _days(source: Source) -> list[str]:
    return [day for day in (source.since, source.until) if day is not None] if isinstance(source, Filter) else []


def _in_force(context: Context, model: NIMCModel, name: str, source: Source, used: DataFrame) -> _Rows:
    """The rows that hold on the run's date and name ids that the model could know."""
    day, held = F.lit(context.run_date), F.lit(True)
    if isinstance(source, Filter):
        if source.since is not None:
            held &= F.coalesce(F.to_date(quoted(source.since)) <= day, F.lit(True))
        if source.until is not None:
            held &= F.coalesce(F.to_date(quoted(source.until)) > day, F.lit(True))
    by_user = USER in used.columns
    sides = {"user": USER, "item": ITEM} if by_user else {"item": ITEM}
    rows = used.where(held).select(*(quoted(old).alias(new) for new, old in sides.items()))
    return _Rows(not name.startswith("deny"), by_user, _aligned(model, rows, list(sides)).distinct())


def _in_force_counts(rows: Mapping[str, _Rows]) -> dict[str, int]:
    """Of each filter its rows in force, all in one job."""
    own = [
        of.frame.agg(F.lit(f"{name}_in_force").alias("name"), F.count("*").alias("rows")) for name, of in rows.items()
    ]
    return {row["name"]: row["rows"] for row in reduce(DataFrame.unionAll, own).collect()}


def _aligned(model: NIMCModel, rows: DataFrame, columns: Sequence[str]) -> DataFrame:
    """The rows with ids in the model's types; without those that have no counterpart there."""

    def typed(column: str) -> Column:
        return align_id(F.col(column), id_type(rows, column), model.idType(_ENDS[column])).alias(column)

    return rows.select(*map(typed, columns)).dropna()


def _items(model: NIMCModel, filters: Sequence[_Rows]) -> DataFrame | None:
    """What is left of the model's items."""
    if not filters:
        return None
    left = model.factors(SideName.ITEMS).select(F.col("id").alias("item"))
    for own in filters:
        left = left.join(own.frame, "item", "semi" if own.allows else "anti")
    return left.withColumnRenamed("item", model.side_column(SideName.ITEMS))
