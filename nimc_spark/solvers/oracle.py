"""What a solver may know of the problem: it asks a list of queries, and a list is one pass."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from enum import Enum
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from nimc_spark.solvers.curvature import BlockDiagonal

Vector = npt.NDArray[np.float64]


class Want(Enum):
    """What is asked at a point: f and ∇f, also with a part of ∇²f.

    MATRIX is the whole Gauss-Newton matrix, HESSIAN the whole ∇²f, BLOCKS diagonal blocks of the Gauss-Newton matrix.
    """

    GRADIENT = "gradient"
    MATRIX = "matrix"
    HESSIAN = "hessian"
    BLOCKS = "blocks"


class At(NamedTuple):
    """What is wanted at a point x (p,)."""

    x: Vector
    want: Want = Want.GRADIENT


class Along(NamedTuple):
    """The product of ∇²f(x) or, without `exact`, of the Gauss-Newton matrix with a direction (p,)."""

    x: Vector
    direction: Vector
    exact: bool = True


Query: TypeAlias = At | Along


class Evaluation(NamedTuple):
    """f and ∇f (p,) at a point, and the curvature if it was asked for."""

    value: float
    gradient: Vector
    curvature: BlockDiagonal | None = None

    def finite(self) -> bool:
        return bool(np.isfinite(self.value) and np.isfinite(self.gradient).all())


Answer: TypeAlias = Evaluation | Vector
"""An Evaluation of a point, or the vector (p,) of a product."""


class Oracle(ABC):
    """One call is one pass over Ω, whatever the number of queries.

    A pass has three steps, so that several problems over one Ω, which differ in their penalties, can share it: what the
    queries ask of the data, the pass, and what its results mean for the queries. Without penalties and scales all three
    speak of queries and answers.
    """

    def requests(self, queries: Sequence[Query]) -> list[Any]:
        """What the queries ask of the data, one request each."""
        return list(queries)

    @abstractmethod
    def run(self, requests: Sequence[Any]) -> list[Any]:
        """The pass: one result a request."""

    def answers(self, queries: Sequence[Query], results: Sequence[Any]) -> list[Answer]:
        """What the results of their requests mean for the queries."""
        return list(results)

    def answer(self, queries: Sequence[Query]) -> list[Answer]:
        """The answers to the queries, in one pass."""
        return self.answers(queries, self.run(self.requests(queries)))

    def evaluate(self, points: Sequence[Vector], want: Want = Want.GRADIENT) -> list[Evaluation]:
        """f and ∇f at each point."""
        return [evaluation_of(answer) for answer in self.answer([At(x, want) for x in points])]

    def product(self, x: Vector, direction: Vector, exact: bool = True) -> Vector:
        """∇²f(x)·direction, or the Gauss-Newton matrix's product."""
        return product_of(self.answer([Along(x, direction, exact)])[0])


def evaluation_of(answer: Answer) -> Evaluation:
    """The answer to a query at a point."""
    if isinstance(answer, Evaluation):
        return answer
    raise TypeError("this answers a product")


def product_of(answer: Answer) -> Vector:
    """The answer to a product."""
    if isinstance(answer, Evaluation):
        raise TypeError("this answers a point")
    return answer


class ScaledOracle(Oracle):
    """The same problem in the variables z = θ / scale: f(scale∘z), gradient scale∘∇f, curvature scaled from both sides.

    `scale` (p,) ≥ 0; a variable with scale 0 stays at 0.
    """

    def __init__(self, oracle: Oracle, scale: Vector) -> None:
        self._oracle = oracle
        self._scale = scale

    def requests(self, queries: Sequence[Query]) -> list[Any]:
        return self._oracle.requests([self._unscaled(query) for query in queries])

    def run(self, requests: Sequence[Any]) -> list[Any]:
        return self._oracle.run(requests)

    def answers(self, queries: Sequence[Query], results: Sequence[Any]) -> list[Answer]:
        unscaled = [self._unscaled(query) for query in queries]
        return [self._scaled(answer) for answer in self._oracle.answers(unscaled, results)]

    def _unscaled(self, query: Query) -> Query:
        if isinstance(query, Along):
            return Along(self._scale * query.x, self._scale * query.direction, query.exact)
        return At(self._scale * query.x, query.want)

    def _scaled(self, answer: Answer) -> Answer:
        if not isinstance(answer, Evaluation):
            return self._scale * answer
        curvature = None if answer.curvature is None else answer.curvature.scaled(self._scale)
        return Evaluation(answer.value, self._scale * answer.gradient, curvature)

    def to_scaled(self, theta: Vector) -> Vector:
        return np.divide(theta, self._scale, out=np.zeros_like(theta), where=self._scale > 0)

    def from_scaled(self, z: Vector) -> Vector:
        return self._scale * z
