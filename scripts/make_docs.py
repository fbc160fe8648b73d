"""`python -m scripts.make_docs`: write docs/config.md, docs/tables.md and docs/api.md from the code they describe."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pyspark.ml.param import Param

from jobs._config import Config, Member
from jobs._estimator import PARAM_OF_KEY
from jobs._settings import ROOT
from nimc_spark.data.declarations import Declaration
from nimc_spark.engine.splits import Split
from nimc_spark.io.contracts import ID, ID_TYPES, TABLES, TIME, TIME_TYPES, Table
from nimc_spark.kernels.activations import ACTIVATION_NAMES
from nimc_spark.ml import NIMC, Multiples, NIMCModel, NIMCSearch, TrainingSummary
from nimc_spark.ml.params import RULES, NIMCParams
from nimc_spark.ml.tables import HoldsTables
from nimc_spark.ml.tuning import Budget

MADE = "<!-- Made by `python -m scripts.make_docs`; change the code that it describes instead. -->"

CONFIG_HEAD = """# Config

All settings of all jobs are in one YAML file, given by `--config FILE`, and checked before Spark starts: an unknown
key, a wrong type or a value out of range ends the job with exit code 2 and a line that names the key, the value and
what is allowed. `--dry-run` checks the file and shows what it resolves to.

* `extends: other.yaml` begins from another file, found relative to this one: mappings are merged key by key and the
  value of the extending file wins; a source and a list of features are replaced as a whole.
* `--set dotted.key=value`, as often as needed, wins over the files; the value is YAML.
* Relative paths of data and of the lake start at the working directory.
* Keys of `model` that are left out keep the defaults of the [estimator](api.md), shown here in parentheses.
"""

FEATURES_HEAD = """## Feature declarations

An entry of `features.users` or `features.items`, and of the Params `userFeatures` and `itemFeatures`, such as
`{kind: bucketize, column: age, splits: [18, 35, 50]}`. Features are fitted on the users and items of training ratings
only, and saved with the model. Every kind but `id` takes a `group`, the name under which columns share a penalty in
`model.reg`. Kinds that read columns need the side's table.
"""

TABLES_HEAD = f"""# Tables

The tables of a lake, each a folder `LAKE/NAME`. In Delta each write is one commit, before which a table
may get one that admits times without a zone; with `format: parquet` a table is a folder of numbered versions. A table
is checked against this contract before it is written.

* `{ID}`: whatever type the raw data has, the same in all tables; one of {", ".join(ID_TYPES)}.
* `{TIME}`: as in the raw data; one of {", ".join(TIME_TYPES)}.
* Models are folders `LAKE/model_files/NAME/VERSION` (JSON, npz and Parquet), named by the table `models`.
"""

SEARCH_PARTS = """`from nimc_spark.ml import NIMCSearch, Multiples, Split, Budget`; its model has `bestModel` and
`found`, with `found.best`, `found.error` and `found.trials`.
"""

API_HEAD = (
    """# Library

```python
from nimc_spark import NIMC, NIMCModel
```

`NIMC` is a `pyspark.ml` Estimator and `NIMCModel` its Model: they work in Pipeline, CrossValidator and
TrainValidationSplit, and each Param has a setter and a getter (`setRank`, `getRank`). A value that is not allowed
raises `UsageError` when `fit` begins. Penalties are in sum form: λ is divided by the number of ratings together with
the loss. Activations: """
    + ", ".join(f"`{name}`" for name in ACTIVATION_NAMES)
    + """; one with a parameter is written
`leaky_relu(0.1)`. Feature declarations are those of the [config](config.md#feature-declarations), as dicts.
"""
)

# In the order of the class, which keeps together what belongs together.
PARAMS: dict[str, Param[Any]] = {name: value for name, value in vars(NIMCParams).items() if isinstance(value, Param)}
DEFAULTS = {param.name: value for param, value in NIMCParams()._defaultParamMap.items()}

# Settings that go to a Param under another name than `jobs._estimator` lists.
_PARAM_OF = {f"model.{key}": param for key, param in PARAM_OF_KEY.items()} | {
    "model.activation": "activation",
    "model.baseline": "baseline",
    "model.reg": "regParam",
    "model.reg.power": "regPower",
    "model.reg.linear": "linearRegParam",
    "model.shrinkage.item": "itemShrinkage",
    "model.shrinkage.user": "userShrinkage",
}


def config_page() -> str:
    """docs/config.md: a section for each mapping of the config, in the order of the schema."""
    places: dict[type[BaseModel], list[str]] = {}
    _find_places(Config, "", places)
    parts = [MADE, CONFIG_HEAD]
    for model, paths in places.items():
        heading = ", ".join(f"`{path}`" for path in paths) or "Top level"
        rows = [_setting(name, field, paths) for name, field in model.model_fields.items()]
        head = ("key", "default", "value", "meaning")
        if not any(row[3] for row in rows):
            head, rows = ("key", "default", "value"), [row[:3] for row in rows]
        parts += [f"## {heading}\n", f"{_words(model.__doc__)}\n", _table(head, rows)]
    rows = [_declaration(kind) for kind in get_args(Declaration)]
    return "\n".join([*parts, FEATURES_HEAD, _table(("kind", "keys", "default group", "meaning"), rows)])


def tables_page() -> str:
    """docs/tables.md: a section for each table of the lake."""
    return "\n".join([MADE, TABLES_HEAD, *(part for table in TABLES.values() for part in _table_section(table))])


def api_page() -> str:
    """docs/api.md: the Params with defaults and allowed values, and the public methods."""
    rows = [
        (f"`{name}`", _default(param), RULES[name].allowed if name in RULES else "", param.doc)
        for name, param in PARAMS.items()
    ]
    parts = [MADE, API_HEAD, "## Params\n", _table(("Param", "default", "allowed", "meaning"), rows)]
    for cls in (NIMC, NIMCModel):
        members = list(_members(cls, HoldsTables))
        parts += [f"## {cls.__name__}\n", f"{inspect.getdoc(cls)}\n", _table(("member", "meaning"), members)]
    fields = ", ".join(f"`{name}`" for name in TrainingSummary.__dataclass_fields__)
    about = f"`model.summary`, with the fields {fields}. {_words(TrainingSummary.__doc__)}\n"
    parts += ["## TrainingSummary\n", about, "## NIMCSearch\n", f"{inspect.getdoc(NIMCSearch)}\n", SEARCH_PARTS]
    rows = [
        (f"`{cls.__name__}({_arguments(cls.__init__)})`", _words(cls.__doc__)) for cls in (Multiples, Split, Budget)
    ]
    return "\n".join([*parts, _table(("argument", "meaning"), rows)])


PAGES = {"docs/config.md": config_page, "docs/tables.md": tables_page, "docs/api.md": api_page}


def _find_places(model: type[BaseModel], path: str, places: dict[type[BaseModel], list[str]]) -> None:
    """Under which dotted keys each mapping stands, in the order in which a reader meets them."""
    known = model in places
    places.setdefault(model, []).extend([path] if path else [])
    if known:
        return
    for name, field in model.model_fields.items():
        for inner, below in _mappings(field.annotation):
            _find_places(inner, f"{path}.{name}{below}".strip("."), places)


def _mappings(annotation: Any) -> list[tuple[type[BaseModel], str]]:
    """The mappings that a value of this type may be or hold, and below which key."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [(annotation, "")]
    by_name = (".NAME" if Member in get_args(annotation) else ".GROUP") if get_origin(annotation) is dict else ""
    found = ((model, by_name + below) for inner in get_args(annotation) for model, below in _mappings(inner))
    return list(dict.fromkeys(found))


def _setting(name: str, field: FieldInfo, paths: Sequence[str]) -> tuple[str, str, str, str]:
    key = field.alias or name
    found = (_PARAM_OF.get(f"{path}.{key}") for path in paths)
    param = next((PARAMS[name] for name in found if name), None)
    inner = _mappings(field.annotation)
    about = field.description or next(_descriptions(field.annotation), "") or _words(inner[0][0].__doc__)
    if field.is_required():
        default = "required"
    elif param is not None:
        default = f"({_default(param)})"
    elif isinstance(field.default, BaseModel):
        default = "see below"
    elif field.default in (None, (), {}):
        default = "unset"
    else:
        default = _value(field.default)
    return f"`{key}`", default, about, param.doc if param is not None else ""


def _descriptions(annotation: Any) -> Iterator[str]:
    for inner in get_args(annotation):
        if isinstance(inner, FieldInfo) and inner.description:
            yield inner.description
        yield from _descriptions(inner)


def _declaration(kind: type[BaseModel]) -> tuple[str, str, str, str]:
    fields = kind.model_fields
    keys = [f"`{name}`" for name in fields if name not in ("kind", "group")]
    return f"`{fields['kind'].default}`", ", ".join(keys), f"`{fields['group'].default}`", _words(kind.__doc__)


def _table_section(table: Table) -> Iterator[str]:
    yield f"## `{table.name}`\n"
    more = " Further columns hold the raw attributes, of any type." if table.open else ""
    cut = f" Partitioned by {', '.join(f'`{c}`' for c in table.partition_by)}." if table.partition_by else ""
    yield f"{table.about}{more}{cut}\n"
    yield _table(
        ("column", "type", "meaning"),
        [(f"`{c.name}`", f"`{c.type}`", f"{c.about}{' (optional)' if c.optional else ''}") for c in table.columns],
    )


def _members(*classes: type) -> Iterator[tuple[str, str]]:
    """Public methods and properties with their docstrings, without the accessors of Params."""
    accessors = {f"{verb}{name[0].upper()}{name[1:]}" for name in PARAMS for verb in ("set", "get")}
    for cls in classes:
        for name, member in vars(cls).items():
            bound = member.__func__ if isinstance(member, classmethod) else member
            about = inspect.getdoc(bound)
            if name.startswith("_") or name in accessors or not about:
                continue
            label = name if isinstance(member, property) else f"{name}({_arguments(bound)})"
            yield f"`{label}`", _words(about)


def _arguments(function: Any) -> str:
    listed = []
    for parameter in list(inspect.signature(function).parameters.values())[1:]:
        star = "**" if parameter.kind is parameter.VAR_KEYWORD else ""
        given = "" if parameter.default is parameter.empty else f"={parameter.default!r}"
        listed.append(f"{star}{parameter.name}{given}")
    return ", ".join(listed)


def _default(param: Param[Any]) -> str:
    return _value(DEFAULTS[param.name]) if param.name in DEFAULTS else "unset"


def _value(value: Any) -> str:
    """As YAML has it, in code quotes."""
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    return f"`[{', '.join(map(str, value))}]`" if isinstance(value, list) else f"`{value}`"


def _words(doc: str | None) -> str:
    return " ".join((doc or "").split())


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *(map(_cell, row) for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _cell(text: str) -> str:
    """Text in which neither `|` ends a cell nor `<` begins a tag."""
    return text.replace("|", "\\|") if text.startswith("`") else text.replace("|", "\\|").replace("<", "\\<")


if __name__ == "__main__":
    for path, page in PAGES.items():
        (ROOT / path).write_text(page(), encoding="utf-8")
