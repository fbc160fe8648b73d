"""The oracle of a data set: any statistics in a pass, and what solvers ask for from them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np

from nimc_spark.data.passes import Request
from nimc_spark.kernels.complement import Complement
from nimc_spark.kernels.curvature import GaussNewton, Grams, Product, RowBlocks, array_of
from nimc_spark.kernels.model import Model, Parameters, SideName
from nimc_spark.kernels.objective import Objective
from nimc_spark.kernels.statistics import LossGradient, Statistic, Sums
from nimc_spark.solvers.curvature import BlockDiagonal
from nimc_spark.solvers.oracle import Answer, Evaluation, Oracle, Query, Want

# Up to this many parameters a side its whole diagonal block preconditions; above, the block of each feature.
_FULL_BLOCK_PARAMETERS = 1000


class PassOracle(ABC):
    """Runs passes over one data set. `LocalOracle` and `SparkOracle` differ only in where the records are."""

    @abstractmethod
    def answer(self, model: Model, requests: Sequence[Request]) -> list[Sums]:
        """One pass over Ω: the merged sums of each request."""

    def run(self, statistic: Statistic, model: Model, parameter_sets: Sequence[Parameters]) -> list[Sums]:
        """One pass over Ω: the merged sums of `statistic`, one for each parameter set."""
        return self.answer(model, [Request(statistic, parameters) for parameters in parameter_sets])

    def bind(self, objective: Objective) -> BoundOracle:
        """This data set's view of `objective`, as solvers want it."""
        return BoundOracle(self, objective)


class BoundOracle(Oracle):
    """A solver's `Oracle`: a list of queries is one pass; with a complement two jobs, the Grams first."""

    def __init__(self, passes: PassOracle, objective: Objective) -> None:
        self._passes = passes
        self._objective = objective

    def answer(self, queries: Sequence[Query]) -> list[Answer]:
        complements = self.complements(queries)
        requests = [self._request(query, c) for query, c in zip(queries, complements, strict=True)]
        sums = self._passes.answer(self._objective.model, requests)
        return [self._answer(*found) for found in zip(queries, sums, complements, strict=True)]

    def complements(self, queries: Sequence[Query]) -> list[Complement | None]:
        """The complement at each query, by a job of its own; None where the objective has none."""
        beta, model = self._objective.beta, self._objective.model
        if beta == 0:
            return [None] * len(queries)
        requests = [Request(Grams(self._direction(query)), model.unravel(query.x)) for query in queries]
        return [_complement(beta, model, sums) for sums in self._passes.answer(model, requests)]

    def _direction(self, query: Query) -> Parameters | None:
        return None if query.direction is None else self._objective.model.unravel(query.direction)

    def _request(self, query: Query, complement: Complement | None) -> Request:
        model = self._objective.model
        direction = self._direction(query)
        statistic: Statistic
        if direction is not None:
            statistic = Product(direction, query.want is Want.HESSIAN_PRODUCT, complement)
        elif query.want in (Want.MATRIX, Want.HESSIAN):
            statistic = GaussNewton(query.want is Want.HESSIAN, True, complement)
        elif query.want is Want.BLOCKS:
            widest = max(model.width(side) for side in SideName) * model.columns
            full = widest <= _FULL_BLOCK_PARAMETERS
            statistic = GaussNewton(False, False, complement) if full else RowBlocks(complement)
        else:
            statistic = LossGradient(complement)
        return Request(statistic, model.unravel(query.x))

    def _answer(self, query: Query, sums: Sums, complement: Complement | None) -> Answer:
        goal = self._objective
        if query.direction is not None:
            return goal.product(query.direction, sums)
        value, gradient = goal.value_and_gradient(query.x, sums, complement)
        if query.want is Want.BLOCKS:
            return Evaluation(value, gradient, BlockDiagonal(goal.blocks(sums)))
        if query.want in (Want.MATRIX, Want.HESSIAN):
            matrix = goal.matrix(sums, complement, exact=query.want is Want.HESSIAN)
            return Evaluation(value, gradient, BlockDiagonal((matrix[None],)))
        return Evaluation(value, gradient)


def _complement(beta: float, model: Model, sums: Sums) -> Complement:
    names = [side.value for side in SideName]
    nothing = np.zeros((model.rank + 2, model.rank + 2))
    changes = (array_of(sums, f"{name}_change") if f"{name}_change" in sums else nothing for name in names)
    return Complement(beta, *(array_of(sums, name) for name in names), *changes)
