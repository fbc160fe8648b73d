"""Feature groups and row sums against dense matrices."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_array

from nimc_spark.kernels.features import DenseGroup, Group, Rows, SparseGroup, add_rows, dense_rows, stack_rows

HEIGHT = 9


def groups_of(X: np.ndarray, start: int) -> dict[str, Group]:
    """The same columns dense, and as CSR over the touched columns only."""
    matrix = csr_array(X)
    columns, places = np.unique(matrix.indices, return_inverse=True)
    sparse = SparseGroup(start + columns, matrix.indptr, places.astype(np.int32), matrix.data)
    return {"dense": DenseGroup(start, X), "sparse": sparse}


@pytest.fixture(params=["dense", "sparse"])
def group(request: pytest.FixtureRequest) -> Group:
    return groups_of(features(), 2)[request.param]


def features() -> np.ndarray:
    random = np.random.default_rng(1)
    X = random.normal(size=(6, 5)) * (random.random((6, 5)) < 0.5)
    X[:, 3] = 0.0
    return X


def test_products_of_a_group(group: Group) -> None:
    random = np.random.default_rng(2)
    W, H = random.normal(size=(HEIGHT, 3)), random.normal(size=(6, 3))
    X = features()
    wide = np.hstack([np.zeros((6, 2)), X, np.zeros((6, 2))])
    np.testing.assert_allclose(group.times(W), wide @ W, rtol=1e-14, atol=1e-14)
    np.testing.assert_allclose(dense_rows(group.transpose_times(H), HEIGHT), wide.T @ H, rtol=1e-14, atol=1e-14)
    squares = dense_rows(group.squared().transpose_times(H[:, :1]), HEIGHT)
    np.testing.assert_allclose(squares, (wide * wide).T @ H[:, :1], rtol=1e-14, atol=1e-14)


def test_a_sparse_group_gives_touched_rows_only() -> None:
    rows = groups_of(features(), 2)["sparse"].transpose_times(np.ones((6, 1)))
    np.testing.assert_array_equal(rows.indices, [2, 3, 4, 6])


@pytest.mark.parametrize("kind", ["dense", "sparse"])
def test_float32_products_stay_float32_and_sums_are_float64(kind: str) -> None:
    group = groups_of(features().astype(np.float32), 0)[kind]
    H = np.ones((6, 2), np.float32)
    assert group.times(np.ones((HEIGHT, 2), np.float32)).dtype == np.float32
    assert group.transpose_times(H).values.dtype == np.float64


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("kind", ["dense", "sparse"])
def test_finite_finds_a_bad_entry(kind: str, bad: float) -> None:
    X = features()
    assert groups_of(X, 0)[kind].finite()
    X[4, 1] = bad
    assert not groups_of(X, 0)[kind].finite()


@st.composite
def some_rows(draw: st.DrawFn) -> Rows:
    indices = sorted(draw(st.sets(st.integers(0, HEIGHT - 1))))
    values = draw(st.lists(st.integers(-50, 50), min_size=2 * len(indices), max_size=2 * len(indices)))
    return Rows(np.array(indices, np.int64), np.array(values, np.float64).reshape(-1, 2))


@settings(deadline=None)
@given(st.lists(some_rows(), min_size=1, max_size=4))
def test_sum_of_rows_is_the_sum_of_what_they_stand_for(rows: list[Rows]) -> None:
    total = add_rows(rows)
    np.testing.assert_array_equal(dense_rows(total, HEIGHT), sum(dense_rows(more, HEIGHT) for more in rows))
    assert total.indices.tolist() == sorted(set().union(*(more.indices.tolist() for more in rows)))


def test_stacked_rows() -> None:
    first, second = Rows(np.array([0, 3]), np.ones((2, 1))), Rows(np.array([5]), np.full((1, 1), 2.0))
    np.testing.assert_array_equal(dense_rows(stack_rows([first, second], 1), 6)[:, 0], [1, 0, 0, 1, 0, 2])
    empty = stack_rows([], 3)
    np.testing.assert_array_equal(dense_rows(empty, 4), np.zeros((4, 3)))
