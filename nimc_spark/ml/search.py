"""`NIMCSearch`: an Estimator that chooses Params of a `NIMC` on a validation part of the ratings, and trains on all."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from pyspark.ml import Estimator, Model
from pyspark.sql import DataFrame

from nimc_spark.data.declarations import parse_declarations
from nimc_spark.engine.splits import Split, split
from nimc_spark.errors import UsageError
from nimc_spark.kernels.model import SideName
from nimc_spark.kernels.objective import GroupPenalty
from nimc_spark.ml.estimator import NIMC
from nimc_spark.ml.model import NIMCModel
from nimc_spark.ml.penalties import group_penalties
from nimc_spark.ml.tuning import SEARCHABLE, Budget, Found, Setting, Trial, held_folds, search

_LOG = logging.getLogger(__name__)
_PARTS = ("factors", "linear")
_FEATURES = ("userFeatures", "itemFeatures")


@dataclass(frozen=True)
class Multiples:
    """Values of a number that is searched: these times what it is, and on in the same direction while that helps."""

    times: tuple[float, ...] = (0.25, 4.0)

    def __post_init__(self) -> None:
        """Raises UsageError for factors that are no finite numbers above 0."""
        numbers = self.times if isinstance(self.times, tuple | list) else ()
        if not numbers or not all(isinstance(t, int | float) and 0 < t < math.inf for t in numbers):
            raise UsageError(f"Multiples({self.times!r}): give finite factors above 0, such as (0.25, 4)")

    def of(self, value: float) -> list[Any]:
        """The multiples, to three digits, so that there and back is where it was; of an integer, integers from 1."""
        multiples = [float(f"{value * times:.3g}") for times in self.times]
        return [max(1, round(number)) for number in multiples] if isinstance(value, int) else multiples


Space = Mapping[str, Sequence[Any] | Multiples]


class NIMCSearchModel(Model):
    """What a search ends with: `bestModel`, the NIMCModel of all ratings with the best setting, and `found`, the trials
    and the best setting. To save it, save `bestModel`."""

    def __init__(self, best: NIMCModel, found: Found) -> None:
        super().__init__()
        self.bestModel = best
        self.found = found

    def _transform(self, dataset: DataFrame) -> DataFrame:
        return self.bestModel.transform(dataset)


class NIMCSearch(Estimator[NIMCSearchModel]):
    """Coordinate search over Params of `estimator`, several settings in the same passes (`tuning.py`).

        NIMCSearch(NIMC(rank=20), {"rank": [10, 40], "users.id.factors": Multiples((0.25, 4))}).fit(ratings).bestModel

    `space` has for each key the values to try: a Param of NIMC, or λ of a feature group, written
    `<users or items>.<group>.<factors or linear>`. Without it every λ of the estimator's groups is searched by
    `Multiples()`. `split` draws the validation part, of the kind that the model will be judged by: by user for new
    users, by time (of the column `timeCol`) for days to come; `folds` how many such parts, disjoint ones: of few users
    or items one part is mostly chance. `passes` bounds those of a trial, else maxIter does; `k` is the length of lists
    where the estimator ranks. Losers are given up.
    Where CrossValidator trains each setting anew, in Spark jobs of its own, this shares blocks and passes.

    `fit` raises UsageError for a key or a value that is not allowed, DataError for a validation part without ratings.
    """

    def __init__(
        self,
        estimator: NIMC,
        space: Space | None = None,
        split: Split = Split("random", 0.15),  # noqa: B008
        budget: Budget = Budget(),  # noqa: B008
        passes: int | None = None,
        k: int = 10,
        folds: int = 1,
        timeCol: str | None = None,
    ) -> None:
        super().__init__()
        if not isinstance(folds, int) or folds < 1:
            raise UsageError(f"folds = {folds!r}: an integer of at least 1")
        self._estimator, self._space, self._split = estimator, space, split
        self._budget, self._passes, self._k, self._folds, self._time = budget, passes, k, folds, timeCol

    def _fit(self, dataset: DataFrame) -> NIMCSearchModel:
        nimc = self._estimator
        nimc.validate()
        penalties = _penalties(nimc, dataset)
        known = {
            f"{side.value}.{group}.{part}": getattr(own, part)
            for side, groups in penalties.items()
            for group, own in groups.items()
            for part in _PARTS
        }
        space = dict.fromkeys(known, Multiples()) if self._space is None else self._space
        _check_space(space, known)
        now = known | {key: nimc.optional(key) for key in space if key not in known}
        start = {key: now[key] for key, values in space.items() if isinstance(values, Multiples)}
        coordinates = {key: partial(_values, now, key, values) for key, values in space.items()}
        columns = nimc.getOrDefault("userCol"), nimc.getOrDefault("itemCol"), self._time
        with held_folds([split(dataset, spec, *columns) for spec in self._split.folds(self._folds)]) as folds:
            brief = partial(_estimator, nimc, known, self._passes)
            found = search(brief, coordinates, folds, self._budget, self._k, _told, start)
        for warning in found.warnings:
            _LOG.warning("search: %s", warning)
        return NIMCSearchModel(_estimator(nimc, known, None, found.best).fit(dataset), found)


def _check_space(space: Space, known: Mapping[str, float]) -> None:
    """Raises UsageError for keys that trials cannot differ in, and for values that are no list of them."""
    for key, values in space.items():
        if key not in known and key not in SEARCHABLE:
            raise UsageError(f"space: {key!r} cannot be searched; there are {', '.join((*SEARCHABLE, *known))}")
        if not isinstance(values, Multiples) and (isinstance(values, str) or not isinstance(values, Sequence)):
            raise UsageError(f"space: {key!r} has {values!r}; give a list of values, or Multiples")
    of_all = sorted(key for key in space if key in ("regParam", "linearRegParam", "groupRegParam"))
    of_groups = sorted(key for key in space if key in known)
    if of_all and of_groups:
        raise UsageError(f"space: {of_all[0]!r} is over λ of all groups, {of_groups[0]!r} of one: give one kind")


def _told(trial: Trial) -> None:
    value = trial.setting.get(trial.coordinate, "")
    _LOG.info("trial %d: %s %s %s: %.5f", trial.number, trial.coordinate, value, trial.state, trial.error)


def _penalties(nimc: NIMC, dataset: DataFrame) -> dict[SideName, dict[str, GroupPenalty]]:
    inputs = nimc.inputs(dataset.sparkSession)
    return group_penalties(nimc, {side: inputs[side].declarations for side in SideName})


def _values(now: Setting, key: str, wanted: Sequence[Any] | Multiples, setting: Setting) -> list[Any]:
    """What to try of a key from a setting on."""
    if not isinstance(wanted, Multiples):
        return list(wanted)
    value = setting.get(key, now[key])
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise UsageError(f"space: {key!r} is {value!r}, of which there are no multiples: give a list of values")
    return wanted.of(value)


def _estimator(nimc: NIMC, penalties: Mapping[str, float], passes: int | None, setting: Setting) -> NIMC:
    """A copy of the estimator with a setting's Params and λ, every λ that it has not as `penalties` has it."""
    reg: dict[str, dict[str, dict[str, float]]] = {}
    for key, value in {**penalties, **{k: v for k, v in setting.items() if k in penalties}}.items():
        side, group, part = key.split(".", 1)[0], *key.split(".", 1)[1].rsplit(".", 1)
        reg.setdefault(side, {}).setdefault(group, {})[part] = value
    params = {key: value for key, value in setting.items() if key not in penalties}
    made = nimc.copy().setParams(**params)
    if passes is not None:
        made.setParams(maxIter=passes)
    if any(key in penalties or key in _FEATURES for key in setting):
        made.setParams(groupRegParam=_of_declared(made, reg))
    made.validate()
    return made


def _of_declared(nimc: NIMC, reg: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """λ without that of groups which the estimator's features, where it names them, do not have."""
    declared = {"users": nimc.optional("userFeatures"), "items": nimc.optional("itemFeatures")}
    groups = {
        side: reg[side] if raw is None else {d.group for d in parse_declarations(raw)} for side, raw in declared.items()
    }
    return {side: {group: own for group, own in of.items() if group in groups[side]} for side, of in reg.items()}
