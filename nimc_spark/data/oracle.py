"""The oracle of a data set: any statistic in a pass, and the solver's values and gradients from one of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from nimc_spark.kernels.model import Model, Parameters, Vector
from nimc_spark.kernels.objective import Objective
from nimc_spark.kernels.statistics import LossGradient, Statistic, Sums
from nimc_spark.solvers.oracle import Evaluation


class PassOracle(ABC):
    """Runs passes over one data set. `LocalOracle` and `SparkOracle` differ only in where the records are."""

    @abstractmethod
    def run(self, statistic: Statistic, model: Model, parameter_sets: Sequence[Parameters]) -> list[Sums]:
        """One pass over Ω: the merged sums of `statistic`, one for each parameter set."""

    def bind(self, objective: Objective) -> BoundOracle:
        """This data set's values and gradients of `objective`, as solvers want them."""
        return BoundOracle(self, objective)


class BoundOracle:
    """A solver's `Oracle`: `evaluate` is one pass, whatever the number of points."""

    def __init__(self, passes: PassOracle, objective: Objective) -> None:
        self._passes = passes
        self._objective = objective

    def evaluate(self, points: Sequence[Vector]) -> list[Evaluation]:
        model = self._objective.model
        sums = self._passes.run(LossGradient(), model, [model.unravel(theta) for theta in points])
        return [
            Evaluation(*self._objective.value_and_gradient(theta, s)) for theta, s in zip(points, sums, strict=True)
        ]
