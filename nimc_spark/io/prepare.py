"""Raw tables to the lake's `ratings`, `users` and `items`: typed, checked, with every rejected row kept and its reason.

    rows in = rows used + rows quarantined, for each table

Duplicates: ratings of the same user and item by policy: `last` keeps the latest (of equal times the highest rating),
`mean` keeps one row with the mean, `reject` none. Rows that repeat an id in an attribute table are kept once if all are
equal, and not at all if they differ, since nothing says which one is right.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any, Literal

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F
from pyspark.sql.types import AtomicType

from nimc_spark.data.declarations import Declaration
from nimc_spark.engine.index import quoted
from nimc_spark.engine.profile import LARGEST
from nimc_spark.errors import DataError
from nimc_spark.io.books import Books, check_written, keep_books
from nimc_spark.io.contracts import (
    DAY_TYPES,
    ID_TYPES,
    ITEM,
    NUMERIC_TYPES,
    RATING,
    TIME_TYPES,
    TIMESTAMP,
    USER,
    WEIGHT,
    type_name,
)
from nimc_spark.io.feature_faults import feature_faults
from nimc_spark.io.quarantine import REASON, UNPARSEABLE, Classified, Faults, first_reason, row_json
from nimc_spark.io.snapshots import publish_snapshot
from nimc_spark.io.sources import CORRUPT, Source, read_source
from nimc_spark.io.tables import Lake

Duplicates = Literal["last", "mean", "reject"]

_ROW = "__nimc_row"
_RATING, _WEIGHT = "__nimc_rating", "__nimc_weight"
_RANK, _COPIES, _LIST, _KEPT = "__nimc_rank", "__nimc_copies", "__nimc_list", "__nimc_kept"
_KNOWN = "__nimc_known"
_GARBLED = "id in another character encoding, see options.encoding"


@dataclass(frozen=True)
class Columns:
    """Names in the raw tables; the lake's names are fixed (`contracts`)."""

    user: str
    item: str
    rating: str
    weight: str | None = None
    time: str | None = None

    @property
    def of_ratings(self) -> list[str]:
        """Those that the raw ratings have."""
        return [n for n in (self.user, self.item, self.rating, self.weight, self.time) if n is not None]


@dataclass(frozen=True)
class Rules:
    """What a row must fulfil."""

    rating_range: tuple[float, float] | None = None
    duplicates: Duplicates = "reject"
    allow_cold: bool = True
    user_features: Sequence[Declaration] = ()
    item_features: Sequence[Declaration] = ()


@dataclass(frozen=True)
class Prepared:
    """The books of what came in, and the versions of the tables as written, by name."""

    books: Books
    versions: Mapping[str, int]


def prepare(
    lake: Lake,
    sources: Mapping[str, Source],
    columns: Columns,
    rules: Rules,
    run_id: str,
    run_date: date,
    accept: Callable[[Books], None] | None = None,
) -> Prepared:
    """Reads `sources` ("ratings", and "users", "items" if there are any), and writes the tables of the same names.

    Readers see all of them or none: they go by the snapshot, which is committed last. `accept` sees the books before
    any of these tables is written, and may raise; rejected rows are in quarantine by then.

    Raises:
        DataError: missing files or columns, wrong types, tables of which no row can be used, books that do not balance.
    """
    tables = _classified(lake, sources, columns, rules)
    wheres = {name: f"{name} ({source.path})" for name, source in sources.items()}
    books = keep_books(lake, tables, wheres, run_id, run_date)
    if accept is not None:
        accept(books)
    written = {"quarantine": books.quarantine}
    for name in ("users", "items", "ratings"):
        if name in tables:
            written[name] = lake.write(name, tables[name].used)
    for name in tables:
        check_written(name, written[name], books.counts[f"{name}_used"])
    versions = {name: commit.version for name, commit in written.items()}
    publish_snapshot(lake, {name: version for name, version in versions.items() if name in tables}, run_id, run_date)
    return Prepared(books, versions)


def classify_attributes(
    df: DataFrame, raw_id: str, id_name: str, declarations: Sequence[Declaration], where: str
) -> Classified:
    """Users or items as `read_source` gave them; `raw_id` is the raw name of the id column, `id_name` the lake's.

    Raises DataError for an id or feature column of a type that cannot be one; `where` names the table in it.
    """
    raw = [column for column in df.columns if column != CORRUPT]
    _check_type(df, raw_id, ID_TYPES, where)
    if raw_id != id_name and id_name.lower() in (column.lower() for column in raw):
        raise DataError(
            f"{where}: has a column {id_name} beside its id {raw_id}, which is to be called {id_name}: rename one"
        )
    faults = [
        (F.col(CORRUPT).isNotNull(), UNPARSEABLE),
        (quoted(raw_id).isNull(), f"null {id_name}"),
        (_garbled(raw_id), _GARBLED),
        *feature_faults(df, raw_id, declarations, where),
    ]
    rows = df.withColumn(_ROW, row_json(raw)).withColumn(REASON, first_reason(faults))
    of_id = _among_accepted([raw_id])
    ranked = rows.withColumn(_RANK, F.row_number().over(of_id.orderBy(_ROW)))
    ranked = ranked.withColumn(_COPIES, F.min(_ROW).over(of_id) != F.max(_ROW).over(of_id))
    repeated: Faults = [
        (F.col(REASON).isNotNull(), ""),
        (F.col(_COPIES), f"duplicate {id_name}, rows differ"),
        (F.col(_RANK) > 1, f"duplicate {id_name}, same row"),
    ]
    rows = ranked.withColumn(REASON, F.coalesce(REASON, first_reason(repeated))).drop(_RANK, _COPIES)
    attributes = [quoted(column) for column in raw if column != raw_id]
    used = rows.where(F.col(REASON).isNull()).select(quoted(raw_id).alias(id_name), *attributes)
    return Classified(rows, used, _rejected(rows, F.col(_ROW)))


def classify_ratings(
    df: DataFrame, columns: Columns, rules: Rules, where: str, known: Mapping[str, DataFrame] | None = None
) -> Classified:
    """Ratings as `read_source` gave them.

    `known` maps USER and ITEM to the accepted ids (one column of that name); where it has an entry, ratings of other
    ids are rejected. Raises DataError for columns of a type that cannot be.
    """
    raw = [column for column in df.columns if column != CORRUPT]
    for column, types in _rating_types(columns):
        _check_type(df, column, types, where)
    rows = df.withColumn(_RATING, quoted(columns.rating).cast("double"))
    if columns.weight is not None:
        rows = rows.withColumn(_WEIGHT, quoted(columns.weight).cast("double"))
    rows = rows.withColumn(REASON, first_reason(_rating_faults(rows, columns, rules.rating_range)))
    for name, ids in (known or {}).items():
        rows = _reject_unknown(rows, columns.user if name == USER else columns.item, name, ids)
    rows = _resolve_duplicates(rows, columns, rules.duplicates)
    names = {USER: columns.user, ITEM: columns.item, RATING: _RATING}
    names |= {WEIGHT: _WEIGHT} if columns.weight is not None else {}
    names |= {TIMESTAMP: columns.time} if columns.time is not None else {}
    used = rows.where(F.col(REASON).isNull()).select(*(quoted(old).alias(new) for new, old in names.items()))
    return Classified(rows, used, _rejected(rows, row_json(raw)))


def classify_pairs(
    df: DataFrame, columns: Columns, where: str, ids: Sequence[str] = (USER, ITEM), days: Sequence[str] = ()
) -> Classified:
    """Pairs of user and item as `read_source` gave them, or rows of one of these `ids`; a row that is there twice stays
    so. `days` are columns with dates that are kept, null or not.

    Raises DataError for an id column of a type that cannot be one, and for a day that is neither date nor timestamp.
    """
    names = {name: columns.user if name == USER else columns.item for name in ids}
    for column in names.values():
        _check_type(df, column, ID_TYPES, where)
    for column in days:
        _check_type(df, column, DAY_TYPES, where)
    faults = [(F.col(CORRUPT).isNotNull(), UNPARSEABLE)]
    faults += [(quoted(column).isNull(), f"null {name}") for name, column in names.items()]
    rows = df.withColumn(REASON, first_reason(faults))
    kept = [*(quoted(old).alias(new) for new, old in names.items()), *(quoted(day) for day in days)]
    used = rows.where(F.col(REASON).isNull()).select(*kept)
    return Classified(rows, used, _rejected(rows, row_json([column for column in df.columns if column != CORRUPT])))


def _classified(lake: Lake, sources: Mapping[str, Source], columns: Columns, rules: Rules) -> Mapping[str, Classified]:
    tables: dict[str, Classified] = {}
    known: dict[str, DataFrame] = {}
    sides = (("users", columns.user, USER, rules.user_features), ("items", columns.item, ITEM, rules.item_features))
    for table, raw_id, id_name, declarations in sides:
        if table not in sources:
            continue
        where = f"{table} ({sources[table].path})"
        df = read_source(lake.spark, table, sources[table], [raw_id])
        tables[table] = classify_attributes(df, raw_id, id_name, declarations, where)
        known[id_name] = tables[table].used.select(id_name)
    where = f"ratings ({sources['ratings'].path})"
    ratings = read_source(lake.spark, "ratings", sources["ratings"], columns.of_ratings)
    for id_name, ids in known.items():
        _check_same_type(ratings, columns.user if id_name == USER else columns.item, ids, id_name)
    cold = {} if rules.allow_cold else known
    return tables | {"ratings": classify_ratings(ratings, columns, rules, where, cold)}


def _rating_types(columns: Columns) -> list[tuple[str, Sequence[str]]]:
    types: list[tuple[str | None, Sequence[str]]] = [
        (columns.user, ID_TYPES),
        (columns.item, ID_TYPES),
        (columns.rating, NUMERIC_TYPES),
        (columns.weight, NUMERIC_TYPES),
        (columns.time, TIME_TYPES),
    ]
    return [(column, allowed) for column, allowed in types if column is not None]


def _rating_faults(df: DataFrame, columns: Columns, limits: tuple[float, float] | None) -> Faults:
    rating = F.col(_RATING)
    faults = [
        (F.col(CORRUPT).isNotNull(), UNPARSEABLE),
        (quoted(columns.user).isNull(), f"null {USER}"),
        (quoted(columns.item).isNull(), f"null {ITEM}"),
        (_garbled(columns.user) | _garbled(columns.item), _GARBLED),
        (rating.isNull(), "null rating"),
        (_not_finite(rating), "non-finite rating"),
        (F.abs(rating) > LARGEST, f"rating beyond ±{LARGEST:g}"),
    ]
    if limits is not None:
        faults.append((~rating.between(*limits), f"rating outside [{limits[0]:g}, {limits[1]:g}]"))
    if columns.weight is not None:
        weight = F.col(_WEIGHT)
        faults.append((weight.isNull() | _not_finite(weight) | (weight < 0), "weight is not a number from 0"))
        faults.append((weight > LARGEST, f"weight above {LARGEST:g}"))
    if columns.time is not None:
        time = quoted(columns.time)
        faults.append((time.isNull(), "null time"))
        if type_name(df.schema[columns.time].dataType) in ("float", "double"):
            faults.append((_not_finite(time), "non-finite time"))
    return faults


def _garbled(column: str) -> Column:
    """Two ids of another encoding would otherwise become one: what cannot be decoded reads as U+FFFD."""
    return quoted(column).cast("string").contains("\ufffd")


def _reject_unknown(rows: DataFrame, raw_id: str, id_name: str, ids: DataFrame) -> DataFrame:
    marked = ids.select(F.col(id_name).alias(_KNOWN))
    joined = rows.join(marked, quoted(raw_id) == F.col(_KNOWN), "left")
    unknown = F.when(F.col(_KNOWN).isNull(), F.lit(f"{id_name} has no attribute row"))
    return joined.withColumn(REASON, F.coalesce(REASON, unknown)).drop(_KNOWN)


def _resolve_duplicates(rows: DataFrame, columns: Columns, policy: Duplicates) -> DataFrame:
    of_pair = _among_accepted([columns.user, columns.item])
    if policy == "reject":
        rows = rows.withColumn(_COPIES, F.count(F.lit(1)).over(of_pair))
        faults: Faults = [(F.col(_COPIES) > 1, "duplicate rating of a user and item")]
        return rows.withColumn(REASON, F.coalesce(REASON, _if_accepted(faults))).drop(_COPIES)
    used = [*([] if columns.time is None else [columns.time]), _RATING, *([] if columns.weight is None else [_WEIGHT])]
    # Rows that are equal in what is used may differ elsewhere: each reading must keep the same one.
    rest = F.xxhash64(*(quoted(f.name) for f in rows.schema.fields if isinstance(f.dataType, AtomicType)))
    ordered = of_pair.orderBy(*(quoted(name).desc() for name in used), rest)
    rows = rows.withColumn(_RANK, F.row_number().over(ordered))
    if policy == "mean":
        rows = _with_means(rows, columns, of_pair)
        reasons: Faults = [(F.col(_RANK) > 1, "merged into the mean of duplicate ratings")]
    else:
        row = F.struct(*map(quoted, used))
        rows = rows.withColumn(_KEPT, F.first(row).over(ordered))
        reasons = _superseded(columns, row)
    return rows.withColumn(REASON, F.coalesce(REASON, _if_accepted(reasons))).drop(_RANK, _KEPT)


def _superseded(columns: Columns, used: Column) -> Faults:
    """Why a row gives way to the one of its pair that is kept."""
    gone = F.col(_RANK) > 1
    later = F.lit(False) if columns.time is None else quoted(columns.time) < F.col(_KEPT)[columns.time]
    return [
        (gone & (used == F.col(_KEPT)), "exact duplicate of a rating"),
        (gone & later, "superseded by a later rating"),
        (gone, "superseded by another rating of the same time"),
    ]


def _with_means(rows: DataFrame, columns: Columns, of_pair: Any) -> DataFrame:
    """Weighted mean and summed weight of each pair; summed in sorted order, so that partitions do not matter."""
    weight = F.col(_WEIGHT) if columns.weight is not None else F.lit(1.0)
    entry = F.struct(F.col(_RATING).alias("r"), weight.alias("w"))
    rows = rows.withColumn(_LIST, F.array_sort(F.collect_list(entry).over(of_pair)))
    total = F.aggregate(_LIST, F.lit(0.0), lambda sum_, e: sum_ + e["w"])
    weighted = F.aggregate(_LIST, F.lit(0.0), lambda sum_, e: sum_ + e["w"] * e["r"]) / total
    plain = F.aggregate(_LIST, F.lit(0.0), lambda sum_, e: sum_ + e["r"]) / F.size(_LIST)
    several = F.size(_LIST) > 1
    mean = F.when(total > 0, weighted).otherwise(plain)
    rows = rows.withColumn(_RATING, F.when(several, mean).otherwise(F.col(_RATING)))
    if columns.weight is not None:
        rows = rows.withColumn(_WEIGHT, F.when(several, total).otherwise(F.col(_WEIGHT)))
    return rows.drop(_LIST)


def _among_accepted(keys: Sequence[str]) -> Any:
    """Window over the accepted rows of a key; each rejected row is alone, lest all null keys meet in one task."""
    alone = F.when(F.col(REASON).isNotNull(), F.monotonically_increasing_id())
    return Window.partitionBy(*(quoted(key) for key in keys), alone)


def _if_accepted(faults: Faults) -> Column:
    return F.when(F.col(REASON).isNull(), first_reason(faults))


def _not_finite(column: Column) -> Column:
    return F.isnan(column) | (F.abs(column) == float("inf"))


def _rejected(rows: DataFrame, row: Column) -> DataFrame:
    return rows.where(F.col(REASON).isNotNull()).select(row.alias("row"), F.col(REASON).alias("reason"))


def _check_type(df: DataFrame, column: str, allowed: Sequence[str], where: str) -> None:
    found = df.schema[column].dataType
    if type_name(found) not in allowed:
        raise DataError(f"{where}: column {column} is {found.simpleString()}; allowed: {', '.join(allowed)}")


def _check_same_type(ratings: DataFrame, raw_id: str, ids: DataFrame, id_name: str) -> None:
    here, there = ratings.schema[raw_id].dataType, ids.schema[id_name].dataType
    if here != there:
        raise DataError(
            f"{raw_id} is {here.simpleString()} in ratings, {there.simpleString()} in the attribute table: "
            "give both the same type in sources.*.schema"
        )
