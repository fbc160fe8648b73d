"""YAML files to one tree of plain values: safe loading, `extends`, `--set`."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from nimc_spark.errors import UsageError

Tree = dict[str, Any]

# Below these a mapping is one value: half a source from here and half from there reads nothing.
_WHOLE = frozenset({"sources", "features", "predict"})


# What a text can make the loader raise: it converts scalars of an explicit tag, such as !!int, unchecked.
_MALFORMED = (yaml.YAMLError, ValueError, LookupError, AttributeError)


class _Loader(yaml.SafeLoader):
    """Safe YAML in which 1e-6 is a number, as in YAML 1.2, and a key given twice is an error."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """As the text has it: what `<<: *other` merges, which yields to the keys given, is no repetition."""
        node: yaml.MappingNode = super().compose_mapping_node(anchor)  # type: ignore[no-untyped-call]
        seen: set[tuple[str, str]] = set()
        for key, _ in node.value:
            own = (key.tag, str(key.value))
            if own in seen:
                raise yaml.constructor.ConstructorError(None, None, f"key {key.value!r} given twice", key.start_mark)
            seen.add(own)
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        tree = super().construct_mapping(node, deep)
        for key in tree:
            if not isinstance(key, str | int | float | None):
                raise yaml.constructor.ConstructorError(None, None, f"{key!r} cannot be a key", node.start_mark)
        return tree


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d+(\.\d*)?|\.\d+)[eE][-+]?\d+$"), list("-+0123456789.")
)


def read_tree(path: str, overrides: Sequence[str] = ()) -> Tree:
    """The merged tree of the file, the files it extends and the overrides. Raises UsageError."""
    try:
        tree = _read_file(Path(path), ())
        for override in overrides:
            apply_override(tree, override)
    except RecursionError:
        raise UsageError(f"{path}: nested too deeply, or an anchor within itself") from None
    return tree


def _read_file(path: Path, above: tuple[Path, ...]) -> Tree:
    try:
        if path.resolve() in above:
            raise UsageError(f"{path}: `extends` goes round in a circle")
        tree = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)
    except FileNotFoundError:
        raise UsageError(f"{path}: no such config file") from None
    except RecursionError:
        raise
    # A link that leads to itself is a RuntimeError.
    except (OSError, RuntimeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: cannot be read: {error}") from None
    except _MALFORMED as error:
        raise UsageError(f"{path}: not valid YAML: {_one_line(error)}") from None
    if not isinstance(tree, dict):
        raise UsageError(f"{path}: holds {_kind(tree)}, but a config is a mapping of keys to values")
    tree = {str(key): value for key, value in tree.items()}
    parent = tree.pop("extends", None)
    if parent is None:
        return tree
    if not isinstance(parent, str) or "\0" in parent:
        raise UsageError(f"{path}: extends = {parent!r}: must be the path of another config file")
    return _merged(_read_file(path.parent / parent, (*above, path.resolve())), tree, whole=False)


def merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> Tree:
    """`below` with the values of `above` in their places, mappings key by key."""
    return _merged(below, above, whole=False, top=False)


def _merged(below: Mapping[str, Any], above: Mapping[str, Any], whole: bool, top: bool = True) -> Tree:
    tree = dict(below)
    for key, value in above.items():
        old = tree.get(key)
        if isinstance(old, dict) and isinstance(value, dict) and not whole:
            tree[key] = _merged(old, value, whole=top and key in _WHOLE, top=False)
        else:
            tree[key] = value
    return tree


def apply_override(tree: Tree, override: str) -> None:
    """Sets one "a.b=value" in place."""
    dotted, equals, text = override.partition("=")
    keys = dotted.strip().split(".")
    if not equals or not all(keys):
        raise UsageError(f"--set {override}: must be dotted.key=value, such as --set model.rank=20")
    try:
        value = yaml.load(text, Loader=_Loader)
    except _MALFORMED as error:
        raise UsageError(f"--set {override}: the value is not valid YAML: {_one_line(error)}") from None
    for depth, key in enumerate(keys[:-1], 1):
        if tree.get(key) is None:
            tree[key] = {}
        if not isinstance(tree[key], dict):
            raise UsageError(f"--set {override}: {'.'.join(keys[:depth])} is {_kind(tree[key])}, not a mapping")
        tree[key] = tree = dict(tree[key])
    tree[keys[-1]] = value


def _kind(value: Any) -> str:
    return "nothing" if value is None else "a list" if isinstance(value, list) else repr(value)


def _one_line(error: Exception) -> str:
    return re.sub(r"\s+", " ", str(error)).strip()
