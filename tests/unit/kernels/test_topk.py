"""Top-K of a tile: order, exclusions, padding, and bits equal between the compiled loop, numpy and plain Python."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nimc_spark.kernels import topk
from nimc_spark.kernels._numba import HAVE_NUMBA


def csr(mask: np.ndarray) -> topk.Exclusions:
    indptr = np.concatenate([[0], np.cumsum(mask.sum(axis=1))]).astype(np.int64)
    return indptr, np.nonzero(mask)[1].astype(np.int32)


def reference(P: np.ndarray, Q: np.ndarray, k: int, mask: np.ndarray) -> list[list[tuple[int, float]]]:
    lists = []
    for i, row in enumerate(P.tolist()):
        candidates = []
        for j, column in enumerate(Q.tolist()):
            score = 0.0
            for p, q in zip(row, column, strict=True):
                score = score + p * q
            if not mask[i, j]:
                candidates.append((j, score))
        lists.append(sorted(candidates, key=lambda pair: (-pair[1], pair[0]))[:k])
    return lists


def as_lists(positions: np.ndarray, scores: np.ndarray) -> list[list[tuple[int, float]]]:
    return [
        [(int(j), float(s)) for j, s in zip(row, row_scores, strict=True) if j >= 0]
        for row, row_scores in zip(positions, scores, strict=True)
    ]


@pytest.fixture(params=["compiled", "numpy"])
def path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "compiled" and not HAVE_NUMBA:
        pytest.skip("numba is absent")
    monkeypatch.setattr(topk, "HAVE_NUMBA", request.param == "compiled")
    return str(request.param)


@pytest.mark.parametrize(("n", "m", "width"), [(7, 40, 1), (5, 2500, 22), (3, 1024, 7), (4, 1, 4), (1, 1025, 9)])
@pytest.mark.parametrize("k", [1, 3, 10, 3000])
def test_same_bits_as_plain_python(path: str, n: int, m: int, width: int, k: int) -> None:
    random = np.random.default_rng(n * m + width)
    P = random.normal(size=(n, width)) * 10.0 ** random.integers(-3, 4, size=(n, width))
    Q = random.normal(size=(m, width))
    mask = random.random((n, m)) < 0.3
    positions, scores = topk.top_k_tile(P, Q.T, k, csr(mask))
    assert as_lists(positions, scores) == reference(P, Q, k, mask)


@pytest.mark.parametrize("scale", [1e-160, 1e-30, 1.0, 1e15, 1e25, 1e140])
def test_scores_that_float32_cannot_tell_apart(path: str, scale: float) -> None:
    """The candidates come from products in float32: neither ties there, underflow nor overflow may lose one."""
    random = np.random.default_rng(5)
    P = scale * (1 + 1e-9 * random.normal(size=(4, 6)))
    Q = scale * (3 + 1e-10 * random.normal(size=(300, 6)))
    mask = random.random((4, 300)) < 0.1
    assert as_lists(*topk.top_k_tile(P, Q.T, 7, csr(mask))) == reference(P, Q, 7, mask)


@pytest.fixture
def multiplied(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """The shapes of the products that are looked at, eight items and eleven users at most at a time."""
    if not HAVE_NUMBA:
        pytest.skip("numba is absent")
    shapes: list[tuple[int, int]] = []
    select = topk._select
    monkeypatch.setattr(topk, "_STEP", 8)
    monkeypatch.setattr(topk, "_PRODUCTS", 90)
    monkeypatch.setattr(
        topk, "_select", lambda products, *rest: (shapes.append(products.shape), select(products, *rest))
    )
    return shapes


def test_users_and_items_are_multiplied_some_at_a_time(multiplied: list[tuple[int, int]]) -> None:
    random = np.random.default_rng(6)
    P, Q, mask = random.normal(size=(23, 3)), random.normal(size=(31, 3)), random.random((23, 31)) < 0.3
    assert as_lists(*topk.top_k_tile(P, Q.T, 5, csr(mask))) == reference(P, Q, 5, mask)
    assert multiplied[0] == (11, 8)
    # A user who gets all there is sees all.
    multiplied.clear()
    assert as_lists(*topk.top_k_tile(P, Q.T, 31, csr(mask))) == reference(P, Q, 31, mask)
    assert sum(users * items for users, items in multiplied) == 23 * 31


@pytest.mark.parametrize("scale", [1e-25, 1.0, 1e15])
def test_items_that_cannot_reach_a_list_are_not_multiplied(multiplied: list[tuple[int, int]], scale: float) -> None:
    """Items differ in popularity, users in how far they are from the mean: some need most items, others a few."""
    random = np.random.default_rng(7)
    P, Q = random.normal(size=(40, 4)), 0.3 * random.normal(size=(400, 4))
    P *= 3.0 ** random.integers(-4, 3, size=(40, 1))
    P[:, 0], Q[:, 0] = 1.0, random.normal(size=400)
    P, mask = scale * (P + 5.0), random.random((40, 400)) < 0.1
    assert as_lists(*topk.top_k_tile(P, Q.T, 3, csr(mask))) == reference(P, Q, 3, mask)
    assert sum(users * items for users, items in multiplied) < 0.6 * 40 * 400


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(1, 60), st.integers(1, 20), st.integers(0, 2**32 - 1))
def test_ties_across_steps(multiplied: list[tuple[int, int]], m: int, k: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    P, Q = random.integers(-1, 3, size=(5, 2)).astype(float), random.integers(-2, 3, size=(m, 2)).astype(float)
    mask = random.random((5, m)) < 0.2
    assert as_lists(*topk.top_k_tile(P, Q.T, k, csr(mask))) == reference(P, Q, k, mask)


def test_ties_go_to_the_lower_position(path: str) -> None:
    Qt = np.array([[1.0, 2.0, 2.0, 1.0, 2.0, 1.0]])
    positions, scores = topk.top_k_tile(np.array([[1.0], [-1.0], [0.0]]), Qt, 4)
    np.testing.assert_array_equal(positions, [[1, 2, 4, 0], [0, 3, 5, 1], [0, 1, 2, 3]])
    np.testing.assert_array_equal(scores, [[2, 2, 2, 1], [-1, -1, -1, -2], [0, 0, 0, 0]])


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 60), st.integers(1, 70), st.integers(0, 2**32 - 1))
def test_many_ties(m: int, k: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    P, Q = random.integers(-1, 2, size=(3, 2)).astype(float), random.integers(-1, 2, size=(m, 2)).astype(float)
    mask = random.random((3, m)) < 0.2
    assert as_lists(*topk.top_k_tile(P, Q.T, k, csr(mask))) == reference(P, Q, k, mask)


def test_exclusions_come_before_the_cut_and_lists_are_padded(path: str) -> None:
    mask = np.array([[True, True, False, True], [False, False, False, True]])
    positions, scores = topk.top_k_tile(np.ones((2, 1)), np.array([[4.0, 3.0, 2.0, 1.0]]), 3, csr(mask))
    np.testing.assert_array_equal(positions, [[2, -1, -1], [0, 1, 2]])
    np.testing.assert_array_equal(scores, [[2.0, np.nan, np.nan], [4.0, 3.0, 2.0]])


def test_scores_that_are_not_finite_are_no_candidates(path: str) -> None:
    positions, _ = topk.top_k_tile(np.ones((1, 1)), np.array([[np.nan, 1.0, np.inf, -np.inf, 2.0]]), 4)
    np.testing.assert_array_equal(positions, [[4, 1, -1, -1]])


@pytest.mark.parametrize(("n", "m", "k"), [(0, 3, 2), (2, 0, 2), (2, 3, 0)])
def test_nothing_to_rank(path: str, n: int, m: int, k: int) -> None:
    positions, scores = topk.top_k_tile(np.ones((n, 2)), np.ones((2, m)), k)
    assert positions.shape == scores.shape == (n, k)
    assert (positions[:, : 0 if m else k] == -1).all()


def test_dot_columns_adds_in_column_order() -> None:
    P = np.array([[1e16, 1.0, -1e16]])
    assert topk.dot_columns(P, np.ones((1, 3))).tolist() == [0.0]
    assert topk.dot_columns(P[:, [0, 2, 1]], np.ones((1, 3))).tolist() == [1.0]
