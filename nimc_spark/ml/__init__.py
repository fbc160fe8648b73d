"""The public Spark ML API: `NIMC`, `NIMCModel`, and `NIMCSearch` for their settings."""

from __future__ import annotations

from nimc_spark.ml.estimator import NIMC
from nimc_spark.ml.model import NIMCModel
from nimc_spark.ml.search import Multiples, NIMCSearch, NIMCSearchModel
from nimc_spark.ml.summary import TrainingSummary

__all__ = ["NIMC", "Multiples", "NIMCModel", "NIMCSearch", "NIMCSearchModel", "TrainingSummary"]
