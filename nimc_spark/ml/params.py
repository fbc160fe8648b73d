"""Params of `NIMC` and `NIMCModel`: each with its one default and its allowed values, checked once."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from numbers import Real
from typing import Any, Self, TypeVar

from pydantic import BaseModel
from pyspark.ml.param import Param, Params, TypeConverters

from nimc_spark.engine.baselines import TERMS, Shrinkage
from nimc_spark.engine.blocks import GridLimits
from nimc_spark.engine.pairs import SCORE_SOURCE
from nimc_spark.engine.profile import LARGEST
from nimc_spark.errors import UsageError
from nimc_spark.kernels.activations import activation
from nimc_spark.kernels.model import SideName
from nimc_spark.kernels.objective import GroupPenalty
from nimc_spark.solvers import SOLVER_NAMES, STEPPED
from nimc_spark.solvers.adam import Adam
from nimc_spark.solvers.gd import Gd

INITS = ("random", "tensor")
RATINGS, RANKING = "ratings", "ranking"
DTYPES = ("float32", "float64")
# λ where nothing is set, by what a group is made of (docs/adr/006-defaults.md).
IDS, HISTORIES, ATTRIBUTES = GroupPenalty(1.25, 0.5), GroupPenalty(4.0, 1.0), GroupPenalty(8.0, 4.0)


@dataclass(frozen=True)
class _Rule:
    """What a value may be, in words, and the test of it."""

    allowed: str
    holds: Callable[[Any], bool]


def _is_activation(name: Any) -> bool:
    activation(name)
    return True


def _is_penalty(value: Any, depth: int) -> bool:
    """λ, or a mapping of them of at most this depth; `penalties` knows the names."""
    if isinstance(value, Mapping):
        return depth > 0 and all(_is_penalty(inner, depth - 1) for inner in value.values())
    return isinstance(value, float) and 0 <= value <= LARGEST


_POSITIVE_INT = _Rule("an integer ≥ 1", lambda v: v >= 1)
_NON_NEGATIVE = _Rule(f"a number from 0 to {LARGEST:g}", lambda v: 0 <= v <= LARGEST)
_COLUMN = _Rule("the name of a column", lambda v: v != "")

RULES: Mapping[str, _Rule] = {
    "objective": _Rule(f"{RATINGS} or {RANKING}", lambda v: v in (RATINGS, RANKING)),
    "positiveFrom": _Rule("a finite number", math.isfinite),
    "rank": _Rule("an integer from 1 to 1000", lambda v: 1 <= v <= 1000),
    "activation": _Rule("an activation", _is_activation),
    "userActivation": _Rule("an activation", _is_activation),
    "itemActivation": _Rule("an activation", _is_activation),
    "regParam": _NON_NEGATIVE,
    "linearRegParam": _NON_NEGATIVE,
    "groupRegParam": _Rule(
        f"a mapping of numbers from 0 to {LARGEST:g} by side, group and factors or linear",
        lambda v: isinstance(v, Mapping) and _is_penalty(v, 3),
    ),
    "regPower": _Rule("a number from 0 to 1", lambda v: 0 <= v <= 1),
    "baseline": _Rule(f"a list of {', '.join(TERMS)}; empty for none", lambda v: set(v) <= set(TERMS)),
    "itemShrinkage": _NON_NEGATIVE,
    "userShrinkage": _NON_NEGATIVE,
    "complementWeight": _Rule("a number from 0 to 1, 0 for no complement", lambda v: 0 <= v <= 1),
    "solver": _Rule(", ".join(SOLVER_NAMES), lambda v: v in SOLVER_NAMES),
    "stepSize": _Rule("a number > 0", lambda v: 0 < v < float("inf")),
    "starts": _Rule("an integer from 1 to 100", lambda v: 1 <= v <= 100),
    "maxIter": _POSITIVE_INT,
    "tol": _NON_NEGATIVE,
    "init": _Rule(", ".join(INITS), lambda v: v in INITS),
    "initSpread": _Rule("a number from 1e-6 to 1e6", lambda v: 1e-6 <= v <= 1e6),
    "dtype": _Rule(", ".join(DTYPES), lambda v: v in DTYPES),
    "ratingsPerLane": _POSITIVE_INT,
    "stateInterval": _POSITIVE_INT,
    "maxSeconds": _Rule("a number > 0", lambda v: 0 < v < float("inf")),
    "userCol": _COLUMN,
    "itemCol": _COLUMN,
    "ratingCol": _COLUMN,
    "predictionCol": _COLUMN,
}


def _param(name: str, doc: str, converter: Callable[[Any], Any]) -> Param[Any]:
    return Param(Params._dummy(), name, doc, typeConverter=converter)


def _plain_penalties(value: Any) -> Any:
    """The mapping with its numbers as floats, which can be saved; what is no number stays, to be refused."""
    if isinstance(value, Mapping):
        return {key: _plain_penalties(inner) for key, inner in value.items()}
    return value if isinstance(value, bool) or not isinstance(value, Real) else float(value)


def _plain_declarations(value: Any) -> list[Any]:
    """Declarations as plain mappings, which can be saved."""
    entries = TypeConverters.toList(value)
    return [e.model_dump(mode="json", exclude_none=True) if isinstance(e, BaseModel) else e for e in entries]


class NIMCParams(Params):
    """Columns, objective, solver and data; names follow `pyspark.ml.recommendation.ALS` where it has the same thing."""

    userCol = _param("userCol", "column of user ids, of any type", TypeConverters.toString)
    itemCol = _param("itemCol", "column of item ids, of any type", TypeConverters.toString)
    ratingCol = _param("ratingCol", "column of ratings", TypeConverters.toString)
    weightCol = _param("weightCol", "column of rating weights ≥ 0; unset: all 1", TypeConverters.toString)
    offsetCol = _param("offsetCol", "column of known parts of the score, at fit; unset: all 0", TypeConverters.toString)
    predictionCol = _param("predictionCol", "column of predicted ratings", TypeConverters.toString)
    objective = _param(
        "objective",
        "ratings: scores are ratings; ranking: scores order items, from 1 for positives to 0 for others, rated or not",
        TypeConverters.toString,
    )
    positiveFrom = _param(
        "positiveFrom",
        "ranking: a rating from here on is a positive, one below a negative; unset: every rating is a positive",
        TypeConverters.toFloat,
    )
    rank = _param("rank", "k, the number of factors", TypeConverters.toInt)
    activation = _param("activation", "φ of both sides", TypeConverters.toString)
    userActivation = _param("userActivation", "φ of the users; unset: activation", TypeConverters.toString)
    itemActivation = _param("itemActivation", "φ of the items; unset: activation", TypeConverters.toString)
    linear = _param("linear", "learn linear terms aᵀx + bᵀy", TypeConverters.toBoolean)
    baseline = _param(
        "baseline",
        "offsets fitted before training, of global, item, user; beside a complement: item, its popularity, or none",
        TypeConverters.toListString,
    )
    itemShrinkage = _param("itemShrinkage", "shrinkage of item biases, in ratings", TypeConverters.toFloat)
    userShrinkage = _param("userShrinkage", "shrinkage of user biases, in ratings", TypeConverters.toFloat)
    regParam = _param(
        "regParam",
        f"λ of factor rows, in sum form; unset: {IDS.factors:g} of ids, {HISTORIES.factors:g} of histories, "
        f"{ATTRIBUTES.factors:g} of other features",
        TypeConverters.toFloat,
    )
    linearRegParam = _param(
        "linearRegParam",
        f"λ of linear rows, in sum form; unset: {IDS.linear:g} of ids, {HISTORIES.linear:g} of histories, "
        f"{ATTRIBUTES.linear:g} of other features",
        TypeConverters.toFloat,
    )
    groupRegParam = _param(
        "groupRegParam",
        "λ by side and feature group, over regParam and linearRegParam: {'users': {'id': {'factors': 1, 'linear': 2}}}",
        _plain_penalties,
    )
    regPower = _param(
        "regPower", "p: λ of a feature is multiplied by its count c to the power p", TypeConverters.toFloat
    )
    complementWeight = _param(
        "complementWeight",
        "β: weight of squared scores on all pairs without a rating, for one-class data; 0: ratings alone count; "
        "unset: 1 for ranking, else 0",
        TypeConverters.toFloat,
    )
    solver = _param("solver", f"one of {', '.join(SOLVER_NAMES)}", TypeConverters.toString)
    stepSize = _param(
        "stepSize",
        f"length of a step of gd (unset: {Gd.step_size:g}, halved whenever the loss does not fall) or adam (unset: "
        f"{Adam.step_size:g}), in the units in which diagnose prints the step 1/M_u",
        TypeConverters.toFloat,
    )
    starts = _param(
        "starts", "random starts, trained in the same passes; the smallest training loss is kept", TypeConverters.toInt
    )
    averageStarts = _param(
        "averageStarts",
        "score by the mean over all starts instead of the best one: starts times as many factors",
        TypeConverters.toBoolean,
    )
    maxIter = _param("maxIter", "limit of passes over the ratings", TypeConverters.toInt)
    maxSeconds = _param(
        "maxSeconds",
        "limit of seconds, checked after each pass; unset: none",
        TypeConverters.toFloat,
    )
    stateDir = _param(
        "stateDir",
        "folder in which training keeps its state, to go on from if it is interrupted; unset: none",
        TypeConverters.toString,
    )
    stateInterval = _param("stateInterval", "passes after which the state is saved again", TypeConverters.toInt)
    tol = _param("tol", "relative decrease of the loss below which a step counts as stalled", TypeConverters.toFloat)
    init = _param(
        "init", "first start: random, or tensor, from moments of the ratings (few features)", TypeConverters.toString
    )
    initSpread = _param(
        "initSpread", "standard deviation of the pre-activations at a random start", TypeConverters.toFloat
    )
    seed = _param("seed", "random seed", TypeConverters.toInt)
    dtype = _param("dtype", "float32 or float64 of blocks and kernels; sums are float64", TypeConverters.toString)
    clip = _param("clip", "bound predictions by the range of the training ratings", TypeConverters.toBoolean)
    ratingsPerLane = _param("ratingsPerLane", "ratings a lane (unit of parallel work) holds", TypeConverters.toInt)
    usersTable = _param("usersTable", "path or catalog name of the users' attributes", TypeConverters.toString)
    itemsTable = _param("itemsTable", "path or catalog name of the items' attributes", TypeConverters.toString)
    contextTable = _param(
        "contextTable",
        "path or catalog name of the ratings that histories are made of when scoring",
        TypeConverters.toString,
    )
    userFeatures = _param("userFeatures", "feature declarations of the users", _plain_declarations)
    itemFeatures = _param("itemFeatures", "feature declarations of the items", _plain_declarations)

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._setDefault(
            userCol="user",
            itemCol="item",
            ratingCol="rating",
            predictionCol="prediction",
            objective=RATINGS,
            rank=20,
            activation="identity",
            linear=True,
            itemShrinkage=Shrinkage.item,
            userShrinkage=Shrinkage.user,
            groupRegParam={},
            regPower=0.5,
            solver="auto",
            starts=1,
            averageStarts=False,
            maxIter=200,
            stateInterval=20,
            tol=3e-5,
            init="random",
            initSpread=0.3,
            seed=0,
            dtype="float32",
            clip=True,
            ratingsPerLane=GridLimits.ratings_per_lane,
        )

    def _set(self, **values: Any) -> Self:
        """None unsets. Raises UsageError for a value of another type."""
        for name in (name for name, value in values.items() if value is None):
            self.clear(self.getParam(name))
        try:
            return super()._set(**{name: value for name, value in values.items() if value is not None})
        except (TypeError, OverflowError) as error:
            raise UsageError(str(error)) from None

    def validate(self) -> None:
        """Raise UsageError naming the first Param whose value is not allowed, the value, and what is."""
        for name, rule in RULES.items():
            param = self.getParam(name)
            if not self.isDefined(param):
                continue
            value = self.getOrDefault(param)
            try:
                sound = rule.holds(value)
            except TypeError:
                sound = False
            if not sound:
                raise UsageError(f"{name} = {value!r} is not allowed; allowed: {rule.allowed}")
        self._check_columns()
        step, solver = self.optional("stepSize"), self.getOrDefault("solver")
        if step is not None and solver not in STEPPED:
            raise UsageError(
                f"stepSize = {step} cannot go with solver = {solver!r}: only {' and '.join(STEPPED)} take one"
            )

        if self.getOrDefault("init") == "tensor" and self.complement_weight > 0:
            raise UsageError(
                "init = 'tensor' cannot go with complementWeight > 0: its moments are those of the ratings alone"
            )

    def _check_columns(self) -> None:
        """One column has one role."""
        roles = ("userCol", "itemCol", "ratingCol", "predictionCol")
        names = [self.getOrDefault(role) for role in roles]
        lowered = [name.lower() for name in names]
        if SCORE_SOURCE in lowered:
            raise UsageError(
                f"{roles[lowered.index(SCORE_SOURCE)]} = {SCORE_SOURCE!r}: that column says what scored a pair"
            )
        if len(set(lowered)) < len(lowered):
            found = ", ".join(f"{role} = {name!r}" for role, name in zip(roles, names, strict=True))
            raise UsageError(f"{found}: each must be a column of its own")

    @property
    def ranks(self) -> bool:
        """Whether scores are made to order items, not to be ratings."""
        return bool(self.getOrDefault("objective") == RANKING)

    @property
    def unsigned_seed(self) -> int:
        """The seed as numpy's generators take it: each integer has a stream of its own."""
        return int(self.getOrDefault("seed")) % 2**64

    @property
    def complement_weight(self) -> float:
        """β: complementWeight, or what holds where it is unset."""
        weight: float | None = self.optional("complementWeight")
        return float(self.ranks) if weight is None else weight

    @property
    def baseline_terms(self) -> list[str]:
        """baseline, or what holds where it is unset: the mean of ratings, the popularity of ranked items, or none.

        Raises UsageError for terms, or an offset of each rating, that cannot stand beside a complement: its targets are
        0 outside of Ω, where means of ratings say nothing.
        """
        terms: list[str] | None = self.optional("baseline")
        if self.complement_weight == 0:
            return ["global"] if terms is None else terms
        if self.optional("offsetCol") is not None:
            raise UsageError(
                "offsetCol cannot go with complementWeight > 0: an offset of a rating has no value elsewhere"
            )
        if terms is not None and set(terms) - {"item"}:
            raise UsageError(f"baseline = {terms} cannot go with complementWeight > 0: set it to ['item'] or []")
        if terms is None:
            return ["item"] if self.ranks else []
        return terms

    def optional(self, name: str) -> Any:
        """Value of a Param that may be unset, else None."""
        param = self.getParam(name)
        return self.getOrDefault(param) if self.isDefined(param) else None

    def side_activation(self, side: SideName) -> str:
        own = "userActivation" if side is SideName.USERS else "itemActivation"
        name: str = self.optional(own) or self.getOrDefault("activation")
        return name

    def side_column(self, side: SideName) -> str:
        name: str = self.getOrDefault("userCol" if side is SideName.USERS else "itemCol")
        return name


T = TypeVar("T", bound=type)


def with_accessors(cls: T) -> T:
    """Give a class `setName` and `getName` for each of its Params, as every Spark ML class has them."""
    for param in (value for value in vars(NIMCParams).values() if isinstance(value, Param)):
        label = param.name[0].upper() + param.name[1:]
        if not hasattr(cls, f"set{label}"):
            setattr(cls, f"set{label}", _setter(param.name, param.doc))
        setattr(cls, f"get{label}", _getter(param.name, param.doc))
    return cls


def _setter(name: str, doc: str) -> Callable[[Any, Any], Any]:
    def setter(self: Any, value: Any) -> Any:
        return self._set(**{name: value})

    setter.__doc__ = f"Set {name}: {doc}."
    return setter


def _getter(name: str, doc: str) -> Callable[[Any], Any]:
    def getter(self: Any) -> Any:
        return self.getOrDefault(name)

    getter.__doc__ = f"Value of {name}: {doc}."
    return getter
