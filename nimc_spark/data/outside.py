"""The items evaluated once a pass, outside of the blocks: what a side with many features and few rows wants.

    Z = Y V         (n2, c) the items' inputs, dZ = Y dV along a direction
    ∇_V = Yᵀ ∇_Z    and c_r = Σ_j y_jr² Σ_i w_ij, the counts of the features

The blocks see items whose only features are their one-hot ids, with Z for parameters, so that a pass over Ω brings the
sums by Z; what it costs does not depend on Y. Y and Yᵀ are lanes without blocks, cut by items and by features, so that
each product is one `Inputs` whose lanes have rows of their own and send each row once.

Sums come out as those of an evaluation in the blocks, to rounding; statistics that need Y itself (matrices and their
blocks) are refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from nimc_spark.data.oracle import PassOracle
from nimc_spark.data.passes import Request
from nimc_spark.errors import UsageError
from nimc_spark.kernels.curvature import Product
from nimc_spark.kernels.features import Array, Entries, Index, Part, Rows, SparseGroup, dense_rows
from nimc_spark.kernels.model import Model, Parameters
from nimc_spark.kernels.statistics import Averages, Errors, FeatureCounts, Inputs, LossGradient, Sums, array_of, rows_of

_BY_INPUTS = (LossGradient, Product, FeatureCounts, Averages, Errors)


class OutsideItems(PassOracle):
    """Passes over Ω (`blocks`), the lanes of Y (`items`) and those of Yᵀ (`features`); `count` is n2."""

    def __init__(self, blocks: PassOracle, items: PassOracle, features: PassOracle, count: int) -> None:
        self._blocks = blocks
        self._items = items
        self._features = features
        self._count = count

    def answer(self, model: Model, requests: Sequence[Request]) -> list[Sums]:
        for request in requests:
            if not isinstance(request.statistic, _BY_INPUTS):
                name = type(request.statistic).__name__
                raise UsageError(f"{name} needs the items' features in the blocks: take a solver without matrices")
        z = iter(self._products(self._items, model, [w for r in requests for w in _item_weights(r)]))
        by_inputs = [self._by_inputs(model, request, z) for request in requests]
        found = self._blocks.answer(replace(model, items_width=self._count), by_inputs)
        return self._by_features(model, requests, found)

    def _products(self, oracle: PassOracle, model: Model, weights: Sequence[Array], squared: bool = False) -> list[Sums]:
        """X W of each W by one pass, X the matrix whose lanes `oracle` has."""
        if not weights:
            return []
        nothing = np.zeros((0, model.columns))
        return oracle.answer(model, [Request(Inputs(squared), Parameters(w, nothing)) for w in weights])

    def _by_inputs(self, model: Model, request: Request, z: Iterator[Sums]) -> Request:
        statistic, parameters = request
        if isinstance(statistic, FeatureCounts):
            # They are the same at all parameters.
            return Request(statistic, Parameters(parameters.users, np.zeros((self._count, model.columns))))
        parameters = Parameters(parameters.users, dense_rows(rows_of(next(z), "rows"), self._count))
        if isinstance(statistic, Product):
            moved = dense_rows(rows_of(next(z), "rows"), self._count)
            statistic = replace(statistic, direction=Parameters(statistic.direction.users, moved))
        return Request(statistic, parameters)

    def _by_features(self, model: Model, requests: Sequence[Request], found: Sequence[Sums]) -> list[Sums]:
        """The sums with those by Z turned into those by V."""
        done = list(found)
        counted = [n for n, r in enumerate(requests) if isinstance(r.statistic, FeatureCounts)]
        pulled = [n for n, r in enumerate(requests) if isinstance(r.statistic, LossGradient | Product)]
        precise = replace(model, dtype="float64")
        for numbers, shape, squared in ((pulled, model, False), (counted, precise, True)):
            by_z = [dense_rows(rows_of(found[n], "items"), self._count) for n in numbers]
            for n, sums in zip(numbers, self._products(self._features, shape, by_z, squared), strict=True):
                done[n] = found[n] | {"items": rows_of(sums, "rows")}
                if squared:
                    done[n]["non_finite"] = array_of(found[n], "non_finite") + array_of(sums, "non_finite")
        return done


def _item_weights(request: Request) -> list[Array]:
    """What a request wants to know the items' inputs at."""
    if isinstance(request.statistic, FeatureCounts):
        return []
    own = request.parameters.items
    return [own, request.statistic.direction.items] if isinstance(request.statistic, Product) else [own]


def with_row_numbers(part: Part, rows: Index) -> Part:
    """The part as `Inputs` wants it: a last group says which rows (n,), strictly increasing, of the whole it has."""
    places = np.arange(part.rows + 1, dtype=np.int32)
    own = SparseGroup(rows.astype(np.int64), places, places[:-1], np.ones(part.rows, np.float32))
    return Part(part.offset, (*part.groups, own))


def entries(part: Part) -> Entries:
    """The nonzeros of a part with row numbers, a group after the other."""
    *features, own = part.groups
    if not isinstance(own, SparseGroup):
        raise TypeError("a part without the numbers of its rows")
    found = [group.entries() for group in features]
    row, column, value = (np.concatenate(arrays) for arrays in zip(*found, strict=True))
    return Entries(own.columns[row], column, value)


def transposed(found: Entries) -> Part:
    """The rows of the transposed matrix that the entries touch, with row numbers; entries in any order."""
    order = np.lexsort((found.row, found.column))
    rows, counts = np.unique(found.column[order], return_counts=True)
    columns, places = np.unique(found.row[order], return_inverse=True)
    indptr = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
    group = SparseGroup(columns.astype(np.int64), indptr, places.astype(np.int32), found.value[order])
    return with_row_numbers(Part(np.zeros(len(rows)), (group,)), rows)
