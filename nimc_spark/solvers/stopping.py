"""Why a solver stopped. Nothing says "converged" at the pass limit."""

from __future__ import annotations

from enum import Enum


class StopReason(Enum):
    """A name for logs and tables; `message` for people."""

    GRADIENT = "gradient"
    STALLED = "stalled"
    MAX_PASSES = "max_passes"
    MAX_SECONDS = "max_seconds"
    LINE_SEARCH = "line_search"
    NON_FINITE = "non_finite"
    DIVERGED = "diverged"

    @property
    def message(self) -> str:
        return _MESSAGES[self]

    @property
    def failed(self) -> bool:
        """True if the point reached is no result."""
        return self in (StopReason.NON_FINITE, StopReason.DIVERGED)


_MESSAGES = {
    StopReason.GRADIENT: "the gradient's norm fell below its tolerance",
    StopReason.STALLED: "the loss stopped decreasing by more than the tolerance",
    StopReason.MAX_PASSES: "the limit of passes was reached before the loss settled",
    StopReason.MAX_SECONDS: "the limit of seconds was reached before the loss settled",
    StopReason.LINE_SEARCH: "no step that the solver tries decreases the loss further at this precision",
    StopReason.NON_FINITE: "the loss or its gradient is not a finite number at the start",
    StopReason.DIVERGED: "the loss grew instead of falling: the step is too large",
}
