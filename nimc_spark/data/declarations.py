"""What a feature is made of: the declarations of config and of `userFeatures`, `itemFeatures`, one class a kind.

A declaration names columns of an attribute table and how they become numbers; `engine/features.py` fits and applies it.
A later kind is one more class in `Declaration`.
"""

from __future__ import annotations

import difflib
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final, Literal, TypeAlias, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from nimc_spark.errors import UsageError

ID_GROUP: Final = "id"
READY_COLUMN = "features"



def _increasing(splits: tuple[float, ...]) -> tuple[float, ...]:
    rising = all(low < high for low, high in itertools.pairwise(splits))
    if not (splits and rising and all(map(math.isfinite, splits))):
        raise ValueError("splits must be one or more finite numbers, strictly increasing")
    return splits


Name = Annotated[str, Field(min_length=1)]
Splits = Annotated[tuple[float, ...], AfterValidator(_increasing)]


class _Base(BaseModel):
    """`group` names the columns that share a regularization."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    group: Name = "attributes"

    @property
    def sources(self) -> tuple[str, ...]:
        """Columns of the attribute table that are read."""
        return ()


class _OfColumn(_Base):
    column: Name

    @property
    def sources(self) -> tuple[str, ...]:
        return (self.column,)


class Numeric(_OfColumn):
    """A number, median-imputed and standardized, and an indicator of null."""

    kind: Literal["numeric"] = "numeric"


class Bucketize(_OfColumn):
    """A number as one-hot of (-inf, s₀), [s₀, s₁), …, [s_last, inf) and null; `splits` strictly increasing."""

    kind: Literal["bucketize"] = "bucketize"
    splits: Splits


class OneHot(_OfColumn):
    """One slot a value seen in fitting, and one for unknown values and null."""

    kind: Literal["one_hot"] = "one_hot"


class MultiHot(_OfColumn):
    """One slot a token seen in fitting, and one for unknown tokens; `separator` cuts text, None means an array column.

    Tokens of text are trimmed, and empty ones left out.
    """

    kind: Literal["multi_hot"] = "multi_hot"
    separator: Name | None = None


class Cross(_Base):
    """One slot a combination of the columns' values seen in fitting, and one for unknown combinations and any null.

    `splits` cuts a column of numbers into intervals first, as `bucketize` does: {age: [18, 35, 50]}.
    """

    kind: Literal["cross"] = "cross"
    columns: tuple[Name, ...] = Field(min_length=2)
    splits: dict[Name, Splits] = {}

    @model_validator(mode="after")
    def _distinct(self) -> Cross:
        if len(set(self.columns)) < len(self.columns):
            raise ValueError("columns must be distinct")
        if strange := sorted(set(self.splits) - set(self.columns)):
            raise ValueError(f"splits of {', '.join(strange)}, which the columns do not have")
        return self

    @property
    def sources(self) -> tuple[str, ...]:
        return self.columns


class Passthrough(_Base):
    """Numbers as they are: one `column` (vector, array of numbers, or a number), or several `columns` of numbers."""

    kind: Literal["passthrough"] = "passthrough"
    column: Name | None = None
    columns: tuple[Name, ...] = ()

    @model_validator(mode="after")
    def _one_way(self) -> Passthrough:
        if (self.column is None) == (not self.columns):
            raise ValueError("give either column or a list of columns")
        if len(set(self.columns)) < len(self.columns):
            raise ValueError("columns must be distinct")
        return self

    @property
    def sources(self) -> tuple[str, ...]:
        return self.columns if self.column is None else (self.column,)


class Const(_Base):
    """The constant 1."""

    kind: Literal["const"] = "const"
    group: Name = "const"


class Id(_Base):
    """One-hot of the id itself, among the ids that have a training rating."""

    kind: Literal["id"] = "id"
    group: Literal["id"] = ID_GROUP


class RatingSvd(_Base):
    """The id's entries in the `rank` leading singular vectors of the training ratings, users by items, 0 where unrated.

    Users have entries of left vectors and items of right ones, in order of falling singular value, times √n, n the ids
    with training ratings: a column's mean square is 1. An id without training ratings has zeros. Weights and offsets
    have no part in it; `rank` is below the number of users and that of items.
    """

    kind: Literal["rating_svd"] = "rating_svd"
    rank: int = Field(ge=1)
    group: Name = "rating_svd"


class History(_Base):
    """The other side's ids that the id has ratings with: `weights` equal gives each 1/√n, n the number of them, and
    residuals (r − μ − the other id's bias)/√n.

    In training the ratings are the training ratings, in scoring those that are given as context: who rated after the
    training is known by it.
    """

    kind: Literal["history"] = "history"
    weights: Literal["equal", "residuals"] = "equal"
    group: Name = "history"


Declaration: TypeAlias = Numeric | Bucketize | OneHot | MultiHot | Cross | Passthrough | Const | Id | RatingSvd | History

BY_ID_ALONE = (Id, RatingSvd, History)
"""Kinds that read no column of an attribute table."""

_KINDS: dict[str, type[_Base]] = {kind.model_fields["kind"].default: kind for kind in get_args(Declaration)}
_ADAPTER: TypeAdapter[Declaration] = TypeAdapter(Annotated[Declaration, Field(discriminator="kind")])


def parse_declarations(raw: Sequence[Mapping[str, Any] | Declaration]) -> tuple[Declaration, ...]:
    """The declarations that `raw` spells, in its order.

    Raises UsageError naming the position, the value and what is allowed: an unknown kind or key, a wrong value, a
    second `const`, `id` or `rating_svd`, a second `history` of the same weights, or another kind in the group `id`.
    """
    declarations = tuple(_parse(position, entry) for position, entry in enumerate(raw))
    for kind in (Const, Id, RatingSvd):
        places = [position for position, declaration in enumerate(declarations) if isinstance(declaration, kind)]
        if len(places) > 1:
            name = kind.model_fields["kind"].default
            raise UsageError(f"feature {places[1]}: a second {{kind: {name}}}; it is allowed once")
    histories = [declaration.weights for declaration in declarations if isinstance(declaration, History)]
    if len(set(histories)) < len(histories):
        raise UsageError(f"a second {{kind: history, weights: {histories[-1]}}}; it is allowed once")
    for position, declaration in enumerate(declarations):
        if declaration.group == ID_GROUP and not isinstance(declaration, Id):
            raise UsageError(f"feature {position}: the group {ID_GROUP!r} is kept for {{kind: id}}; name another")
    return declarations


def ready_features_declaration(column: str = READY_COLUMN) -> tuple[Declaration, ...]:
    """What a table with a ready feature vector declares."""
    return (Passthrough(column=column),)


def _parse(position: int, entry: Mapping[str, Any] | Declaration) -> Declaration:
    if isinstance(entry, _Base):
        return entry
    where = f"feature {position}"
    if not isinstance(entry, Mapping):
        raise UsageError(f"{where}: {entry!r} is not a mapping; write it as {{kind: one_hot, column: NAME}}")
    kind = entry.get("kind")
    if not isinstance(kind, str) or kind not in _KINDS:
        found = "no kind" if kind is None else f"unknown kind {kind!r}"
        raise UsageError(f"{where}: {found}{_suggestion(kind, _KINDS)}; allowed: {', '.join(_KINDS)}")
    try:
        return _ADAPTER.validate_python(entry)
    except ValidationError as error:
        faults = "; ".join(_fault(fault, kind) for fault in error.errors())
        raise UsageError(f"{where} ({kind}): {faults}") from None


def _fault(fault: Any, kind: str) -> str:
    """One line on a fault that pydantic found; its location starts with the kind."""
    key = ".".join(str(step) for step in fault["loc"][1:])
    if fault["type"] == "extra_forbidden":
        allowed = list(_KINDS[kind].model_fields)
        return f"unknown key {key!r}{_suggestion(key, allowed)}; allowed: {', '.join(sorted(allowed))}"
    if fault["type"] == "missing":
        return f"the key {key!r} is missing"
    message = fault["msg"].removeprefix("Value error, ")
    return f"{key} = {fault['input']!r}: {message}" if key else message


def _suggestion(word: object, known: Mapping[str, Any] | Sequence[str]) -> str:
    near = difflib.get_close_matches(str(word), list(known), n=1)
    return f" (did you mean {near[0]!r}?)" if near else ""
