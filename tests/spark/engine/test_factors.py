"""Factor rows against the kernel's forward pass; the same bits however the rows are cut into batches."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from pyspark.ml.linalg import Vectors
from pyspark.sql import DataFrame, SparkSession

from nimc_spark.engine.factors import SideModel, factor_rows, known_rows
from nimc_spark.kernels.model import Model, SideName

K, WIDTH, TRAINED = 3, 4, 6
MODEL = Model(K, WIDTH + TRAINED, 1, "tanh", "identity", True, "float32")
Found = dict[int, tuple[list[float], str]]


@pytest.fixture(scope="module")
def vectors() -> np.ndarray:
    # Of ids 2 … 9: the first two trained ids have no features, the last four with features were not trained.
    return np.random.default_rng(1).normal(size=(8, WIDTH)) * (np.random.default_rng(2).random((8, WIDTH)) < 0.6)


@pytest.fixture(scope="module")
def features(spark: SparkSession, vectors: np.ndarray) -> DataFrame:
    rows = [
        (i + 2, Vectors.dense(x.tolist()) if i % 2 else Vectors.sparse(WIDTH, dict(enumerate(x.tolist()))))
        for i, x in enumerate(vectors)
    ]
    return spark.createDataFrame(rows, ["id", "features"]).coalesce(1)


def side_model(uses_id: bool) -> SideModel:
    random = np.random.default_rng(4)
    declared = random.normal(size=(WIDTH, K + 1))
    own = random.normal(size=(TRAINED, K + 1)).tolist() if uses_id else [None] * TRAINED
    lists = pa.array(own, pa.list_(pa.float64()))
    ids = pa.table({"id": range(TRAINED), "offset": np.arange(TRAINED) / 8, "weights": lists})
    return SideModel(SideName.USERS, MODEL, declared, ids, 3.0, (0.0,) * (K + 2))


def found(frame: DataFrame) -> Found:
    return {row.id: (row.factors, row.source) for row in frame.collect()}


@pytest.mark.parametrize("uses_id", [True, False])
def test_factor_rows_are_the_forward_pass(
    spark: SparkSession, features: DataFrame, vectors: np.ndarray, uses_id: bool
) -> None:
    side = side_model(uses_id)
    ids = spark.createDataFrame(side.ids)
    rows = found(factor_rows(side, known_rows(ids, features)))
    assert sorted(rows) == list(range(10))
    own = side.ids["weights"].to_pylist()
    for number, (factors, source) in rows.items():
        x = vectors[number - 2] if number >= 2 else np.zeros(WIDTH)
        z = x @ side.declared
        if uses_id and number < TRAINED:
            z = z + np.array(own[number])
        offset = 3.0 + (number / 8 if number < TRAINED else 0.0)
        np.testing.assert_allclose(factors, [*np.tanh(z[:K]), offset + z[K], 1.0], rtol=1e-13, atol=1e-15)
        assert source == "model"
    spread = found(factor_rows(side, known_rows(ids.repartition(5), features.repartition(7))))
    assert spread == rows


def test_ids_alone(spark: SparkSession) -> None:
    side = side_model(uses_id=True)
    side = SideModel(side.side, side.model, np.zeros((0, K + 1)), side.ids, side.constant, side.default)
    rows = found(factor_rows(side, known_rows(spark.createDataFrame(side.ids), None)))
    own = np.array(side.ids["weights"].to_pylist())
    for number, (factors, _) in rows.items():
        wanted = [*np.tanh(own[number, :K]), 3.0 + number / 8 + own[number, K], 1.0]
        np.testing.assert_allclose(factors, wanted, rtol=1e-15)


@pytest.mark.parametrize("with_features", [True, False])
def test_vectors_of_trained_ids_come_after_the_features_and_are_zero_for_others(
    spark: SparkSession, features: DataFrame, vectors: np.ndarray, with_features: bool
) -> None:
    side, first = side_model(uses_id=True), WIDTH if with_features else 0
    # Of the trained ids the third has none; ids with features alone have none either.
    own = [None if i == 2 else [i + 0.5, -i] for i in range(TRAINED)]
    ids = side.ids.append_column("vector", pa.array(own, pa.list_(pa.float64())))
    declared = np.random.default_rng(5).normal(size=(first + 2, K + 1))
    side = SideModel(side.side, side.model, declared, ids, side.constant, side.default)
    frame, given = spark.createDataFrame(ids), features if with_features else None
    rows = found(factor_rows(side, known_rows(frame, given)))
    assert len(rows) == (10 if with_features else TRAINED)
    for number, (factors, _) in rows.items():
        z = vectors[number - 2] @ declared[:WIDTH] if with_features and number >= 2 else np.zeros(K + 1)
        offset = 3.0
        if number < TRAINED:
            z = z + np.array(own[number] or [0, 0]) @ declared[first:] + np.array(ids["weights"].to_pylist()[number])
            offset += number / 8
        np.testing.assert_allclose(factors, [*np.tanh(z[:K]), offset + z[K], 1.0], rtol=1e-13, atol=1e-15)
    assert found(factor_rows(side, known_rows(frame.repartition(9), given))) == rows
