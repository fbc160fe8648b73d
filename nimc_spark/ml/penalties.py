"""regParam, linearRegParam and groupRegParam → λ of each feature group of a side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from nimc_spark.data.declarations import Declaration, History, Id
from nimc_spark.errors import UsageError
from nimc_spark.kernels.model import SideName
from nimc_spark.kernels.objective import GroupPenalty
from nimc_spark.ml.params import ATTRIBUTES, HISTORIES, IDS, NIMCParams


def group_penalties(
    params: NIMCParams, declarations: Mapping[SideName, Sequence[Declaration]]
) -> dict[SideName, dict[str, GroupPenalty]]:
    """λ of every group that is declared: that of groupRegParam, else regParam and linearRegParam, else the default.

    A number in groupRegParam is λ of the factor rows; the linear rows keep theirs. Raises UsageError for a side or a
    group that does not exist, naming those that do.
    """
    declared = params.getOrDefault("groupRegParam")
    _known(declared, [side.value for side in SideName], "groupRegParam")
    penalties = {}
    for side in SideName:
        defaults = _defaults(params, declarations[side])
        own = declared.get(side.value, {})
        if not isinstance(own, Mapping):
            own = dict.fromkeys(defaults, own)
        _known(own, list(defaults), f"groupRegParam[{side.value!r}]")
        penalties[side] = {
            group: _penalty(own.get(group, {}), default, f"groupRegParam at {side.value}.{group}")
            for group, default in defaults.items()
        }
    return penalties


def _defaults(params: NIMCParams, declarations: Sequence[Declaration]) -> dict[str, GroupPenalty]:
    """λ of each group but for groupRegParam; one of several kinds has that of the first."""
    found: dict[str, GroupPenalty] = {}
    for declaration in declarations:
        kind = IDS if isinstance(declaration, Id) else HISTORIES if isinstance(declaration, History) else ATTRIBUTES
        factors, linear = params.optional("regParam"), params.optional("linearRegParam")
        found.setdefault(
            declaration.group,
            GroupPenalty(kind.factors if factors is None else factors, kind.linear if linear is None else linear),
        )
    return found


def _penalty(value: Any, default: GroupPenalty, where: str) -> GroupPenalty:
    """λ of one group from what is declared of it, a number or a mapping; `where` names it in errors."""
    if not isinstance(value, Mapping):
        return GroupPenalty(float(value), default.linear)
    _known(value, ["factors", "linear"], where)
    return GroupPenalty(float(value.get("factors", default.factors)), float(value.get("linear", default.linear)))


def _known(found: Mapping[str, Any], allowed: list[str], where: str) -> None:
    for key in found:
        if key not in allowed:
            raise UsageError(f"{where}: there is no {key!r}; there are: {', '.join(allowed) or 'none'}")
