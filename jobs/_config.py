"""The config of every job: its schema, how it is read, and what is said about a wrong one.

The schema here is the truth; the descriptions of its fields are the documentation. Model settings have no defaults
here: what a file leaves out is unset, and the estimator's own default holds (`Model.settings` gives what was set).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationError,
    model_validator,
)

from jobs._config_errors import messages
from jobs._yaml import Tree, merged, read_tree
from nimc_spark.data.declarations import BY_ID_ALONE, Const, Declaration, Id, parse_declarations
from nimc_spark.engine.cells import CELLS, MAIN, Router
from nimc_spark.errors import UsageError
from nimc_spark.io.prepare import Columns, Duplicates
from nimc_spark.io.sources import Source as ReadableSource
from nimc_spark.io.sources import check_options
from nimc_spark.kernels.activations import ACTIVATION_NAMES, activation


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


def _value_error(check: Any, *arguments: Any) -> Any:
    """The result of `check`; pydantic collects ValueErrors only, so a UsageError becomes one."""
    try:
        return check(*arguments)
    except UsageError as error:
        raise ValueError(str(error)) from None


def _declarations(raw: Any) -> Any:
    return _value_error(parse_declarations, raw) if isinstance(raw, Sequence) and not isinstance(raw, str) else raw


def _activation(name: str) -> str:
    _value_error(activation, name)
    return name


def _text(value: Any) -> Any:
    """Spark options are strings; YAML's true, 1 and 0.5 are meant as such."""
    return json.dumps(value) if isinstance(value, bool | int | float) else value


def _one_of(**kinds: type | tuple[type, ...]) -> Any:
    """Chooses a union's member by the kind of value, so that an error speaks of the member that was meant."""

    def kind_of(value: Any) -> str:
        return next((f"<{name}>" for name, kind in kinds.items() if isinstance(value, kind)), f"<{next(iter(kinds))}>")

    return Discriminator(kind_of)


# As a config spells them and, for writing one out again, as they are held.
_MAPPING, _LIST = (dict, BaseModel), (list, tuple)

OptionValue = Annotated[str, BeforeValidator(_text)]
ActivationName = Annotated[str, AfterValidator(_activation)]
Declarations = Annotated[tuple[Any, ...], BeforeValidator(_declarations)]
Strength = Annotated[float, Field(ge=0, description="a number from 0")]


class Source(_Section):
    """One raw table."""

    path: str = Field(min_length=1, description="file or folder; a relative one starts at the working directory")
    format: Literal["csv", "json", "parquet", "delta"] = Field("csv", description="csv, json, parquet or delta")
    options: dict[str, OptionValue] = Field({}, description="options of Spark's reader, such as sep, header, encoding")
    ddl: str | None = Field(
        None, alias="schema", description='columns and types, "user_id INT, age INT"; csv and json need it'
    )

    @model_validator(mode="after")
    def _check(self) -> Source:
        if self.format in ("csv", "json") and self.ddl is None:
            raise ValueError(f'{self.format} needs a schema, such as schema: "user_id INT, item_id INT, rating DOUBLE"')
        _value_error(check_options, self.options)
        return self

    def readable(self) -> ReadableSource:
        """The same for `nimc_spark.io.sources.read_source`."""
        return ReadableSource(self.path, self.format, dict(self.options), self.ddl)


class Filter(Source):
    """A table of items, or of users and items, by the names in `columns`; a row holds from `since` until `until`."""

    since: str | None = Field(None, min_length=1, description="column with the first day on which the row holds")
    until: str | None = Field(None, min_length=1, description="column with the first day on which it holds no more")


class Filters(_Section):
    """Who may get what, in `score`, and in `predict` for users. A date that is null is open.

    Of items alone: nothing is recommended that a table under `allow` leaves out, or one under `deny` has. Of users and
    items: a user in the table under `allow` gets only these items, and no pair under `deny` is recommended.
    """

    allow: tuple[Filter, ...] = Field((), description="a list of tables; at most one that names users")
    deny: tuple[Filter, ...] = Field((), description="a list of tables")


class Sources(_Section):
    """The raw tables; without `users` or `items` that side has ids only."""

    ratings: Source = Field(description="one row a rating")
    users: Source | None = Field(None, description="one row a user, with its attributes")
    items: Source | None = Field(None, description="one row an item, with its attributes")


class ColumnNames(_Section):
    """Names of the columns in the raw tables; the tables of the lake have fixed names instead."""

    user: str = Field(min_length=1, description="user id, in ratings and users")
    item: str = Field(min_length=1, description="item id, in ratings and items")
    rating: str = Field(min_length=1, description="the rating, a number")
    weight: str | None = Field(None, min_length=1, description="weight of a rating, a number from 0")
    time: str | None = Field(None, min_length=1, description="when it was rated: a number, date or timestamp")
    title: str | None = Field(None, min_length=1, description="column of items to show people, in samples")


class Features(_Section):
    """Feature declarations of each side (`nimc_spark.data.declarations`)."""

    users: Declarations = Field((), description="a list of declarations, such as {kind: one_hot, column: gender}")
    items: Declarations = Field((), description="a list of declarations, such as {kind: id}")


class Split(_Section):
    """Which ratings are held out; `train` uses the others and `evaluate` these."""

    by: Literal["user", "item", "both", "time", "random"] = Field(
        "user", description="user, item, both, time or random"
    )
    fraction: float = Field(
        0.2, gt=0, lt=1, description="a number between 0 and 1, with which a hash holds out each user (item, row)"
    )
    seed: int = Field(0, ge=-(2**63), lt=2**63, description="an integer of 64 bits")


class SidesActivation(_Section):
    """One activation a side."""

    users: ActivationName = Field(description=", ".join(ACTIVATION_NAMES))
    items: ActivationName = Field(description=", ".join(ACTIVATION_NAMES))


class GroupPenalty(_Section):
    """L2 of one feature group: of its factor rows and of its linear rows."""

    factors: Strength | None = None
    linear: Strength | None = None


GroupStrength = Annotated[
    Annotated[float, Field(ge=0), Tag("<number>")] | Annotated[GroupPenalty, Tag("<mapping>")],
    _one_of(number=float, mapping=_MAPPING),
]
SideStrength = Annotated[
    Annotated[float, Field(ge=0), Tag("<number>")] | Annotated[dict[str, GroupStrength], Tag("<mapping>")],
    _one_of(number=float, mapping=_MAPPING),
]


class Penalty(_Section):
    """L2 by side and feature group, in sum form."""

    users: SideStrength | None = Field(None, description="a number, or {group: number or {factors:, linear:}}")
    items: SideStrength | None = Field(None, description="a number, or {group: number or {factors:, linear:}}")
    power: float | None = Field(None, ge=0, le=1, description="exponent of a feature's count, 0 to 1")
    linear: Strength | None = Field(None, description="for all linear rows that name none of their own")


class Shrinkage(_Section):
    """How many ratings at the mean the baseline adds to an id."""

    item: Strength | None = None
    user: Strength | None = None


Activation = Annotated[
    Annotated[ActivationName, Tag("<name>")] | Annotated[SidesActivation, Tag("<mapping>")],
    _one_of(name=str, mapping=_MAPPING),
]
Baseline = Annotated[
    Annotated[Literal["none"], Tag("<name>")] | Annotated[tuple[Literal["global", "item", "user"], ...], Tag("<list>")],
    _one_of(name=str, list=_LIST),
]
Reg = Annotated[
    Annotated[float, Field(ge=0), Tag("<number>")] | Annotated[Penalty, Tag("<mapping>")],
    _one_of(number=float, mapping=_MAPPING),
]
WhichModel = Annotated[
    Annotated[Literal["production", "candidate"], Tag("<alias>")] | Annotated[int, Field(ge=1), Tag("<version>")],
    _one_of(alias=str, version=int),
]


class Model(_Section):
    """Settings of the estimator; the estimator's defaults hold for what is left out."""

    rank: int | None = Field(None, ge=1, le=1000, description="an integer from 1 to 1000")
    activation: Activation | None = Field(None, description=f"{', '.join(ACTIVATION_NAMES)}, or {{users: …, items: …}}")
    objective: Literal["ratings", "ranking"] | None = Field(
        None, description="ratings or ranking: scores that are ratings, or that order what people choose"
    )
    positive_from: float | None = Field(
        None, description="a number: for ranking, ratings from here on are positives; unset: every rating is one"
    )
    linear: bool | None = Field(None, description="true or false: linear terms on the features")
    baseline: Baseline | None = Field(None, description="none, or a list of global, item, user")
    shrinkage: Shrinkage | None = Field(None, description="{item: number, user: number}")
    complement_weight: float | None = Field(
        None, ge=0, le=1, description="a number from 0 to 1: weight of the pairs without a rating, for one-class data"
    )
    solver: Literal["auto", "lbfgs", "lm", "gncg", "gd", "adam"] | None = Field(
        None, description="auto, lbfgs, lm, gncg, gd or adam"
    )
    step_size: float | None = Field(None, gt=0, description="a number above 0: length of a step of gd or adam")
    init: Literal["random", "tensor"] | None = Field(None, description="random or tensor: the first start")
    starts: int | None = Field(None, ge=1, le=100, description="an integer from 1 to 100")
    average_starts: bool | None = Field(
        None, description="true or false: score by the mean over all starts, not by the best one"
    )
    seed: int | None = Field(None, description="an integer")
    max_passes: int | None = Field(None, ge=1, description="an integer from 1")
    tolerance: float | None = Field(None, ge=0, description="a number from 0")
    dtype: Literal["float32", "float64"] | None = Field(None, description="float32 or float64")
    ratings_per_lane: int | None = Field(None, ge=1, description="an integer from 1")
    clip: bool | None = Field(
        None, description="true or false: predicted ratings kept within the range of the training ratings"
    )
    reg: Reg | None = Field(None, description="a number from 0, or {users: …, items: …, power: …, linear: …}")

    def settings(self) -> dict[str, Any]:
        """What the config sets, as plain values; a key left out or null is absent."""
        return self.model_dump(mode="json", exclude_unset=True, exclude_none=True)


class MemberFeatures(_Section):
    """Feature declarations that a member has in the place of those in `features`."""

    users: Declarations | None = Field(None, description="a list of declarations; unset: that of `features`")
    items: Declarations | None = Field(None, description="a list of declarations; unset: that of `features`")


class Member(_Section):
    """What one member has of its own; all else is as in the sections `features` and `model`, key by key. Penalties
    there of feature groups that only others have are left out.
    """

    features: MemberFeatures = MemberFeatures()
    model: Model = Model()


class Train(_Section):
    """How training is kept safe and within its time."""

    save_every: int | None = Field(
        20,
        ge=1,
        description="passes after which the state is saved, from which an interrupted training goes on; null: never",
    )
    max_seconds: float | None = Field(
        None, gt=0, description="a number above 0: the model is what training has found by then; unset: no limit"
    )
    warm_start: WhichModel | None = Field(
        None,
        description="production, candidate or a version: training begins from that model, if there is one; unset: anew",
    )


class Score(_Section):
    """What `score` writes for each user."""

    k: int = Field(10, ge=1, le=1_000_000, description="an integer from 1 to 1000000")
    exclude_seen: bool = Field(True, description="true or false")
    model: WhichModel | None = Field(
        None, description="production, candidate or a version; unset: production if there is one, else candidate"
    )
    reasons: int = Field(0, ge=0, le=1000, description="how many reasons a row has, an integer from 0 to 1000")


class Evaluate(_Section):
    """Ranking metrics of `evaluate`."""

    k: int = Field(10, ge=1, le=1_000_000, description="an integer from 1 to 1000000")
    relevant: float | None = Field(
        None, description="ratings from here on are relevant; unset: model.positive_from, without it no ranking metrics"
    )


class Multiples(_Section):
    """Values of a number that is searched: multiples of what it is."""

    times: tuple[float, ...] = Field(min_length=1, description="factors, such as [0.25, 4]")


Candidates = Annotated[
    Annotated[tuple[Any, ...], Field(min_length=1), Tag("<list>")] | Annotated[Multiples, Tag("<mapping>")],
    _one_of(list=_LIST, mapping=_MAPPING),
]


class Tune(_Section):
    """What `tune` searches, on a part of the training rows that is split off as the held-out ones are.

    Of several members each has a search of its own: on held-out users if it speaks for new users alone, on held-out
    items if for new items alone, on both if for these together, on rows at random if for known users and items.
    """

    space: dict[str, Candidates] = Field(
        {},
        description='keys of model and features, of each member alike, with their values: "model.rank": [10, 20] or '
        '"model.reg.users.id.factors": {times: [0.5, 2]}; empty: ranks, penalties, histories',
    )
    validation: float = Field(0.15, gt=0, lt=1, description="a number between 0 and 1: part of the training rows")
    folds: int = Field(
        1, ge=1, description="an integer from 1: so many disjoint validation parts; a setting's error is their mean"
    )
    rounds: int = Field(2, ge=1, le=100, description="an integer from 1: times through the space")
    max_passes: int | None = Field(None, ge=1, description="an integer from 1: no trial begins after so many passes")
    minutes: float | None = Field(None, gt=0, description="a number above 0: no trial begins after so many minutes")

    @model_validator(mode="after")
    def _check(self) -> Tune:
        for key in self.space:
            if key.split(".")[0] not in ("model", "features"):
                raise ValueError(f"space.{key}: only keys of model and features can be searched")
        if self.folds * self.validation > 1:
            raise ValueError(f"folds = {self.folds} of {self.validation:g} each: more than all training rows")
        return self


Share = Annotated[float, Field(ge=0, le=1)]


class Gates(_Section):
    """What must hold before tables, a model or lists take the place of earlier ones; a limit of null is not checked.

    A refusal has exit code 4 and leaves what it judges as it was: the tables (`rows_fall`), the model in production,
    published rows.
    """

    rows_fall: Share | None = Field(
        0.2,
        description="fall in usable rows of ratings, users or items since the tables of before, as a share of those",
    )
    rmse_rise: Strength | None = Field(
        0.02, description="RMSE above that of the model in production, as a share, on rows that neither was trained on"
    )
    ndcg_fall: Share | None = Field(
        0.1, description="NDCG below that of the model in production, as a share, if lists are evaluated"
    )
    rmse_over_global_mean: Strength | None = Field(
        None, description="RMSE over that of the global mean; 1: the model must be better"
    )
    users_without_list: Share | None = Field(0.05, description="share of users who get no list")
    short_lists: Share | None = Field(None, description="share of users who get fewer than score.k items")
    catalogue_coverage: Share | None = Field(None, description="least share of the items that are in some list")
    baseline_rows: Share | None = Field(0.5, description="share of rows scored without knowing the user or the item")
    unknown_values: Share | None = Field(
        0.5, description="share of users or items with a value that training had not seen, in the worst column"
    )
    sameness: Share | None = Field(0.95, description="0: every item is used alike; 1: all users have the same list")
    overlap: Share | None = Field(None, description="least share of a user's list that was in the list before")
    score_drift: Strength | None = Field(
        1.0, description="move of the mean score since the lists before, in their standard deviations"
    )


class Night(_Section):
    """Where `night` begins: after a failure, at the stage that failed."""

    first_stage: Literal["prepare", "train", "evaluate"] = Field(
        "prepare", description="prepare, train or evaluate; the stages before it are taken as done"
    )


class Promote(_Section):
    """Which model `promote` puts into production."""

    model: Annotated[int, Field(ge=1)] | None = Field(
        None, description="a version; unset: the newest candidate. One that was in production before needs no gates"
    )


class Runs(_Section):
    """What `runs` prints."""

    last: int = Field(20, ge=1, le=100_000, description="an integer from 1 to 100000: how many runs, the latest")


class Predict(_Section):
    """What `predict` scores: pairs, or the best k items for the users; new ids come with their attributes."""

    users: Source | None = Field(None, description="users with raw attributes, by the names in `columns`")
    items: Source | None = Field(None, description="items with raw attributes, by the names in `columns`")
    pairs: Source | None = Field(None, description="pairs of user and item")
    candidates: Source | None = Field(
        None, description="pairs of user and item: a user who is in it gets the best of these, with `users`"
    )
    ratings: Source | None = Field(
        None, description="ratings that the lake does not have, for histories; they take the place of the lake's"
    )
    k: int = Field(10, ge=1, le=1_000_000, description="an integer from 1 to 1000000")
    reasons: int = Field(0, ge=0, le=1000, description="how many reasons a row has, an integer from 0 to 1000")


class Config(_Section):
    """Everything a night needs."""

    lake: str = Field(min_length=1, description="folder of the tables; a relative one starts at the working directory")
    format: Literal["delta", "parquet"] = Field("delta", description="delta or parquet")
    name: str = Field(
        "nimc", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", description="the model's name: letters, digits, . _ -"
    )
    sources: Sources
    columns: ColumnNames
    rating_range: tuple[float, float] | None = Field(None, description="[lowest, highest]")
    duplicates: Duplicates | None = Field(
        None, description="last, mean or reject; unset: last where columns.time is given, else reject"
    )
    allow_cold: bool = Field(True, description="true or false: keep ratings whose user or item has no attribute row")
    features: Features = Features()
    split: Split = Split()
    model: Model = Model()
    members: dict[str, Member] = Field(
        {}, description="{NAME: {features: …, model: …}, …}: several models as one; unset: one model"
    )
    router: dict[str, str] = Field(
        {}, description=f"the member that speaks in each cell, {{CELL: NAME, …}}, with cells {', '.join(CELLS)}"
    )
    train: Train = Train()
    filters: Filters = Filters()
    score: Score = Score()
    evaluate: Evaluate = Evaluate()
    gates: Gates = Gates()
    refit: bool = Field(
        False, description="true or false: train the model that passed the gates once more, on all ratings"
    )
    night: Night = Night()
    promote: Promote = Promote()
    runs: Runs = Runs()
    predict: Predict = Predict()
    tune: Tune = Tune()

    @model_validator(mode="after")
    def _check(self) -> Config:
        roles = [self.columns.user, self.columns.item, self.columns.rating]
        if len(set(roles)) < len(roles):
            raise ValueError(f"columns: user, item and rating must be three columns, found {', '.join(roles)}")
        if self.rating_range is not None and not self.rating_range[0] < self.rating_range[1]:
            raise ValueError(f"rating_range = {list(self.rating_range)}: the lowest must be below the highest")
        if self.tune.folds > 1 and self.split.by == "time" and not self.members:
            raise ValueError(f"tune.folds = {self.tune.folds}: a split by time has one fold")
        for wants, key in (
            (self.duplicates == "last", "duplicates: last"),
            (self.split.by == "time", "split.by: time"),
        ):
            if wants and self.columns.time is None:
                raise ValueError(f"{key} needs columns.time, the column that says when a rating was given")
        if self.members or self.router:
            _value_error(Router.checked, self.router, self.members)
        for name, own in self.by_member().items():
            for side in ("users", "items"):
                needs_table = any(not isinstance(d, (*BY_ID_ALONE, Const)) for d in getattr(own.features, side))
                if needs_table and getattr(self.sources, side) is None:
                    key = f"members.{name}.features.{side}" if self.members else f"features.{side}"
                    raise ValueError(f"{key} names columns, but there is no sources.{side} to read them from")
        return self

    def by_member(self) -> dict[str, Config]:
        """The config of each member, its features and model in the place of the config's; {"main": self} without."""
        return {name: self._of(member) for name, member in self.members.items()} or {MAIN: self}

    def _of(self, member: Member) -> Config:
        own = {side: declared for side, declared in member.features if declared is not None}
        alone = self.model_copy(update={"features": self.features.model_copy(update=own), "members": {}, "router": {}})
        settings = merged(self._settings_for(alone), member.model.settings())
        return alone.model_copy(update={"model": Model.model_validate_json(json.dumps(settings))})

    def _settings_for(self, alone: Config) -> dict[str, Any]:
        """Those of `model`, without the penalties of feature groups that others have and the member `alone` has not."""
        settings = self.model.settings()
        reg = settings.get("reg")
        for side in ("users", "items") if isinstance(reg, dict) else ():
            if isinstance(reg.get(side), dict):
                others = {group for group in self._all_groups(side) if group not in alone.groups(side)}
                reg[side] = {group: value for group, value in reg[side].items() if group not in others}
        return settings

    def _all_groups(self, side: str) -> list[str]:
        members = (getattr(member.features, side) or () for member in self.members.values())
        return [*self.groups(side), *(d.group for declared in members for d in declared)]

    def groups(self, side: str) -> list[str]:
        """Names of the feature groups of a side, "users" or "items"."""
        return list(dict.fromkeys(d.group for d in self.side_features(side)))

    def side_features(self, side: str) -> tuple[Declaration, ...]:
        """The feature declarations of a side, ids where there are none."""
        return getattr(self.features, side) or (Id(),)

    def declared(self, side: str) -> tuple[Any, ...]:
        """The feature declarations of a side, "users" or "items", in all members, each once."""
        every = [d for own in self.by_member().values() for d in getattr(own.features, side)]
        return tuple(d for place, d in enumerate(every) if d not in every[:place])

    def raw_columns(self) -> Columns:
        """The names for `nimc_spark.io.prepare`."""
        c = self.columns
        return Columns(user=c.user, item=c.item, rating=c.rating, weight=c.weight, time=c.time)

    def duplicate_policy(self) -> Duplicates:
        """`duplicates`, or what holds where it is unset."""
        return self.duplicates or ("last" if self.columns.time is not None else "reject")


def load_config(path: str, overrides: Sequence[str] = ()) -> Config:
    """The config in the YAML file `path`, with `--set` overrides ("a.b=value", the value in YAML).

    A file may begin from another one (`extends: other.yaml`, relative to itself): mappings are merged key by key and
    its own value wins; a source and a list of features are replaced as a whole.

    Raises:
        UsageError: a file that cannot be read, unknown keys, wrong types, values out of range: all of them, one a line.
    """
    return parse_config(read_tree(path, overrides), path, overrides)


def parse_config(tree: Tree, origin: str = "config", overrides: Sequence[str] = ()) -> Config:
    """The config of an already merged tree; errors name `origin`, or the override that set what is wrong."""
    try:
        text = json.dumps(tree, default=str)
    # An anchor within itself, a number of too many digits.
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{origin}: no plain values: {error}") from None
    try:
        return Config.model_validate_json(text)
    except ValidationError as error:
        lines = [f"{_origin(key, origin, overrides)}: {line}" for key, line in messages(error, Config)]
        raise UsageError("\n".join(lines)) from None


def _origin(key: str, origin: str, overrides: Sequence[str]) -> str:
    """Where a fault of `key` comes from: the last override of it or of a section that it is in, else `origin`, with the
    overrides inside of it."""
    keyed = [(override.partition("=")[0].strip(), override) for override in overrides]
    above = [override for own, override in keyed if _is_within(key, own)]
    inside = [override for own, override in keyed if _is_within(own, key)]
    return f"--set {above[-1]}" if above else " ".join([origin, *(f"--set {override}" for override in inside)])


def _is_within(key: str, section: str) -> bool:
    return not section or key == section or key.startswith((f"{section}.", f"{section}["))


def resolved(config: Config) -> Mapping[str, Any]:
    """The config as plain values, unset ones left out."""
    return config.model_dump(mode="json", by_alias=True, exclude_none=True)


def config_hash(config: Config) -> str:
    """16 hex digits that are equal for equal configs, however they were written."""
    text = json.dumps(resolved(config), sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
