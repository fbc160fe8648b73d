"""The public Spark ML API: `NIMC`, `NIMCModel`, and `NIMCSearch` for their settings."""

from __future__ import annotations

from nimc_spark.engine.splits import Split
from nimc_spark.ml.estimator import NIMC
from nimc_spark.ml.model import NIMCModel
from nimc_spark.ml.search import Multiples, NIMCSearch, NIMCSearchModel
from nimc_spark.ml.summary import TrainingSummary
from nimc_spark.ml.tuning import Budget

__all__ = ["NIMC", "Budget", "Multiples", "NIMCModel", "NIMCSearch", "NIMCSearchModel", "Split", "TrainingSummary"]
