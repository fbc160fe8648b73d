"""The tables of the lake: names, columns, types. The one place; writers check against it and docs are made from it."""

from __future__ import annotations

from dataclasses import dataclass

from pyspark.sql.types import DataType, StructType

from nimc_spark.engine.reasons import REASONS_TYPE
from nimc_spark.errors import DataError

ID = "an id"
"""Type of an id column: whatever the raw data has among `ID_TYPES`, the same in all tables."""
TIME = "a time"
"""Type of a time column: a number, date or timestamp, as in the raw data."""
ID_TYPES = ("tinyint", "smallint", "int", "bigint", "decimal", "string", "binary", "date", "timestamp", "timestamp_ntz")
NUMERIC_TYPES = ("tinyint", "smallint", "int", "bigint", "float", "double", "decimal")
DAY_TYPES = ("date", "timestamp", "timestamp_ntz")
TIME_TYPES = (*NUMERIC_TYPES, *DAY_TYPES)

USER, ITEM, RATING, WEIGHT, TIMESTAMP = "user_id", "item_id", "rating", "weight", "ts"


def type_name(data_type: DataType) -> str:
    """Spark's short name of a type without its parameters: "int", "decimal", "array"."""
    return data_type.simpleString().partition("(")[0].partition("<")[0]


@dataclass(frozen=True)
class Column:
    """`type` is Spark's simpleString, or `ID` or `TIME`."""

    name: str
    type: str
    about: str
    optional: bool = False

    def fits(self, data_type: DataType) -> bool:
        if self.type == ID:
            return type_name(data_type) in ID_TYPES
        if self.type == TIME:
            return type_name(data_type) in TIME_TYPES
        return data_type.simpleString() == self.type


@dataclass(frozen=True)
class Table:
    """`open` tables take further columns (attributes) of any type; `partition_by` is how files are laid out."""

    name: str
    about: str
    columns: tuple[Column, ...]
    partition_by: tuple[str, ...] = ()
    open: bool = False

    def check(self, schema: StructType) -> None:
        """Raises DataError for missing, extra and wrongly typed columns, all in one message."""
        present = {field.name: field.dataType for field in schema.fields}
        known = {column.name: column for column in self.columns}
        faults = [f"{n} is missing" for n, c in known.items() if n not in present and not c.optional]
        faults += [f"{n} is not a column of this table" for n in present if n not in known and not self.open]
        faults += [
            f"{n} is {present[n].simpleString()}, must be {c.type}"
            for n, c in known.items()
            if n in present and not c.fits(present[n])
        ]
        if faults:
            raise DataError(f"table {self.name}: {'; '.join(faults)}; columns: {', '.join(known)}")


_RUN_ID = Column("run_id", "string", "the run that wrote the row")
_RUN_DATE = Column("run_date", "date", "the date that the run was for")
_USER = Column(USER, ID, "the user")
_ITEM = Column(ITEM, ID, "the item")

_TABLES = (
    Table(
        "ratings",
        "Accepted ratings, one row a user and item.",
        (
            _USER,
            _ITEM,
            Column(RATING, "double", "the rating"),
            Column(WEIGHT, "double", "its weight", optional=True),
            Column(TIMESTAMP, TIME, "when it was given", optional=True),
        ),
    ),
    Table("users", "Accepted users with their raw attributes.", (_USER,), open=True),
    Table("items", "Accepted items with their raw attributes.", (_ITEM,), open=True),
    Table(
        "quarantine",
        "Rejected rows, also of failed runs. A rerun for the same run_date replaces those of the tables that it reads.",
        (
            _RUN_DATE,
            Column("table", "string", "the raw table that the row came from"),
            _RUN_ID,
            Column("row", "string", "the row as JSON, with the raw column names"),
            Column("reason", "string", "why it was rejected"),
        ),
        partition_by=("run_date", "table"),
    ),
    Table(
        "snapshots",
        "One row: the versions of ratings, users and items that belong together. The last commit of prepare; what the "
        "other jobs read.",
        (
            _RUN_DATE,
            _RUN_ID,
            Column("created", "timestamp", "when the tables were complete"),
            Column("table_versions", "map<string,bigint>", "version of each table"),
        ),
    ),
    Table(
        "models",
        "Log of the registry: a row for each alias given to a version. The newest row of an alias holds.",
        (
            Column("name", "string", "the model's name"),
            Column("version", "int", "1, 2, … for each name"),
            Column("alias", "string", "candidate, refit or production"),
            Column("path", "string", "folder of the model's files, relative to the lake"),
            Column("metrics", "string", "JSON"),
            Column("lineage", "string", "JSON: table versions, config hash, code version, seed, run_id"),
            Column("created", "timestamp", "when the alias was given"),
        ),
    ),
    Table(
        "metrics",
        "What evaluate measured on held-out ratings.",
        (
            _RUN_DATE,
            _RUN_ID,
            Column("model_name", "string", "the model's name"),
            Column("model_version", "int", "its version"),
            Column("cell", "string", "known_user/known_item, …, new_user/new_item, or all"),
            Column("predictor", "string", "model, item_mean, global_mean, popularity, …"),
            Column("metric", "string", "rmse, mae, ndcg@10, …"),
            Column("value", "double", "the value"),
            Column("n", "bigint", "ratings or users that it is a mean over"),
        ),
        partition_by=("run_date",),
    ),
    Table(
        "trials",
        "What tune tried, one row a setting. A rerun for the same run_date replaces its rows.",
        (
            _RUN_DATE,
            _RUN_ID,
            Column("number", "int", "1, 2, … in the order of the search"),
            Column("coordinate", "string", "the key that was varied"),
            Column("setting", "string", "JSON: what differs from the config"),
            Column("passes", "int", "passes over the training ratings"),
            Column("loss", "double", "its objective at the end"),
            Column("error", "double", "RMSE on the validation ratings, or 1 − NDCG@k for a model that ranks"),
            Column("seconds", "double", "its share of the time"),
            Column("state", "string", "kept (the best so far), tried, behind (given up) or failed"),
        ),
        partition_by=("run_date",),
    ),
    Table(
        "recommendations",
        "The best items of each user, for one run_date each night.",
        (
            _RUN_DATE,
            _USER,
            Column("rank", "int", "1 is the best"),
            _ITEM,
            Column("score", "double", "what the model expects the rating to be"),
            Column("score_source", "string", "model or baseline, and model:MEMBER of one with members"),
            Column(
                "reasons",
                REASONS_TYPE,
                "features that add most to the score, with what they add, where score.reasons asks for them",
            ),
            Column("model_version", "int", "version in the registry"),
            _RUN_ID,
        ),
        partition_by=("run_date",),
    ),
    Table(
        "predictions",
        "What predict answered: scores of pairs, or the best items of new users (then with a rank).",
        (
            _RUN_DATE,
            _USER,
            Column("rank", "int", "1 is the best; null for pairs"),
            _ITEM,
            Column("score", "double", "what the model expects the rating to be"),
            Column("score_source", "string", "model or baseline, and model:MEMBER of one with members"),
            Column(
                "reasons",
                REASONS_TYPE,
                "features that add most to the score, with what they add, where predict.reasons asks for them",
            ),
            Column("model_version", "int", "version in the registry"),
            _RUN_ID,
        ),
        partition_by=("run_date",),
    ),
    Table(
        "runs",
        "One row a run, failed ones too.",
        (
            _RUN_ID,
            _RUN_DATE,
            Column("job", "string", "the job"),
            Column("started", "timestamp", "when it began"),
            Column("seconds", "double", "how long it took"),
            Column("status", "string", "done or failed"),
            Column("exit_code", "int", "what the process exited with"),
            Column("config_hash", "string", "equal for equal configs"),
            Column("code_version", "string", "version of nimc_spark"),
            Column("table_versions", "map<string,bigint>", "versions of the tables read and written"),
            Column("counts", "map<string,bigint>", "rows in, used, quarantined, …"),
            Column("metrics", "string", "JSON"),
            Column("stages", "map<string,double>", "seconds of each stage"),
            Column("error", "string", "why it failed"),
        ),
    ),
)
TABLES = {table.name: table for table in _TABLES}


def ddl(table: str) -> str:
    """The columns of a table without open types as Spark DDL, for `createDataFrame`."""
    return ", ".join(f"`{column.name}` {column.type}" for column in TABLES[table].columns)
