"""What `tune` varies: dotted keys of the config, each with its values from a setting so far."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from jobs._config import Config, Multiples, parse_config, resolved
from jobs._estimator import estimator
from jobs._yaml import Tree, apply_override
from nimc_spark.data.declarations import History
from nimc_spark.engine.cells import MAIN
from nimc_spark.errors import UsageError
from nimc_spark.kernels.model import SideName
from nimc_spark.ml import search
from nimc_spark.ml.penalties import group_penalties

Setting = Mapping[str, Any]
Coordinates = Mapping[str, Callable[[Setting], Sequence[Any]]]

# Where the config names no space: these ranks, and every λ a few times smaller and larger.
_RANKS = (10, 20, 40)
_MULTIPLES = (0.25, 0.5, 2.0, 4.0)


def base_tree(config: Config) -> Tree:
    """The config as a tree without its search, in which λ of every feature group is written out."""
    tree: Tree = {key: value for key, value in resolved(config).items() if key != "tune"}
    nimc = estimator(config)
    penalties = group_penalties(nimc, {side: config.side_features(side.value) for side in SideName})
    reg: Tree = {"power": nimc.getOrDefault("regPower")}
    for side, groups in penalties.items():
        reg[side.value] = {name: {"factors": own.factors, "linear": own.linear} for name, own in groups.items()}
    return {**tree, "model": {**tree.get("model", {}), "reg": reg}}


def setting_config(tree: Tree, setting: Setting) -> Config:
    """The config with the setting's keys, λ of features that it leaves out left out too.

    Raises UsageError as a config file does.
    """
    changed = copy.deepcopy(tree)
    for key, value in setting.items():
        apply_override(changed, f"{key}={json.dumps(value)}")
    config = parse_config(changed, "tune.space")
    for side in SideName:
        present, penalties = config.groups(side.value), changed["model"]["reg"][side.value]
        changed["model"]["reg"][side.value] = {group: penalties[group] for group in penalties if group in present}
    return parse_config(changed, "tune.space")


def best_config(config: Config, settings: Mapping[str, Setting]) -> Config:
    """The config with the setting of each member, or of MAIN, and without its search."""
    found = {name: setting_config(base_tree(own), settings[name]) for name, own in config.by_member().items()}
    if not config.members:
        return found[MAIN]
    members = {}
    for name, own in found.items():
        tree = resolved(own)
        members[name] = {"features": tree.get("features", {}), "model": own.model.settings()}
    tree = {key: value for key, value in resolved(config).items() if key != "tune"}
    return parse_config({**tree, "members": members}, "tune.space")


def member_key(config: Config, member: str, key: str) -> str:
    """The place in the config of a setting's key."""
    return f"members.{member}.{key}" if config.members else key


def keyed_by_member(config: Config, settings: Mapping[str, Setting]) -> dict[str, Any]:
    """The settings of members as one."""
    return {member_key(config, name, key): value for name, own in settings.items() for key, value in own.items()}


_NOT_SEARCHED = ("model.starts", "model.average_starts")


def coordinates(config: Config, tree: Tree) -> Coordinates:
    """The values to try of each key: those that the config's space names, else of a space that its features span."""
    space = config.tune.space or _default_space(config)
    for key in space:
        if key.endswith(_NOT_SEARCHED):
            raise UsageError(f"tune.space: {key} cannot be searched: each trial has one start")
    return {key: partial(_values, tree, key, wanted) for key, wanted in space.items()}


def _values(tree: Tree, key: str, wanted: Sequence[Any] | Multiples, setting: Setting) -> list[Any]:
    now = setting.get(key, _at(tree, key))
    if not _present(tree, key, setting):
        return []
    values = search.Multiples(wanted.times).of(now) if isinstance(wanted, Multiples) else list(wanted)
    return [value for value in values if value != now]


def _default_space(config: Config) -> dict[str, Sequence[Any] | Multiples]:
    space: dict[str, Sequence[Any] | Multiples] = {}
    for side in SideName:
        declared = getattr(config.features, side.value)
        others = [d.model_dump(mode="json", exclude_none=True) for d in declared if not isinstance(d, History)]
        if others and len(others) < len(declared):
            space[f"features.{side.value}"] = [others]
    space["model.rank"] = _RANKS
    for side in SideName:
        for group in config.groups(side.value):
            for part in ("factors", "linear"):
                space[f"model.reg.{side.value}.{group}.{part}"] = Multiples(times=_MULTIPLES)
    return space


def _present(tree: Tree, key: str, setting: Setting) -> bool:
    """False for λ of a group that the setting's features do not have."""
    steps = key.split(".")
    if steps[:2] != ["model", "reg"] or len(steps) < 4:
        return True
    return steps[3] in setting_config(tree, setting).groups(steps[2])


def _at(tree: Tree, key: str) -> Any:
    value: Any = tree
    for step in key.split("."):
        value = value.get(step) if isinstance(value, Mapping) else None
    return value
