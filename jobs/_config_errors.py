"""What is wrong with a config, in words: one line a fault, with its dotted key, the value, and what is allowed."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

_MAX_SHOWN = 80


def messages(error: ValidationError, root: type[BaseModel]) -> list[tuple[str, str]]:
    """The dotted key, "" for the whole, and one line for each fault of `error`, found while validating `root`."""
    return [_message(dict(fault), root) for fault in error.errors(include_url=False)]


def _message(fault: Mapping[str, Any], root: type[BaseModel]) -> tuple[str, str]:
    loc = [part for part in fault["loc"] if not (isinstance(part, str) and part.startswith("<"))]
    key = _dotted(loc)
    return key, _line(fault, key, loc, root)


def _line(fault: Mapping[str, Any], key: str, loc: Sequence[Any], root: type[BaseModel]) -> str:
    siblings, field = _schema_at(root, loc)
    if fault["type"] == "extra_forbidden":
        near = difflib.get_close_matches(str(loc[-1]), siblings, 1)
        hint = f'did you mean "{near[0]}"? ' if near else ""
        return f"{key}: unknown key; {hint}allowed: {', '.join(siblings)}"
    allowed = f"; allowed: {field.description}" if field is not None and field.description else ""
    if fault["type"] == "missing":
        return f"{key}: missing{allowed.replace('allowed', 'give')}"
    if fault["type"] == "value_error":
        return ": ".join(filter(None, (key, str(fault["ctx"]["error"]))))
    reason = fault["msg"].replace("Input should", "should")
    return f"{key or 'the config'} = {_shown(fault['input'])}: {reason}{allowed}"


def _dotted(loc: Iterable[Any]) -> str:
    text = ""
    for part in loc:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
    return text


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _MAX_SHOWN else text[: _MAX_SHOWN - 1] + "…"


def _schema_at(root: type[BaseModel], loc: Iterable[Any]) -> tuple[list[str], FieldInfo | None]:
    """Keys allowed beside the last part of `loc`, and the field it names if it names one."""
    models = [root]
    siblings: list[str] = []
    field: FieldInfo | None = None
    for part in loc:
        fields = {info.alias or name: info for model in models for name, info in model.model_fields.items()}
        siblings = list(fields)
        if part in fields:
            field = fields[part]
            models = list(_models_in(field.annotation))
    return siblings, field if field is not None and siblings else None


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    """The sections that a type names, at any depth."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _models_in(argument)
