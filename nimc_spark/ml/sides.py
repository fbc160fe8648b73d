"""One side's input: its table of attributes, its declarations, and what training makes of them."""

from __future__ import annotations

from dataclasses import dataclass, replace

from py4j.protocol import Py4JJavaError
from pyspark.errors import AnalysisException
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.types import DataType

from nimc_spark.data.declarations import (
    BY_ID_ALONE,
    ID_GROUP,
    READY_COLUMN,
    Declaration,
    History,
    Id,
    RatingSvd,
    parse_declarations,
    ready_features_declaration,
)
from nimc_spark.engine.baselines import Baseline
from nimc_spark.engine.blocks import IndexedSide, SideData
from nimc_spark.engine.feature_checks import check_columns, non_finite
from nimc_spark.engine.features import FittedFeatures, fit_features
from nimc_spark.engine.history import HistoryData
from nimc_spark.engine.index import align_id, check_names, id_type, quoted
from nimc_spark.errors import DataError, UsageError
from nimc_spark.kernels.model import SideName
from nimc_spark.kernels.objective import Layout
from nimc_spark.ml.params import NIMCParams

_TABLE_PARAM = {SideName.USERS: "usersTable", SideName.ITEMS: "itemsTable"}
_RATED = "__nimc_rated"
_FEATURES_PARAM = {SideName.USERS: "userFeatures", SideName.ITEMS: "itemFeatures"}


@dataclass(frozen=True)
class SideInput:
    """Attributes of a side as a DataFrame, or None; the id column in it; and the declarations."""

    side: SideName
    table: DataFrame | None
    column: str
    declarations: tuple[Declaration, ...]

    @property
    def declared(self) -> bool:
        """Whether any feature comes from the table."""
        return bool(self.of_table)

    @property
    def of_table(self) -> list[Declaration]:
        """The declarations that the table's rows are encoded by; the others go by the id alone."""
        return [d for d in self.declarations if not isinstance(d, BY_ID_ALONE)]

    @property
    def rating_svd(self) -> RatingSvd | None:
        """The declaration of singular vectors of the ratings, if there is one."""
        return next((d for d in self.declarations if isinstance(d, RatingSvd)), None)

    @property
    def histories(self) -> tuple[History, ...]:
        return tuple(d for d in self.declarations if isinstance(d, History))


@dataclass(frozen=True)
class TrainingSide:
    """What training needs of a side, and what is saved of its features."""

    features: FittedFeatures
    data: SideData
    declarations: tuple[Declaration, ...]
    rating_svd: RatingSvd | None = None
    histories: tuple[History, ...] = ()

    def layout(self, own: IndexedSide, others: IndexedSide) -> Layout:
        """The groups in column order: those of the table, the singular vectors of the ratings, the ids, histories."""
        groups = [(group.name, group.width) for group in self.features.groups]
        if self.rating_svd is not None:
            groups.append((self.rating_svd.group, self.rating_svd.rank))
        if self.data.uses_id:
            groups.append((ID_GROUP, own.count))
        return Layout((*groups, *((history.group, others.count) for history in self.histories)))

    def with_vectors(self, declared: RatingSvd | None, vectors: DataFrame | None) -> TrainingSide:
        """The same with the declared singular vectors DataFrame(id, vector), if there are any."""
        if declared is None:
            return self
        return replace(self, rating_svd=declared, data=replace(self.data, vectors=vectors, vectors_width=declared.rank))

    def with_histories(self, declared: tuple[History, ...], mean: float, biases: DataFrame | None) -> TrainingSide:
        """The same with the declared histories; residuals are taken from μ and the other side's DataFrame(id, offset)
        of biases."""
        if not declared:
            return self
        history = HistoryData(tuple(h.weights for h in declared), mean, biases)
        return replace(self, histories=declared, data=replace(self.data, history=history))


def read_table(spark: SparkSession, name: str) -> DataFrame:
    """A table by path (Delta, or Parquet where there is no Delta log) or by catalog name.

    Raises DataError if there is none.
    """
    try:
        if "/" not in name:
            return spark.table(name)
        try:
            return spark.read.format("delta").load(name)
        except AnalysisException as error:
            if "DELTA" not in (error.getCondition() or str(error)):
                raise
        except Py4JJavaError as error:
            # A session without Delta's jars.
            if "DATA_SOURCE_NOT_FOUND" not in str(error):
                raise
        return spark.read.parquet(name)
    except AnalysisException as error:
        reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise DataError(f"there is no table {name!r}, neither a path nor in the catalog: {reason}") from None


def side_table(params: NIMCParams, side: SideName, held: DataFrame | None, spark: SparkSession) -> DataFrame | None:
    """The attributes that were set as a DataFrame, else the table that is named, else None."""
    name = params.optional(_TABLE_PARAM[side])
    return held if held is not None or name is None else read_table(spark, name)


def side_input(params: NIMCParams, side: SideName, held: DataFrame | None, spark: SparkSession) -> SideInput:
    """A side as its Params and DataFrames say; ids alone where there is no table and no declaration.

    Raises UsageError where declarations and table do not fit together.
    """
    table = side_table(params, side, held, spark)
    raw = params.optional(_FEATURES_PARAM[side])
    if raw is not None:
        declarations = parse_declarations(raw)
    elif table is None:
        declarations = (Id(),)
    elif READY_COLUMN in table.columns:
        declarations = ready_features_declaration()
    else:
        raise UsageError(
            f"the table of {side.value} has no column {READY_COLUMN!r}: declare {_FEATURES_PARAM[side]}, "
            f"or make that column; it has {', '.join(table.columns)}"
        )
    if not declarations:
        raise UsageError(f"{_FEATURES_PARAM[side]} is empty: declare at least one feature, such as {{'kind': 'id'}}")
    result = SideInput(side, table, params.side_column(side), declarations)
    if result.declared and table is None:
        raise UsageError(f"{_FEATURES_PARAM[side]} needs a table: give {_TABLE_PARAM[side]} or set{side.value.title()}")
    return result


def training_side(
    source: SideInput, rated: DataFrame, baseline: Baseline, unrated: DataFrame | None = None
) -> TrainingSide:
    """Fit the features on the entities that are `rated` DataFrame(id), or `unrated` and data all the same; distinct.

    Raises DataError for null or repeated ids, and for non-finite features, naming table, column and id.
    """
    users = source.side is SideName.USERS
    offsets = baseline.users if users else baseline.items
    constant = baseline.mean if users else 0.0
    uses_id = any(isinstance(d, Id) for d in source.declarations)
    if not source.declared or source.table is None:
        fitted = FittedFeatures(source.column, (), ())
        return TrainingSide(fitted, SideData(None, 0, uses_id, offsets, constant), source.declarations)
    table = with_id_type(source, id_type(rated, "id"), rated)
    ids = rated if unrated is None else rated.unionByName(unrated).distinct()
    trained = table.join(ids.withColumnRenamed("id", _RATED), quoted(source.column) == F.col(_RATED), "semi")
    fitted = fit_features(trained, source.column, source.of_table)
    data = SideData(fitted.encode(trained), fitted.width, uses_id, offsets, constant)
    return TrainingSide(fitted, data, source.declarations)


def with_id_type(source: SideInput, target: DataType, rated: DataFrame | None = None) -> DataFrame:
    """The attributes table, its id column in the type of the ratings' ids, checked by one Spark job.

    Raises DataError for null or repeated ids, for non-finite features, and if no id is in `rated` DataFrame(id), where
    that is given.
    """
    if source.table is None:
        raise UsageError(f"there is no table of {source.side.value}")
    table, column = source.table, quoted(source.column)
    check_names(table, f"the table of {source.side.value}")
    check_columns(table, source.column, source.declarations)
    broken = non_finite(table, source.declarations)
    aligned = align_id(column, id_type(table, source.column), target)
    faults = [F.count_if(aligned.isNull()), F.count(column) - F.count_distinct(column), F.count_if(broken)]
    rows = table
    if rated is not None:
        rows = table.join(rated.withColumnRenamed("id", _RATED), aligned == F.col(_RATED), "left")
        faults.append(F.count(_RATED))
    counts = rows.agg(*faults).collect()[0]
    where = f"the table of {source.side.value}"
    if counts[0]:
        kind = target.simpleString()
        raise DataError(f"{where} has {counts[0]} rows whose {source.column!r} is null or no {kind} as in the ratings")
    if counts[1]:
        raise DataError(f"{where} has {counts[1]} repeated values of {source.column!r}: each id must stand once")
    if counts[2]:
        raise DataError(
            f"{where} has {counts[2]} rows with a null, NaN or infinite feature, {_example(source, broken)}"
        )
    if rated is not None and not counts[3]:
        raise DataError(f"no id in {where} has a rating: is {source.column!r} the right column?")
    return table.withColumn(source.column, aligned)


def _example(source: SideInput, broken: Column) -> str:
    if source.table is None:
        return ""
    row = source.table.where(broken).select(quoted(source.column), *map(quoted, _sources(source))).first()
    values = ", ".join(f"{name} = {value!r}" for name, value in (row.asDict() if row else {}).items())
    return f"such as {values}"


def _sources(source: SideInput) -> list[str]:
    return sorted({name for d in source.declarations for name in d.sources} - {source.column})
