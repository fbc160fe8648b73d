"""Gates: what is measured before something is published, held against the limits of the config."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jobs._config import Gates
from jobs._job import Context
from nimc_spark.engine.list_checks import ListMeasures
from nimc_spark.errors import GateError
from nimc_spark.ml.evaluation import overall

_WHAT_TO_DO = "limits are in the config's `gates`, what to do in docs/operations.md under When a gate refuses"


@dataclass(frozen=True)
class Check:
    """A value that must be at most (with `least`: at least) the limit; one that is NaN could not be measured."""

    gate: str
    value: float
    limit: float
    least: bool = False

    @property
    def holds(self) -> bool:
        return math.isnan(self.value) or (self.value >= self.limit if self.least else self.value <= self.limit)

    def __str__(self) -> str:
        side, by = ("below", self.limit - self.value) if self.least else ("above", self.value - self.limit)
        return f"gate {self.gate}: {self.value:.6g} is {side} {self.limit:g} by {by:.3g}"


def require(context: Context, what: str, checks: Sequence[Check]) -> None:
    """Notes the checks in the run's result. Raises GateError that names each one that does not hold."""
    context.gates += [
        {"gate": c.gate, "value": c.value, "limit": c.limit, "least": c.least, "holds": c.holds} for c in checks
    ]
    for check in checks:
        if check.holds:
            value = "nothing to measure it by" if math.isnan(check.value) else f"{check.value:.6g}"
            context.log.info("gate %s: %s, %s %g", check.gate, value, "≥" if check.least else "≤", check.limit)
        else:
            context.log.error("%s: refused", check)
    failed = [str(check) for check in checks if not check.holds]
    if failed:
        raise GateError(f"{'; '.join(failed)}; {what}; {_WHAT_TO_DO}")


def input_checks(limit: float, counts: Mapping[str, int], before: Mapping[str, int | None]) -> dict[str, Check]:
    """Of the tables that `prepare` has read, by name: (rows before − rows used) / rows before, NaN where those before
    are None, not known any more. A table that was empty is not measured."""
    falls = {
        name: math.nan if rows is None else (rows - counts[f"{name}_used"]) / rows
        for name, rows in before.items()
        if rows != 0 and f"{name}_used" in counts
    }
    return {name: Check(f"rows_fall of {name}", fall, limit) for name, fall in falls.items()}


def model_checks(gates: Gates, cells: Mapping[str, Mapping[str, Any]]) -> list[Check]:
    """Of the cells that `evaluate` measured; `production` is in them if there was a model to compare with."""
    model, mean, production = (overall(cells, predictor) for predictor in ("model", "global_mean", "production"))
    found = [
        ("rmse_over_global_mean", _ratio(model, mean, "rmse"), False),
        ("rmse_rise", _ratio(model, production, "rmse") - 1, False),
        ("ndcg_fall", 1 - _ratio(model, production, "ndcg"), False),
    ]
    return list(_limited(gates, found))


def list_checks(
    gates: Gates, measures: ListMeasures, asked: Mapping[str, int], items: int, change: Mapping[str, float]
) -> list[Check]:
    """Of lists before they are published; `asked` are the counts of `score`, `change` against the lists before by
    gate."""
    everyone = max(asked["users_scored"], 1)
    found = [
        ("users_without_list", 1 - measures.users / everyone, False),
        ("short_lists", asked["users_with_short_lists"] / everyone, False),
        ("catalogue_coverage", measures.items / max(items, 1), True),
        ("baseline_rows", measures.baseline / max(measures.rows, 1), False),
        ("sameness", measures.sameness, False),
        *((gate, value, gate == "overlap") for gate, value in change.items()),
    ]
    fixed = [Check("faulty_lists", measures.faulty, 0), Check("non_finite_scores", measures.not_finite, 0)]
    return [*fixed, *_limited(gates, found)]


def unknown_checks(gates: Gates, unseen: Sequence[tuple[str, Mapping[str, Mapping[str, int]]]]) -> list[Check]:
    """Of counts by side and column (`unseen_counts`): the column with the largest share of unknown values."""
    limit = gates.unknown_values
    checks = [
        Check(f"unknown_values of {side}.{column}", of["unknown"] / max(of["rows"], 1), limit)
        for side, columns in unseen
        for column, of in columns.items()
        if limit is not None
    ]
    # Of equal ones the first.
    return sorted(checks, key=lambda check: -check.value)[:1]


def _limited(gates: Gates, found: Sequence[tuple[str, float, bool]]) -> Iterator[Check]:
    """The gates that have a limit."""
    for name, value, least in found:
        limit = getattr(gates, name)
        if limit is not None:
            yield Check(name, value, limit, least)


def _ratio(one: Mapping[str, float], other: Mapping[str, float], metric: str) -> float:
    """NaN where either was not measured, or the other is 0."""
    return one[metric] / other[metric] if metric in one and other.get(metric) else math.nan
