"""`NIMC`: the Spark ML Estimator."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pyspark.ml import Estimator
from pyspark.ml.util import MLReadable, MLWritable
from pyspark.sql import DataFrame, SparkSession

from nimc_spark.errors import UsageError
from nimc_spark.kernels.model import SideName
from nimc_spark.ml.model import NIMCModel
from nimc_spark.ml.params import NIMCParams, with_accessors
from nimc_spark.ml.persistence import ParamsReader, ParamsWriter
from nimc_spark.ml.sides import SideInput, side_input
from nimc_spark.ml.tables import HoldsTables
from nimc_spark.ml.training import Trained, train
from nimc_spark.solvers.multistart import PassRecord


def _nothing(record: PassRecord) -> None:
    """The default observer."""


@with_accessors
class NIMC(Estimator[NIMCModel], NIMCParams, HoldsTables, MLReadable["NIMC"], MLWritable):
    """Nonlinear inductive matrix completion: score(x, y) = offset + aᵀx + bᵀy + φ(Uᵀx)ᵀ φ(Vᵀy).

    With ids alone it takes the place of `ALS`; with `usersTable`/`itemsTable` or `setUsers`/`setItems`, users and items
    that were never seen get scores from their features. Every Param is a keyword of the constructor; `explainParams()`
    lists them with their defaults.

        NIMC(rank=20, userCol="user_id", itemCol="item_id", ratingCol="rating", seed=7).fit(ratings)

    `fit` raises DataError for unusable ratings or features, UsageError for Params out of range, TrainingError when
    training diverges. Source: Eq. (1) and (3) of the NIMC paper.
    """

    def __init__(self, **params: Any) -> None:
        super().__init__()
        self._users: DataFrame | None = None
        self._items: DataFrame | None = None
        self._on_pass: Callable[[PassRecord], None] = _nothing
        self._initial: NIMCModel | None = None
        self.setParams(**params)

    def setParams(self, **params: Any) -> NIMC:
        """Set Params by keyword. Raises UsageError for a name that is no Param."""
        for name in params:
            if not self.hasParam(name):
                known = ", ".join(sorted(param.name for param in self.params))
                raise UsageError(f"NIMC has no Param {name!r}; it has: {known}")
        return self._set(**params)

    def setOnPass(self, observer: Callable[[PassRecord], None]) -> NIMC:
        """Call `observer` after every pass, for a progress display; it is not saved."""
        self._on_pass = observer
        return self

    def setInitialModel(self, model: NIMCModel | None) -> NIMC:
        """Begin the first start from an earlier model, whose ids, features and rank may be others; it is not saved.

        What it has no numbers for begins at random. It must have one member and this estimator's activations.
        """
        self._initial = model
        return self

    def inputs(self, spark: SparkSession) -> dict[SideName, SideInput]:
        """Both sides as the Params and DataFrames say. Raises UsageError where they do not fit together."""
        held = {SideName.USERS: self._users, SideName.ITEMS: self._items}
        return {side: side_input(self, side, held[side], spark) for side in SideName}

    def model_of(self, trained: Trained, dataset: DataFrame) -> NIMCModel:
        """The model of what was trained on `dataset`, with this estimator's Params and tables."""
        model = NIMCModel(trained)._resetUid(self.uid)
        model = self._copyValues(model.setUsers(self._users).setItems(self._items).setContext(dataset))
        # A place on this machine, which is none of the model's.
        model.clear(model.stateDir)
        return model

    def _fit(self, dataset: DataFrame) -> NIMCModel:
        self.validate()
        earlier = None if self._initial is None else self._initial.trained
        if earlier is not None and self.getOrDefault("init") == "tensor":
            raise UsageError("init = tensor and an initial model: the first start cannot be both; leave one out")
        inputs = self.inputs(dataset.sparkSession)
        return self.model_of(train(self, dataset, inputs, self._on_pass, earlier), dataset)

    def write(self) -> ParamsWriter:
        """Raises UsageError where a DataFrame is held: name a table instead, so that what is saved is complete."""
        if self._users is not None or self._items is not None:
            raise UsageError(
                "this NIMC holds a DataFrame (setUsers or setItems), which cannot be saved; write it to a table and "
                "name that with usersTable or itemsTable"
            )
        return ParamsWriter(self)

    def save(self, path: str) -> None:
        """Write the Params to a new folder."""
        self.write().save(path)

    @classmethod
    def read(cls) -> ParamsReader[NIMC]:
        return ParamsReader(cls)

    @classmethod
    def load(cls, path: str) -> NIMC:
        """The NIMC that was saved at `path`."""
        return cls.read().load(path)
