"""The DataFrames that an estimator or a model holds."""

from __future__ import annotations

from typing import TypeVar

from pyspark.sql import DataFrame

Self = TypeVar("Self", bound="HoldsTables")
SelfContext = TypeVar("SelfContext", bound="HoldsContext")


class HoldsTables:
    """`setUsers` and `setItems`; `copy` keeps what they hold, so that CrossValidator works."""

    _users: DataFrame | None
    _items: DataFrame | None

    def setUsers(self: Self, users: DataFrame | None) -> Self:
        """Attributes of the users, with the column userCol; they come before usersTable."""
        self._users = users
        return self

    def setItems(self: Self, items: DataFrame | None) -> Self:
        """Attributes of the items, with the column itemCol; they come before itemsTable."""
        self._items = items
        return self


class HoldsContext(HoldsTables):
    """`setContext`: the ratings of which histories are made when scoring."""

    _context: DataFrame | None

    def setContext(self: SelfContext, ratings: DataFrame | None) -> SelfContext:
        """Ratings with userCol, itemCol and ratingCol that are known when scoring, also those given after the training;
        they come before contextTable. A model from `fit` has its training ratings."""
        self._context = ratings
        return self
