"""The oracle of a data set: any statistics in a pass, and what solvers ask for from them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from nimc_spark.data.passes import Request
from nimc_spark.kernels.curvature import GaussNewton, Product, RowBlocks
from nimc_spark.kernels.model import Model, Parameters, SideName
from nimc_spark.kernels.objective import Objective
from nimc_spark.kernels.statistics import LossGradient, Statistic, Sums
from nimc_spark.solvers.curvature import BlockDiagonal
from nimc_spark.solvers.oracle import Along, Answer, Evaluation, Oracle, Query, Want

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
    """A solver's `Oracle`: a list of queries is one pass."""

    def __init__(self, passes: PassOracle, objective: Objective) -> None:
        self._passes = passes
        self._objective = objective

    def requests(self, queries: Sequence[Query]) -> list[Request]:
        model = self._objective.model
        return [Request(self._statistic(query), model.unravel(query.x)) for query in queries]

    def run(self, requests: Sequence[Request]) -> list[Sums]:
        return self._passes.answer(self._objective.model, requests)

    def answers(self, queries: Sequence[Query], results: Sequence[Sums]) -> list[Answer]:
        return [self._answer(*found) for found in zip(queries, results, strict=True)]

    def _statistic(self, query: Query) -> Statistic:
        model, beta = self._objective.model, self._objective.beta
        if isinstance(query, Along):
            return Product(model.unravel(query.direction), query.exact, beta)
        if query.want in (Want.MATRIX, Want.HESSIAN):
            return GaussNewton(query.want is Want.HESSIAN, True, beta)
        if query.want is Want.BLOCKS:
            widest = max(model.width(side) for side in SideName) * model.columns
            return GaussNewton(False, False, beta) if widest <= _FULL_BLOCK_PARAMETERS else RowBlocks(beta)
        return LossGradient(beta)

    def _answer(self, query: Query, sums: Sums) -> Answer:
        goal = self._objective
        if isinstance(query, Along):
            return goal.product(query.direction, sums)
        value, gradient = goal.value_and_gradient(query.x, sums)
        if query.want is Want.BLOCKS:
            return Evaluation(value, gradient, BlockDiagonal(goal.blocks(sums)))
        if query.want in (Want.MATRIX, Want.HESSIAN):
            return Evaluation(value, gradient, BlockDiagonal((goal.matrix(sums)[None],)))
        return Evaluation(value, gradient)
