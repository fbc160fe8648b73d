"""Reasons against the score without a feature, worked out one by one; the same bits however rows are cut."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pyspark.ml.linalg import Vectors
from pyspark.sql import SparkSession

from nimc_spark.engine import reasons
from nimc_spark.engine.factors import HistoryModel, SideModel, known_rows
from nimc_spark.engine.reasons import FeatureNames, side_reasons
from nimc_spark.kernels.model import Model, SideName

K, NAMES, OTHERS, TRAINED = 3, ("age", "job=nurse", "const"), 5, 4
MODEL = Model(K, len(NAMES) + 2 + 2 * OTHERS + TRAINED, 1, "tanh", "identity", True, "float32")
# Ids 0 … 3 were trained, 4 came later; the last has no history.
HISTORY = {0: [(1, 0.5), (3, -1.0)], 1: [(0, 2.0)], 2: [(4, 1.0), (2, 0.1), (0, -0.3)], 4: [(3, 0.7)]}
PAIRS = [(i, 10 + j) for i, j in itertools.product(range(5), range(4)) if (i + j) % 3]


def side_model() -> SideModel:
    random = np.random.default_rng(1)
    own = pa.array(random.normal(size=(TRAINED, K + 1)).tolist(), pa.list_(pa.float64()))
    vectors = pa.array(random.normal(size=(TRAINED, 2)).tolist(), pa.list_(pa.float64()))
    columns = {"id": range(TRAINED), "offset": np.arange(TRAINED) / 8, "weights": own, "vector": vectors}
    history = HistoryModel(("equal", "residuals"), 0.0, random.normal(size=(2 * OTHERS, K + 1)))
    declared = random.normal(size=(len(NAMES) + 2, K + 1))
    return SideModel(SideName.USERS, MODEL, declared, pa.table(columns), 3.0, (0.0,) * (K + 2), history)


def features() -> np.ndarray:
    return np.column_stack([np.random.default_rng(2).normal(size=5), [1, 0, 1, 0, 1], np.ones(5)])


def partners() -> np.ndarray:
    return np.random.default_rng(3).normal(size=(4, K + 2))


def terms(side: SideModel, number: int) -> dict[str, np.ndarray]:
    """What each feature adds to the input z of an id."""
    found = {name: features()[number, c] * side.declared[c] for c, name in enumerate(NAMES)}
    if number < TRAINED:
        found["rating_svd"] = np.array(side.ids["vector"][number].as_py()) @ side.declared[len(NAMES) :]
        found["id"] = np.array(side.ids["weights"][number].as_py())
    past = HISTORY.get(number, [])
    assert side.history is not None
    for j, value in past:
        rows = side.history.rows[j] + value * side.history.rows[OTHERS + j]
        found[f"history=film {j}"] = rows / np.sqrt(len(past))
    return found


def expected(side: SideModel, number: int, other: int) -> dict[str, float]:
    own, q = terms(side, number), partners()[other - 10]

    def score(left_out: str) -> float:
        z = sum((term for name, term in own.items() if name != left_out), np.zeros(K + 1))
        return float(np.tanh(z[:K]) @ q[:K] + z[K] * q[K])

    return {name: score("") - score(name) for name in own if name != "const"}


def found(spark: SparkSession, side: SideModel, n: int, partitions: int = 1) -> dict[tuple[int, int], list[Any]]:
    vectors = spark.createDataFrame(
        [(i, Vectors.dense(x.tolist())) for i, x in enumerate(features())], ["id", "features"]
    )
    histories = spark.createDataFrame(list(HISTORY.items()), "id long, history array<struct<index int, value double>>")
    rows = known_rows(spark.createDataFrame(side.ids), vectors, histories)
    pairs = spark.createDataFrame(PAIRS, "id long, other long").repartition(partitions)
    listed = [(10 + j, row.tolist()) for j, row in enumerate(partners())]
    others = spark.createDataFrame(listed, "other long, factors array<double>")
    names = FeatureNames(NAMES, (2,), pa.array([f"film {j}" for j in range(OTHERS)]))
    answer = side_reasons(side, rows.repartition(partitions), pairs, others, names, n).collect()
    assert len(answer) == len(PAIRS)
    return {(row.id, row.other): [tuple(reason) for reason in row.reasons] for row in answer}


def test_what_a_feature_adds_is_what_is_missed_without_it(spark: SparkSession) -> None:
    side = side_model()
    answer = found(spark, side, n=100)
    for pair in PAIRS:
        wanted = expected(side, *pair)
        mine = {feature: added for _, feature, added in answer[pair]}
        assert {name for name, added in wanted.items() if added > 0} == set(mine)
        assert list(mine.values()) == sorted(mine.values(), reverse=True)
        np.testing.assert_allclose([mine[f] for f in mine], [wanted[f] for f in mine], rtol=1e-12)
        assert {name for name, _, _ in answer[pair]} <= {"users"}


def test_the_first_are_those_that_add_most(spark: SparkSession) -> None:
    side = side_model()
    every = found(spark, side, n=100)
    assert found(spark, side, n=2) == {pair: listed[:2] for pair, listed in every.items()}


def test_bits_do_not_depend_on_batches(spark: SparkSession, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = found(spark, side_model(), n=4)
    assert found(spark, side_model(), n=4, partitions=5) == whole
    # Of the driver's process: how the pairs of an id are cut is decided there.
    monkeypatch.setattr(reasons, "_PAIRS", 2)
    assert found(spark, side_model(), n=4) == whole
