"""The public Spark ML API: `NIMC` and `NIMCModel`."""

from __future__ import annotations

from nimc_spark.ml.estimator import NIMC
from nimc_spark.ml.model import NIMCModel
from nimc_spark.ml.summary import TrainingSummary

__all__ = ["NIMC", "NIMCModel", "TrainingSummary"]
