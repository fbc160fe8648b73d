"""What training did: kept with the model, for people and for run records."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class TrainingSummary:
    """Counts of the data, and the course of training.

    losses holds the objective value (mean loss plus penalties) at which the kept start would have ended after each
    pass; `seconds` is wall time. `collapsed`: the factors make no difference between pairs, every score is offset and
    linear terms alone. `items_at` says where the items' features were evaluated, `passes_at` where passes ran.
    `warnings` are what a person should know: too many parameters, dead or saturated units, and the like.
    """

    ratings: int
    users: int
    items: int
    parameters: int
    lanes: int
    passes: int
    start: int
    reason: str
    loss: float
    losses: tuple[float, ...]
    seconds: float
    collapsed: bool
    solver: str = ""
    items_at: str = ""
    passes_at: str = ""
    warnings: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def from_json(raw: Mapping[str, Any]) -> TrainingSummary:
        return TrainingSummary(**{**raw, "losses": tuple(raw["losses"]), "warnings": tuple(raw.get("warnings", ()))})
