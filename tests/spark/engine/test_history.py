"""Lists of ratings → rows of histories: scaled, and a pair with several ratings counts once."""

from __future__ import annotations

import math

import numpy as np
import pyarrow as pa
import pytest
from pyspark.sql import SparkSession

from nimc_spark.engine.history import Weights, csr_of_histories, history_lists, stacked_histories
from nimc_spark.engine.vectors import Csr
from nimc_spark.kernels.model import SideName

LISTS = pa.list_(pa.struct([("index", pa.int32()), ("value", pa.float64())]))


def lists(*rows: list[tuple[int, float]] | None) -> pa.Array:
    return pa.array([None if r is None else [{"index": i, "value": v} for i, v in r] for r in rows], LISTS)


def full(csr: Csr, width: int) -> np.ndarray:
    matrix = np.zeros((csr.rows, width))
    matrix[np.repeat(np.arange(csr.rows), np.diff(csr.indptr)), csr.indices] = csr.data
    return matrix


@pytest.mark.parametrize(
    ("weights", "row"), [("equal", [1 / math.sqrt(2)] * 2), ("residuals", [2 / math.sqrt(2), -3 / math.sqrt(2)])]
)
def test_rows_are_scaled_by_their_number_and_a_pair_counts_once(weights: Weights, row: list[float]) -> None:
    # The pair with index 0 has two ratings, of mean 2.
    column = lists([(2, -3.0), (0, 1.0), (0, 3.0)], None, [], [(1, 0.5)])
    found = full(csr_of_histories(column, weights), 3)
    last = 1.0 if weights == "equal" else 0.5
    np.testing.assert_allclose(found, [[row[0], 0, row[1]], [0, 0, 0], [0, 0, 0], [0, last, 0]])
    np.testing.assert_array_equal(full(csr_of_histories(column.slice(1), weights), 3), found[1:])


def test_no_list_at_all_gives_rows_of_zeros() -> None:
    assert csr_of_histories(lists(None, None), "residuals").indptr.tolist() == [0, 0, 0]


def test_histories_stand_side_by_side() -> None:
    first, second = stacked_histories(lists([(1, 4.0)]), ("residuals", "equal"), 5, 3)
    assert (first.indices.tolist(), first.data.tolist()) == ([6], [4.0])
    assert (second.indices.tolist(), second.data.tolist()) == ([9], [1.0])


def test_lists_hold_residuals_of_known_others_alone(spark: SparkSession) -> None:
    ratings = spark.createDataFrame(
        [(1, "a", 5.0), (1, "b", 2.0), (1, "new", 1.0), (2, "b", 4.0)], "user int, item string, rating double"
    )
    items = spark.createDataFrame([("a", 0, 0.5), ("b", 1, -1.0)], "id string, index int, bias double")
    rows = history_lists(ratings, SideName.USERS, items, 3.0).collect()
    assert {r.id: sorted(tuple(e) for e in r.history) for r in rows} == {1: [(0, 1.5), (1, 0.0)], 2: [(1, 2.0)]}
    users = spark.createDataFrame([(1, 0), (2, 1)], "id int, index int")
    rows = history_lists(ratings, SideName.ITEMS, users, 0.0).collect()
    assert {r.id: sorted(tuple(e) for e in r.history) for r in rows}["b"] == [(0, 2.0), (1, 4.0)]
