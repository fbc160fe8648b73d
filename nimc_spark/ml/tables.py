"""The DataFrames that an estimator or a model holds."""

from __future__ import annotations

from typing import TypeVar

from pyspark.sql import DataFrame

from nimc_spark.errors import UsageError

Self = TypeVar("Self", bound="HoldsTables")
SelfContext = TypeVar("SelfContext", bound="HoldsContext")


class HoldsTables:
    """`setUsers` and `setItems`; `copy` keeps what they hold, so that CrossValidator works."""

    _users: DataFrame | None
    _items: DataFrame | None

    def setUsers(self: Self, users: DataFrame | None) -> Self:
        """Attributes of the users, with the column userCol; they come before usersTable. Raises UsageError for what is
        neither a DataFrame of Spark nor None, as the other setters do."""
        self._users = _frame(users, "setUsers")
        return self

    def setItems(self: Self, items: DataFrame | None) -> Self:
        """Attributes of the items, with the column itemCol; they come before itemsTable."""
        self._items = _frame(items, "setItems")
        return self


class HoldsContext(HoldsTables):
    """`setContext`: the ratings of which histories are made when scoring."""

    _context: DataFrame | None

    def setContext(self: SelfContext, ratings: DataFrame | None) -> SelfContext:
        """Ratings with userCol, itemCol and ratingCol that are known when scoring, also those given after the training;
        they come before contextTable. A model from `fit` has its training ratings."""
        self._context = _frame(ratings, "setContext")
        return self


def _frame(given: DataFrame | None, setter: str) -> DataFrame | None:
    if given is not None and not isinstance(given, DataFrame):
        raise UsageError(
            f"{setter} takes a Spark DataFrame or None, found {type(given).__module__}.{type(given).__name__}"
        )
    return given
