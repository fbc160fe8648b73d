"""`NIMCModel`: scores of pairs, lists of recommendations, factors."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import numpy as np
import pyarrow as pa
from pyspark.ml import Model
from pyspark.ml.util import MLReadable, MLWritable
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.pandas.types import from_arrow_type
from pyspark.sql.types import DataType

from nimc_spark.engine.context import held
from nimc_spark.engine.factors import SideModel, factor_rows
from nimc_spark.engine.history import history_lists
from nimc_spark.engine.index import align_id, check_names, id_type, quoted
from nimc_spark.engine.pairs import BASELINE, clipped, score_pairs
from nimc_spark.engine.topk import top_k
from nimc_spark.errors import DataError, TrainingError, UsageError
from nimc_spark.kernels.model import SideName
from nimc_spark.ml.params import NIMCParams, with_accessors
from nimc_spark.ml.persistence import ModelReader, ModelWriter
from nimc_spark.ml.sides import SideInput, side_table, with_id_type
from nimc_spark.ml.summary import TrainingSummary
from nimc_spark.ml.tables import HoldsContext
from nimc_spark.ml.training import Trained, context_ratings

_LOG = logging.getLogger(__name__)
SCORE_SOURCE = "score_source"
RANKS_BY_RATINGS = (
    "lists are ordered by predicted ratings, which is not the order in which people choose: "
    "train with objective = ranking for that"
)
_SETTER = {SideName.USERS: "setUsers or usersTable", SideName.ITEMS: "setItems or itemsTable"}


@with_accessors
class NIMCModel(Model, NIMCParams, HoldsContext, MLReadable["NIMCModel"], MLWritable):
    """A trained model. Nobody is dropped: every row gets a score, and `score_source` says where it comes from.

    score_source is "model" where something is known of both the user and the item (features, an id with training
    ratings, or a history), else "baseline": the unknown side counts as the average of the training ratings' users
    (items). Histories are made of the context ratings (`setContext` or contextTable).
    """

    def __init__(self, trained: Trained | None = None) -> None:
        super().__init__()
        self._trained = trained
        self._held: dict[SideName, DataFrame] = {}
        self._users: DataFrame | None = None
        self._items: DataFrame | None = None
        self._context: DataFrame | None = None

    @property
    def trained(self) -> Trained:
        """The numbers of the model, on the driver."""
        if self._trained is None:
            raise TrainingError("this NIMCModel is empty: fit a NIMC, or load a saved model")
        return self._trained

    @property
    def summary(self) -> TrainingSummary:
        """What training did."""
        return self.trained.summary

    @property
    def hasHistories(self) -> bool:
        """Whether scores depend on the context ratings."""
        return any(side.history is not None for side in self.trained.sides.values())

    @property
    def userFactors(self) -> DataFrame:
        """DataFrame(id, features array<double> of rank + 2): the inner product with an item's is the score."""
        return self._published(SideName.USERS)

    @property
    def itemFactors(self) -> DataFrame:
        """DataFrame(id, features array<double> of rank + 2)."""
        return self._published(SideName.ITEMS)

    def factors(self, side: SideName, features_of: DataFrame | None = None, only: DataFrame | None = None) -> DataFrame:
        """DataFrame(id, factors, source) of a side: of its table, its trained ids and those in the context.

        `features_of` takes the place of the table, and `only` DataFrame(id) restricts all of them. Raises UsageError if
        the model has features or histories and no table or context was given, DataError for unusable rows in them.
        """
        if features_of is None and side in self._held:
            return self._held[side]
        own, fitted = self.trained.sides[side], self.trained.features[side]
        ids = SparkSession.active().createDataFrame(own.ids)
        encoded = self._encoded(side, features_of, _native_type(own)) if fitted.declarations else None
        histories = self._histories(side) if own.history is not None else None
        frames = (_restricted(rows, only) for rows in (encoded, histories))
        return factor_rows(own, ids if only is None else ids.join(only, "id", "semi"), *frames)

    def _encoded(self, side: SideName, features_of: DataFrame | None, target: DataType) -> DataFrame:
        fitted = self.trained.features[side]
        held = self._users if side is SideName.USERS else self._items
        table = features_of if features_of is not None else side_table(self, side, held, SparkSession.active())
        if table is None:
            raise UsageError(f"this model scores {side.value} by their features: give them with {_SETTER[side]}")
        return fitted.encode(with_id_type(SideInput(side, table, fitted.id_col, fitted.declarations), target))

    def _histories(self, side: SideName) -> DataFrame:
        """The side's `history_lists` of the context, its ids in the types of the trained ones."""
        spark, sides = SparkSession.active(), self.trained.sides
        context = context_ratings(self, self._context, spark)
        for column, model in zip(("user", "item"), (sides[s] for s in SideName), strict=True):
            aligned = align_id(F.col(column), id_type(context, column), _native_type(model))
            context = context.withColumn(column, aligned)
        others, history = sides[side.other].ids, sides[side].history
        index = pa.array(np.arange(others.num_rows, dtype=np.int32))
        known = others.select([n for n in ("id", "bias") if n in others.column_names]).append_column("index", index)
        mean = 0.0 if history is None else history.mean
        return history_lists(context.dropna(), side, spark.createDataFrame(known), mean)

    @contextmanager
    def heldFactors(self, *sides: SideName) -> Iterator[None]:
        """Inside, the factors of `sides`, by default of both, are computed once and kept by Spark for several calls."""
        wanted = [side for side in sides or SideName if side not in self._held]
        with ExitStack() as kept:
            own = {side: kept.enter_context(held(self.factors(side))) for side in wanted}
            before, self._held = self._held, {**self._held, **own}
            try:
                yield
            finally:
                self._held = before

    def recommend(
        self, k: int, users: DataFrame | None = None, items: DataFrame | None = None, exclude: DataFrame | None = None
    ) -> DataFrame:
        """DataFrame(user, rank, item, score, score_source): the k best items of every user, or of those in `users`.

        `users` and `items` have userCol and itemCol, and may bring the attributes of new ones; `exclude` is
        DataFrame(user, item) of pairs that are never recommended, taken out before the k are chosen.
        """
        for_users, from_items = (
            self.factors(side) if subset is None else self._subset(side, subset)
            for side, subset in ((SideName.USERS, users), (SideName.ITEMS, items))
        )
        return self._best(for_users, from_items, k, exclude)

    def recommendForAllUsers(self, numItems: int) -> DataFrame:
        """DataFrame(userCol, recommendations array<struct<itemCol, rating>>), as ALS gives it."""
        return self._lists(self.recommend(numItems), SideName.USERS)

    def recommendForUserSubset(self, dataset: DataFrame, numItems: int) -> DataFrame:
        """The same for the users in `dataset`, none left out; attributes in it serve users the tables do not have."""
        return self._lists(self.recommend(numItems, users=dataset), SideName.USERS)

    def recommendForAllItems(self, numUsers: int) -> DataFrame:
        """DataFrame(itemCol, recommendations array<struct<userCol, rating>>)."""
        chosen = self._best(self.factors(SideName.ITEMS), self.factors(SideName.USERS), numUsers)
        return self._lists(chosen, SideName.ITEMS)

    def recommendForItemSubset(self, dataset: DataFrame, numUsers: int) -> DataFrame:
        """The same for the items in `dataset`."""
        chosen = self._best(self._subset(SideName.ITEMS, dataset), self.factors(SideName.USERS), numUsers)
        return self._lists(chosen, SideName.ITEMS)

    def _transform(self, dataset: DataFrame) -> DataFrame:
        columns = [self.side_column(side) for side in SideName]
        missing = [name for name in columns if name not in dataset.columns]
        if missing:
            raise DataError(f"the pairs have no column {', '.join(missing)}; they have: {', '.join(dataset.columns)}")
        check_names(dataset, "the pairs")
        sides = self.trained.sides
        return score_pairs(
            dataset,
            user_col=columns[0],
            item_col=columns[1],
            users=self.factors(SideName.USERS),
            items=self.factors(SideName.ITEMS),
            user_default=sides[SideName.USERS].default,
            item_default=sides[SideName.ITEMS].default,
            prediction_col=self.getOrDefault("predictionCol"),
            source_col=SCORE_SOURCE,
            clip=self._clip,
        )

    @property
    def _clip(self) -> tuple[float, float] | None:
        return self.trained.rating_range if self.getOrDefault("clip") and not self.ranks else None

    def _best(self, users: DataFrame, items: DataFrame, k: int, exclude: DataFrame | None = None) -> DataFrame:
        """Lists by the scores as they are, which then read as those of `transform` do."""
        if not self.ranks:
            _LOG.warning(RANKS_BY_RATINGS)
        lists = top_k(users, items, k, exclude)
        return lists.withColumn("score", clipped(F.col("score"), self._clip))

    def _subset(self, side: SideName, dataset: DataFrame) -> DataFrame:
        """Factor rows of exactly the distinct ids in `dataset`; those unknown get the default row."""
        column, fitted = self.side_column(side), self.trained.features[side]
        if column not in dataset.columns:
            raise DataError(f"the {side.value} have no column {column!r}; they have: {', '.join(dataset.columns)}")
        sources = {name for d in fitted.declarations for name in d.sources}
        missing = sorted(sources - set(dataset.columns))
        if missing and len(missing) < len(sources):
            raise DataError(
                f"the {side.value} bring only some features: {', '.join(missing)} missing; give all or none"
            )
        brings = bool(sources) and not missing
        columns = [quoted(name) for name in sorted({column, *sources})]
        given = dataset.where(quoted(column).isNotNull()).select(*columns).distinct() if brings else None
        target = _native_type(self.trained.sides[side])
        wanted = align_id(quoted(column), id_type(dataset, column), target)
        if id_type(dataset, column) != target:
            strange = dataset.where(quoted(column).isNotNull() & wanted.isNull()).count()
            if strange:
                raise DataError(
                    f"{strange} values of {column!r} are no {target.simpleString()}, as the model's ids are"
                )
        default = F.array(*(F.lit(v) for v in self.trained.sides[side].default))
        asked = dataset.select(wanted.alias("id")).where(F.col("id").isNotNull()).distinct()
        return asked.join(self.factors(side, given, asked), "id", "left").select(
            "id",
            F.coalesce("factors", default).alias("factors"),
            F.coalesce("source", F.lit(BASELINE)).alias("source"),
        )

    def _published(self, side: SideName) -> DataFrame:
        return self.factors(side).select("id", F.col("factors").alias("features"))

    def _lists(self, flat: DataFrame, side: SideName) -> DataFrame:
        other = SideName.ITEMS if side is SideName.USERS else SideName.USERS
        entry = F.struct("rank", F.col("item").alias(self.side_column(other)), F.col("score").alias("rating"))
        ordered = F.array_sort(F.collect_list(entry))
        without_rank = F.transform(ordered, lambda e: e.dropFields("rank"))
        own = F.col("user").alias(self.side_column(side))
        return flat.groupBy(own).agg(without_rank.alias("recommendations"))

    def write(self) -> ModelWriter:
        return ModelWriter(self)

    def save(self, path: str) -> None:
        """Write the model to a new folder: JSON, npz and Parquet. Raises UsageError if the path is taken."""
        self.write().save(path)

    @classmethod
    def read(cls) -> ModelReader[NIMCModel]:
        return ModelReader(cls)

    @classmethod
    def load(cls, path: str) -> NIMCModel:
        """The model that was saved at `path`. Raises DataError if it is none, or damaged."""
        model: NIMCModel = cls.read().load(path)
        return model


def _native_type(side: SideModel) -> DataType:
    """The type of a side's ids."""
    return from_arrow_type(side.ids.schema.field("id").type)


def _restricted(rows: DataFrame | None, only: DataFrame | None) -> DataFrame | None:
    return rows if rows is None or only is None else rows.join(only, "id", "semi")
