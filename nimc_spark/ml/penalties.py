"""regParam, linearRegParam and groupRegParam → λ of each feature group of a side."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nimc_spark.errors import UsageError
from nimc_spark.kernels.model import SideName
from nimc_spark.kernels.objective import GroupPenalty, Layout


def group_penalties(
    declared: Mapping[str, Any], default: GroupPenalty, layouts: Mapping[SideName, Layout]
) -> dict[SideName, dict[str, GroupPenalty]]:
    """λ of every group in `layouts`: the declared one, else the default.

    A declared number is λ of the factor rows; the linear rows keep the default. Raises UsageError for a side or a group
    that does not exist, naming those that do.
    """
    _known(declared, [side.value for side in SideName], "groupRegParam")
    penalties = {}
    for side in SideName:
        own = declared.get(side.value, {})
        groups = [name for name, _ in layouts[side].groups]
        if not isinstance(own, Mapping):
            own = dict.fromkeys(groups, own)
        _known(own, groups, f"groupRegParam[{side.value!r}]")
        penalties[side] = {name: penalty_of(own.get(name), default, f"{side.value}.{name}") for name in groups}
    return penalties


def penalty_of(value: Any, default: GroupPenalty, where: str) -> GroupPenalty:
    """λ of one group from what is declared of it: nothing, a number, or a mapping; `where` names it in errors."""
    if value is None:
        return default
    if isinstance(value, Mapping):
        _known(value, ["factors", "linear"], f"groupRegParam at {where}")
        return GroupPenalty(float(value.get("factors", default.factors)), float(value.get("linear", default.linear)))
    return GroupPenalty(float(value), default.linear)


def _known(found: Mapping[str, Any], allowed: list[str], where: str) -> None:
    for key in found:
        if key not in allowed:
            raise UsageError(f"{where}: there is no {key!r}; there are: {', '.join(allowed) or 'none'}")
