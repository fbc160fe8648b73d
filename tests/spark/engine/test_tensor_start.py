"""The tensor start on a cluster's passes: the same bits as in one process, however the ratings are partitioned."""

from __future__ import annotations

import numpy as np
import pytest
from pyspark.sql import SparkSession

from nimc_spark.data.oracle import PassOracle
from nimc_spark.data.passes import Request
from nimc_spark.data.tensor_start import tensor_start
from nimc_spark.engine.spark_oracle import SparkOracle
from nimc_spark.kernels.model import Model
from nimc_spark.kernels.moments import Fit, HermiteMap, LogScales, Regression, SideMoments
from tests.spark.engine.oracle_problem import (
    ITEMS,
    USERS,
    local_oracle,
    model_of,
    random_parameters,
    rating_problem,
)
from tests.unit.problems import bits


def sums_of(oracle: PassOracle, model: Model) -> list[object]:
    """Bits of every statistic of the tensor start, all in one pass."""
    random = np.random.default_rng(4)
    widths = (model.users_width, model.items_width)
    maps = [[HermiteMap(random.normal(size=d), random.normal(size=(d, 2)), n) for n in (1, 3)] for d in widths]
    earlier = Fit(maps[0][0], maps[1][0], random.normal(size=(3, 3)))
    statistics = [
        SideMoments(),
        Regression(maps[0][1], maps[1][0], (earlier,)),
        Regression(maps[0][0], maps[1][1], (earlier,)),
        LogScales(),
    ]
    return [bits(s) for s in oracle.answer(model, [Request(s, random_parameters(model, 1)) for s in statistics])]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_same_sums_as_in_one_process(spark: SparkSession, dtype: str) -> None:
    blocks = rating_problem(spark).blocks(dtype, 3)
    assert len(blocks.lanes) > 2
    model = model_of(blocks, dtype)
    assert sums_of(SparkOracle(spark, blocks), model) == sums_of(local_oracle(blocks), model)
    blocks.close()


@pytest.mark.soak
def test_the_same_start_as_in_one_process(spark: SparkSession) -> None:
    """Some thirty passes."""
    blocks = rating_problem(spark).blocks("float64", 3)
    model = model_of(blocks, "float64")
    found = tensor_start(SparkOracle(spark, blocks), model, 3)
    wanted = tensor_start(local_oracle(blocks), model, 3)
    assert found.theta.tobytes() == wanted.theta.tobytes()
    assert found.warnings == wanted.warnings
    assert f"{USERS} users are few for the tensor start's 20 features of them" in found.warnings
    assert f"{ITEMS} items are few for the tensor start's 20 features of them" in found.warnings
    blocks.close()
