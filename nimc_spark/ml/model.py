"""`NIMCModel`: scores of pairs, lists of recommendations, factors."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import reduce

import numpy as np
import pyarrow as pa
from pyspark.ml import Model
from pyspark.ml.util import MLReadable, MLWritable
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.pandas.types import from_arrow_type
from pyspark.sql.types import DataType

from nimc_spark.engine.cells import (
    MAIN,
    Router,
    routed_default,
    routed_rows,
    routed_source,
    routed_speaker,
    routed_top_k,
)
from nimc_spark.engine.context import held
from nimc_spark.engine.factors import SideModel, factor_rows, known_rows
from nimc_spark.engine.features import FittedFeatures
from nimc_spark.engine.history import history_lists
from nimc_spark.engine.index import RESERVED, align_id, check_names, id_type, quoted
from nimc_spark.engine.pairs import BASELINE, clipped, combined_source, score_pairs
from nimc_spark.engine.topk import top_k
from nimc_spark.errors import DataError, TrainingError, UsageError
from nimc_spark.kernels.model import SideName
from nimc_spark.ml.params import NIMCParams, with_accessors
from nimc_spark.ml.persistence import ModelReader, ModelWriter
from nimc_spark.ml.ratings import context_ratings
from nimc_spark.ml.reasons import pair_reasons
from nimc_spark.ml.sides import SideInput, side_table, with_id_type
from nimc_spark.ml.summary import TrainingSummary
from nimc_spark.ml.tables import HoldsContext
from nimc_spark.ml.training import Trained

_LOG = logging.getLogger(__name__)
SCORE_SOURCE = "score_source"
RANKS_BY_RATINGS = (
    "lists are ordered by predicted ratings, which is not the order in which people choose: "
    "train with objective = ranking for that"
)
TABLES = ("usersTable", "itemsTable", "contextTable")
_AGREED = ("userCol", "itemCol", "ratingCol", "predictionCol", "objective", "positiveFrom", "clip")
_SETTER = {SideName.USERS: "setUsers or usersTable", SideName.ITEMS: "setItems or itemsTable"}


@with_accessors
class NIMCModel(Model, NIMCParams, HoldsContext, MLReadable["NIMCModel"], MLWritable):
    """A trained model. Nobody is dropped: every row gets a score, and `score_source` says where it comes from.

    score_source is "model" where something is known of both the user and the item (features, an id with training
    ratings, or a history), else "baseline": the unknown side counts as the average of the training ratings' users
    (items). Histories are made of the context ratings (`setContext` or contextTable).

    A model may have several members (`routed`), one for each cell of known and new users and items; then score_source
    is "model:" and the member's name.
    """

    def __init__(self, trained: Trained | None = None) -> None:
        super().__init__()
        self._trained = trained
        self._members: Mapping[str, NIMCModel] = {}
        self._router: Router | None = None
        self._held: dict[SideName, DataFrame] = {}
        self._users: DataFrame | None = None
        self._items: DataFrame | None = None
        self._context: DataFrame | None = None

    @staticmethod
    def routed(members: Mapping[str, NIMCModel], router: Mapping[str, str]) -> NIMCModel:
        """One model of several: in each cell of `router` ("known_user/new_item", …, all four) the member speaks that it
        names, with the very scores that the member alone has. Known is who has a rating in the context.

        Columns and Params of the whole are those of the member for known users and items; its tables and context are
        the first that a member holds. Raises UsageError for a router that does not fit the members, and for members of
        different columns, id types or objectives.
        """
        checked = Router.checked(router, members)
        _check_members(members)
        whole = members[checked.members[0]]._copyValues(NIMCModel())._of_several(members, checked)
        for name in ("_users", "_items", "_context"):
            setattr(
                whole, name, next((h for m in whole._members.values() if (h := getattr(m, name)) is not None), None)
            )
        return whole

    def _of_one(self, trained: Trained) -> NIMCModel:
        self._trained = trained
        return self

    def _of_several(self, members: Mapping[str, NIMCModel], router: Router) -> NIMCModel:
        self._router = router
        self._members = {name: members[name] for name in router.members}
        return self

    @property
    def router(self) -> dict[str, str]:
        """The member of each cell; empty if the model is one."""
        return {} if self._router is None else dict(self._router.member_of)

    @property
    def members(self) -> dict[str, NIMCModel]:
        """The models that this one is made of, by name, with its tables and context: {"main": itself} if it is one."""
        if self._router is None:
            return {MAIN: self}
        tables = {name: self.optional(name) for name in TABLES if self.isSet(name)}
        members = {name: member.copy() for name, member in self._members.items()}
        for member in members.values():
            member._set(**tables)
            member.setUsers(self._users).setItems(self._items).setContext(self._context)
        return members

    @property
    def trained(self) -> Trained:
        """The numbers of the model, on the driver. Raises UsageError if it has several members: those have them."""
        if self._router is not None:
            raise UsageError(
                f"this NIMCModel has several members: use members[…] with one of {', '.join(self._members)}"
            )
        if self._trained is None:
            raise TrainingError("this NIMCModel is empty: fit a NIMC, or load a saved model")
        return self._trained

    @property
    def summary(self) -> TrainingSummary:
        """What training did. Raises UsageError if the model has several members: each has its own."""
        return self.trained.summary

    @property
    def usesContext(self) -> bool:
        """Whether scores depend on the context ratings: by histories, or by the cells of members."""
        return self._router is not None or any(side.history is not None for side in self.trained.sides.values())

    @property
    def userFactors(self) -> DataFrame:
        """DataFrame(id, features array<double> of rank + 2): the inner product with an item's is the score."""
        return self._published(SideName.USERS)

    @property
    def itemFactors(self) -> DataFrame:
        """DataFrame(id, features array<double> of rank + 2)."""
        return self._published(SideName.ITEMS)

    def factors(self, side: SideName, features_of: DataFrame | None = None, only: DataFrame | None = None) -> DataFrame:
        """DataFrame(id, factors, source) of a side: of its table, its trained ids and those in the context, whose
        products are scores; source says what is known of the id.

        `features_of` takes the place of the table, and `only` DataFrame(id) restricts all of them. Raises UsageError if
        the model has features or histories and no table or context was given, DataError for unusable rows in them.
        """
        if features_of is None and side in self._held:
            return self._held[side]
        members = self._numbers
        by_context = self._router is not None or any(m.sides[side].history is not None for m in members.values())
        context = self._known_ratings() if by_context else None
        rows = {
            name: factor_rows(trained.sides[side], self._side_rows(trained, side, context, features_of, only))
            for name, trained in members.items()
        }
        if self._router is None or context is None:
            return rows[MAIN]
        known = _restricted(context.select(F.col(side.one).alias("id")).distinct(), only)
        defaults = {name: trained.sides[side].default for name, trained in members.items()}
        return routed_rows(self._router, side, rows, defaults, known)

    def _side_rows(
        self,
        trained: Trained,
        side: SideName,
        context: DataFrame | None,
        features_of: DataFrame | None = None,
        only: DataFrame | None = None,
    ) -> DataFrame:
        """`known_rows` of one member."""
        own, fitted = trained.sides[side], trained.features[side]
        ids = SparkSession.active().createDataFrame(own.ids)
        encoded = self._encoded(fitted, side, features_of) if fitted.declarations else None
        histories = None if context is None or own.history is None else _histories(trained, side, context)
        frames = (None if rows is None else _restricted(rows, only) for rows in (encoded, histories))
        return known_rows(ids if only is None else ids.join(only, "id", "semi"), *frames)

    def _encoded(self, fitted: FittedFeatures, side: SideName, features_of: DataFrame | None) -> DataFrame:
        held = self._users if side is SideName.USERS else self._items
        table = features_of if features_of is not None else side_table(self, side, held, SparkSession.active())
        if table is None:
            raise UsageError(f"this model scores {side.value} by their features: give them with {_SETTER[side]}")
        source = SideInput(side, table, fitted.id_col, fitted.declarations)
        return fitted.encode(with_id_type(source, self.idType(side)))

    def _known_ratings(self) -> DataFrame:
        """The context, its ids in the types of the trained ones."""
        context = context_ratings(self, self._context, SparkSession.active())
        for side in SideName:
            aligned = align_id(F.col(side.one), id_type(context, side.one), self.idType(side))
            context = context.withColumn(side.one, aligned)
        return context.dropna()

    @property
    def _numbers(self) -> dict[str, Trained]:
        """What is trained, by member."""
        if self._router is None:
            return {MAIN: self.trained}
        return {name: member.trained for name, member in self._members.items()}

    @property
    def _first(self) -> Trained:
        """For what all members have in common."""
        return next(iter(self._numbers.values()))

    def idType(self, side: SideName) -> DataType:
        """The type of a side's ids."""
        return _native_type(self._first.sides[side])

    def _default(self, side: SideName) -> tuple[float, ...]:
        """The row of an id of which nothing is known."""
        defaults = {name: trained.sides[side].default for name, trained in self._numbers.items()}
        return defaults[MAIN] if self._router is None else routed_default(self._router, side, defaults)

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
        self,
        k: int,
        users: DataFrame | None = None,
        items: DataFrame | None = None,
        exclude: DataFrame | None = None,
        candidates: DataFrame | None = None,
    ) -> DataFrame:
        """DataFrame(user, rank, item, score, score_source): the k best items of every user, or of those in `users`.

        `users` and `items` have userCol and itemCol, and may bring the attributes of new ones; `exclude` is
        DataFrame(user, item) of pairs that are never recommended, taken out before the k are chosen; whoever is in
        `candidates`, DataFrame(user, item), gets no other items than theirs there.
        """
        for_users, from_items = (
            self.factors(side) if subset is None else self._subset(side, subset)
            for side, subset in ((SideName.USERS, users), (SideName.ITEMS, items))
        )
        return self._best(SideName.USERS, for_users, from_items, k, exclude, candidates)

    def recommendForAllUsers(self, numItems: int) -> DataFrame:
        """DataFrame(userCol, recommendations array<struct<itemCol, rating>>), as ALS gives it."""
        return self._lists(self.recommend(numItems), SideName.USERS)

    def recommendForUserSubset(self, dataset: DataFrame, numItems: int) -> DataFrame:
        """The same for the users in `dataset`, none left out; attributes in it serve users the tables do not have."""
        return self._lists(self.recommend(numItems, users=dataset), SideName.USERS)

    def recommendForAllItems(self, numUsers: int) -> DataFrame:
        """DataFrame(itemCol, recommendations array<struct<userCol, rating>>)."""
        chosen = self._best(SideName.ITEMS, self.factors(SideName.ITEMS), self.factors(SideName.USERS), numUsers)
        return self._lists(chosen, SideName.ITEMS)

    def recommendForItemSubset(self, dataset: DataFrame, numUsers: int) -> DataFrame:
        """The same for the items in `dataset`."""
        chosen = self._best(
            SideName.ITEMS, self._subset(SideName.ITEMS, dataset), self.factors(SideName.USERS), numUsers
        )
        return self._lists(chosen, SideName.ITEMS)

    def reasons(self, pairs: DataFrame, n: int = 3) -> DataFrame:
        """DataFrame(userCol, itemCol, reasons array<struct<side, feature, contribution>>) of each distinct pair: the n
        features of either side that add most to its score before clip, s(x, y) − s(x without it, y), if they add.

        side is users or items; feature a column by its name (genre=Drama), id, or history=ID for a rating in the
        context; without it its column is 0, which for a number is its mean. A side of which nothing is known has none.
        Raises UsageError for n < 1, DataError for pairs without the two columns.
        """
        if isinstance(n, bool) or not isinstance(n, int) or n < 1:
            raise UsageError(f"n is {n!r}: the number of reasons must be an integer of at least 1")
        self._check_pairs(pairs)
        given = [quoted(self.side_column(side)) for side in SideName]
        aligned = {side: f"{RESERVED}{side.one}" for side in SideName}
        keyed = pairs.select(*given, *(self._aligned(pairs, side).alias(aligned[side]) for side in SideName)).distinct()
        asked = keyed.select(*(F.col(aligned[side]).alias(side.one) for side in SideName)).distinct()
        context = self._known_ratings() if self.usesContext else None
        found = reduce(
            DataFrame.unionByName,
            (self._reasons_of(member, context, own, n) for member, own in self._by_speaker(asked, context)),
        )
        found = found.withColumnsRenamed({side.one: f"{RESERVED}found_{side.one}" for side in SideName})
        same = [F.col(aligned[side]).eqNullSafe(F.col(f"{RESERVED}found_{side.one}")) for side in SideName]
        return keyed.join(found, same, "left").select(*given, "reasons")

    def _by_speaker(self, pairs: DataFrame, context: DataFrame | None) -> Iterator[tuple[str, DataFrame]]:
        """The pairs of each member's cells."""
        if self._router is None or context is None:
            yield MAIN, pairs
            return
        columns = [side.one for side in SideName]
        for column in columns:
            known = context.select(column).distinct().withColumn(f"{column}_known", F.lit(True))
            pairs = pairs.join(known, column, "left")
        flags = (F.coalesce(F.col(f"{column}_known"), F.lit(False)) for column in columns)
        pairs = pairs.withColumn("speaker", routed_speaker(self._router, *flags))
        for name in self._router.members:
            yield name, pairs.where(F.col("speaker") == name).select(*columns)

    def _reasons_of(self, member: str, context: DataFrame | None, pairs: DataFrame, n: int) -> DataFrame:
        """`pair_reasons` by one member."""
        trained = self._numbers[member]
        only = {side: pairs.select(F.col(side.one).alias("id")).distinct() for side in SideName}
        rows = {side: self._side_rows(trained, side, context, only=only[side]) for side in SideName}
        # A model of one may have its factors at hand.
        factors = {
            side: self.factors(side, only=only[side])
            if member == MAIN
            else factor_rows(trained.sides[side], rows[side])
            for side in SideName
        }
        return pair_reasons(trained, rows, factors, pairs, n)

    def _check_pairs(self, pairs: DataFrame) -> None:
        missing = [name for name in map(self.side_column, SideName) if name not in pairs.columns]
        if missing:
            raise DataError(f"the pairs have no column {', '.join(missing)}; they have: {', '.join(pairs.columns)}")
        check_names(pairs, "the pairs")

    def _aligned(self, dataset: DataFrame, side: SideName) -> Column:
        """The ids of a side in the trained ones' type, null for those that are none."""
        column = self.side_column(side)
        return align_id(quoted(column), id_type(dataset, column), self.idType(side))

    def _transform(self, dataset: DataFrame) -> DataFrame:
        self._check_pairs(dataset)
        source_of = combined_source if self._router is None else routed_source(self._router)
        return score_pairs(
            dataset,
            user_col=self.side_column(SideName.USERS),
            item_col=self.side_column(SideName.ITEMS),
            users=self.factors(SideName.USERS),
            items=self.factors(SideName.ITEMS),
            user_default=self._default(SideName.USERS),
            item_default=self._default(SideName.ITEMS),
            prediction_col=self.getOrDefault("predictionCol"),
            source_col=SCORE_SOURCE,
            clip=self._clip,
            source_of=source_of,
        )

    @property
    def _clip(self) -> tuple[float, float] | None:
        if self.ranks or not self.getOrDefault("clip"):
            return None
        lows, highs = zip(*(trained.rating_range for trained in self._numbers.values()), strict=True)
        return min(lows), max(highs)

    def _best(
        self,
        own: SideName,
        rows: DataFrame,
        others: DataFrame,
        k: int,
        exclude: DataFrame | None = None,
        candidates: DataFrame | None = None,
    ) -> DataFrame:
        """Lists of the side `own` by the scores as they are, which then read as those of `transform` do."""
        if not self.ranks:
            _LOG.warning(RANKS_BY_RATINGS)
        if self._router is None:
            lists = top_k(rows, others, k, exclude, candidates=candidates)
        else:
            lists = routed_top_k(self._router, own, rows, others, k, exclude, candidates)
        return lists.withColumn("score", clipped(F.col("score"), self._clip))

    def _subset(self, side: SideName, dataset: DataFrame) -> DataFrame:
        """Factor rows of exactly the distinct ids in `dataset`; those unknown get the default row."""
        column = self.side_column(side)
        if column not in dataset.columns:
            raise DataError(f"the {side.value} have no column {column!r}; they have: {', '.join(dataset.columns)}")
        declared = [d for trained in self._numbers.values() for d in trained.features[side].declarations]
        sources = {name for d in declared for name in d.sources}
        missing = sorted(sources - set(dataset.columns))
        if missing and len(missing) < len(sources):
            raise DataError(
                f"the {side.value} bring only some features: {', '.join(missing)} missing; give all or none"
            )
        brings = bool(sources) and not missing
        columns = [quoted(name) for name in sorted({column, *sources})]
        given = dataset.where(quoted(column).isNotNull()).select(*columns).distinct() if brings else None
        target = self.idType(side)
        wanted = self._aligned(dataset, side)
        if id_type(dataset, column) != target:
            strange = dataset.where(quoted(column).isNotNull() & wanted.isNull()).count()
            if strange:
                raise DataError(
                    f"{strange} values of {column!r} are no {target.simpleString()}, as the model's ids are"
                )
        default = F.array(*map(F.lit, self._default(side)))
        asked = dataset.select(wanted.alias("id")).where(F.col("id").isNotNull()).distinct()
        source = F.coalesce("source", F.lit(BASELINE)) if self._router is None else F.col("source")
        return asked.join(self.factors(side, given, asked), "id", "left").select(
            "id", F.coalesce("factors", default).alias("factors"), source.alias("source")
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


def check_same_params(members: Mapping[str, NIMCParams]) -> None:
    """Raises UsageError unless columns and objective are the same in all members, estimators or models."""
    for param in _AGREED:
        _check_equal(param, {name: member.optional(param) for name, member in members.items()})


def _check_members(members: Mapping[str, NIMCModel]) -> None:
    """Raises UsageError unless the members have the same columns, types of ids and objective."""
    for name, member in members.items():
        if member._router is not None:
            raise UsageError(f"the member {name} has members itself: give those")
    check_same_params(members)
    for side in SideName:
        kinds = {name: _native_type(member.trained.sides[side]) for name, member in members.items()}
        _check_equal(f"type of the {side.value}' ids", {name: kind.simpleString() for name, kind in kinds.items()})


def _check_equal(what: str, values: Mapping[str, object]) -> None:
    if len(set(values.values())) > 1:
        found = ", ".join(f"{value!r} of {name}" for name, value in values.items())
        raise UsageError(f"members of one model must have the same {what}; found {found}")


def _native_type(side: SideModel) -> DataType:
    """The type of a side's ids."""
    return from_arrow_type(side.ids.schema.field("id").type)


def _histories(trained: Trained, side: SideName, context: DataFrame) -> DataFrame:
    """The side's `history_lists` of the context."""
    others, history = trained.sides[side.other].ids, trained.sides[side].history
    index = pa.array(np.arange(others.num_rows, dtype=np.int32))
    known = others.select([n for n in ("id", "bias") if n in others.column_names]).append_column("index", index)
    mean = 0.0 if history is None else history.mean
    return history_lists(context, side, SparkSession.active().createDataFrame(known), mean)


def _restricted(rows: DataFrame, only: DataFrame | None) -> DataFrame:
    return rows if only is None else rows.join(only, "id", "semi")
