"""The shape of every solver: a pure step function over states.

A state holds the queries it wants answered next; `step` takes the answers and returns the next state. The solver never
calls the oracle, so that several starts share each pass (`multistart.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol, TypeVar

from nimc_spark.solvers.oracle import Answer, Query, Vector
from nimc_spark.solvers.stopping import StopReason


class Iterate(NamedTuple):
    """A point with its value and gradient."""

    x: Vector
    value: float
    gradient: Vector


class State(Protocol):
    """What `minimize` reads of a solver's state."""

    @property
    def queries(self) -> tuple[Query, ...]:
        """What the next pass is to answer for it."""
        ...

    @property
    def best(self) -> Iterate | None:
        """The iterate it would end with, None before the first evaluation: the best so far, or `gd`'s last."""
        ...

    @property
    def stopped(self) -> StopReason | None: ...


S = TypeVar("S", bound=State)


class Solver(Protocol[S]):
    """Frozen config; `start` and `step` are pure."""

    def start(self, x: Vector) -> S: ...

    def step(self, state: S, answers: Sequence[Answer]) -> S: ...
