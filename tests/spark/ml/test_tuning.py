"""Spark ML's tuning over an estimator that holds DataFrames: every param map is really applied."""

from __future__ import annotations

import pytest
from pyspark.ml.evaluation import RegressionEvaluator
from pyspark.ml.tuning import CrossValidator, ParamGridBuilder, TrainValidationSplit

from nimc_spark import NIMC
from tests.spark.ml.conftest import Toy

EVALUATOR = {"metricName": "rmse", "labelCol": "rating", "predictionCol": "prediction"}


@pytest.fixture
def estimator(toy: Toy) -> NIMC:
    return NIMC(rank=2, maxIter=3).setUsers(toy.users)


@pytest.mark.soak
def test_cross_validation_over_ranks(toy: Toy, estimator: NIMC) -> None:
    grid = ParamGridBuilder().addGrid(estimator.rank, [1, 2]).build()
    validator = CrossValidator(
        estimator=estimator,
        estimatorParamMaps=grid,
        evaluator=RegressionEvaluator(**EVALUATOR),
        numFolds=2,
        seed=1,
        collectSubModels=True,
    )
    fitted = validator.fit(toy.train)
    for models in fitted.subModels:
        assert [model.trained.model.rank for model in models] == [1, 2]
        assert [model.getRank() for model in models] == [1, 2]
    assert fitted.avgMetrics[0] != fitted.avgMetrics[1]
    best = fitted.avgMetrics.index(min(fitted.avgMetrics))
    assert fitted.bestModel.trained.model.rank == (1, 2)[best]
    assert fitted.transform(toy.test).count() == toy.test.count()


@pytest.mark.soak
def test_train_validation_split_over_penalties(toy: Toy, estimator: NIMC) -> None:
    grid = ParamGridBuilder().addGrid(estimator.regParam, [0.01, 20.0]).build()
    split = TrainValidationSplit(
        estimator=estimator, estimatorParamMaps=grid, evaluator=RegressionEvaluator(**EVALUATOR), seed=1
    )
    fitted = split.fit(toy.train)
    assert fitted.validationMetrics[0] != fitted.validationMetrics[1]
    assert (
        fitted.bestModel.getRegParam() == (0.01, 20.0)[int(fitted.validationMetrics[1] < fitted.validationMetrics[0])]
    )


def test_a_list_of_param_maps_gives_a_model_each(toy: Toy, estimator: NIMC) -> None:
    maps = [{estimator.rank: 1}, {estimator.rank: 3, estimator.activation: "tanh"}]
    models = estimator.fit(toy.train, params=maps)
    assert [(m.trained.model.rank, m.trained.model.users_activation) for m in models] == [(1, "identity"), (3, "tanh")]
    assert estimator.getRank() == 2
