"""The lake's input tables at pinned versions, split as the config says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from jobs._config import Config
from jobs._job import Context
from nimc_spark.engine.splits import HELD_OUT, Split, flag_held_out, split
from nimc_spark.errors import DataError, UsageError
from nimc_spark.io.contracts import ITEM, TIMESTAMP, USER
from nimc_spark.io.snapshots import current_snapshot
from nimc_spark.ml import NIMCModel

INPUTS = ("ratings", "users", "items")


@dataclass(frozen=True)
class Tables:
    """`ratings`, and `users` and `items` where the config has such sources, at `versions`."""

    ratings: DataFrame
    users: DataFrame | None
    items: DataFrame | None
    versions: Mapping[str, int]


def read_tables(context: Context, versions: Mapping[str, int] | None = None) -> Tables:
    """The input tables at the versions given, else as this run wrote them, else as the last prepare did.

    A lake that prepare has not written is read as it is now. Raises DataError for a table that is not there.
    """
    names = [name for name in INPUTS if name == "ratings" or getattr(context.config.sources, name) is not None]
    pinned = dict(context.table_versions if versions is None else versions)
    if "ratings" not in pinned:
        pinned = current_snapshot(context.lake) or _newest(context, names)
    missing = [name for name in names if name not in pinned]
    if missing:
        where = context.lake.path(missing[0])
        raise DataError(f"table {missing[0]}: there is none at {where}; run the job that writes it first")
    frames = {name: context.lake.read(name, pinned[name]) for name in names}
    return Tables(frames["ratings"], frames.get("users"), frames.get("items"), {n: pinned[n] for n in names})


def _newest(context: Context, names: Sequence[str]) -> dict[str, int]:
    found = {name: context.lake.version(name) for name in names}
    return {name: version for name, version in found.items() if version is not None}


def split_ratings(config: Config, ratings: DataFrame) -> tuple[DataFrame, DataFrame]:
    """(training rows, held-out rows) of the config's split."""
    time = TIMESTAMP if config.columns.time is not None else None
    return split(ratings, split_spec(config), USER, ITEM, time)


def split_sizes(config: Config, ratings: DataFrame) -> dict[str, int]:
    """Rows of the two parts."""
    time = TIMESTAMP if config.columns.time is not None else None
    flagged = flag_held_out(ratings, split_spec(config), USER, ITEM, time)
    held_out, rows = flagged.agg(F.count_if(F.col(HELD_OUT)), F.count("*")).collect()[0]
    return {"ratings_training": rows - held_out, "ratings_held_out": held_out}


def split_spec(config: Config) -> Split:
    return Split(config.split.by, config.split.fraction, config.split.seed)


def check_same_split(config: Config, trained: Mapping[str, object]) -> None:
    """Raises UsageError unless the config's split is the one that the model was trained with."""
    own = config.split.model_dump(mode="json")
    if own != trained:
        raise UsageError(
            f"split = {own}, but the model was trained with {trained}: its held-out ratings would be training ratings; "
            "use the model's split, or train again"
        )


def load_model(path: str, tables: Tables, context: DataFrame) -> NIMCModel:
    """A saved model that reads attributes from these tables, with the ratings in `context` as known."""
    return NIMCModel.load(path).setUsers(tables.users).setItems(tables.items).setContext(context)


def shared_model(context: Context, path: str, tables: Tables, training_only: bool) -> NIMCModel:
    """The same for tables as the lake has them, loaded once a run: what one stage keeps of it serves the next.

    Its context is all ratings in the lake, or the split's training rows alone. A model whose scores do not depend on it
    is one and the same for both.
    """
    key = path, *sorted(tables.versions.items())
    for rows in (training_only, not training_only):
        model = context.models.get((*key, rows))
        if model is not None and (rows == training_only or not model.usesContext):
            return model
    ratings = split_ratings(context.config, tables.ratings)[0] if training_only else tables.ratings
    model = load_model(path, tables, ratings)
    context.models[*key, training_only] = model
    return model
