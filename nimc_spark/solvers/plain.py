"""Solver states as plain data and back, with the same bits: a tree that JSON can hold, and the arrays beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from nimc_spark.solvers.adam import AdamState
from nimc_spark.solvers.curvature import BlockDiagonal
from nimc_spark.solvers.damping import Damping
from nimc_spark.solvers.gd import GdState
from nimc_spark.solvers.gncg import GncgState, Inner
from nimc_spark.solvers.lbfgs import LbfgsState
from nimc_spark.solvers.lm import LmState
from nimc_spark.solvers.oracle import Evaluation
from nimc_spark.solvers.solver import Iterate
from nimc_spark.solvers.stopping import StopReason

Array = npt.NDArray[Any]

_RECORDS = (AdamState, GdState, GncgState, LbfgsState, LmState, Inner, Damping, Iterate, Evaluation, BlockDiagonal)
_BY_NAME: Mapping[str, Any] = {kind.__name__: kind for kind in _RECORDS}


def to_plain(value: Any, arrays: list[Array]) -> Any:
    """The tree of `value`, a state or a part of one; its arrays are appended to `arrays`, and numbered in the tree.

    Raises TypeError for what states do not hold.
    """
    if isinstance(value, StopReason):
        return {"reason": value.value}
    if isinstance(value, np.generic):
        return value.item()
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, np.ndarray):
        arrays.append(value)
        return {"array": len(arrays) - 1}
    name = type(value).__name__
    if name in _BY_NAME:
        names = [f.name for f in fields(value)] if is_dataclass(value) else value._fields
        return {"record": name, "fields": {n: to_plain(getattr(value, n), arrays) for n in names}}
    if isinstance(value, tuple | list):
        return [to_plain(item, arrays) for item in value]
    raise TypeError(f"a solver's state holds a {name}, which has no plain form")


def from_plain(tree: Any, arrays: Sequence[Array]) -> Any:
    """What `to_plain` was given; sequences come back as tuples. Raises KeyError or TypeError for any other tree."""
    if isinstance(tree, list):
        return tuple(from_plain(item, arrays) for item in tree)
    if not isinstance(tree, dict):
        return tree
    if "array" in tree:
        return arrays[tree["array"]]
    if "reason" in tree:
        return StopReason(tree["reason"])
    inner = {name: from_plain(item, arrays) for name, item in tree["fields"].items()}
    return _BY_NAME[tree["record"]](**inner)
