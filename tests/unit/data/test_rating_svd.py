"""Singular vectors of the ratings by passes, against numpy's of the dense matrix."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.sparse import csr_array, eye_array

from nimc_spark.data.local import LocalOracle, Observations, records_of_arrays
from nimc_spark.data.rating_svd import RatingSvd, rating_svd
from nimc_spark.errors import DataError
from tests.unit.problems import bits


def found(R: np.ndarray, rank: int, lanes: int = 3, item_parts: int = 2) -> RatingSvd:
    """The singular triplets of the matrix whose nonzeros are the ratings."""
    user, item = np.nonzero(R)
    sides = [[csr_array(eye_array(n))] for n in R.shape]
    records = records_of_arrays(*sides, Observations(user, item, R[user, item]), "float64", lanes, item_parts)
    return rating_svd(LocalOracle(records), *R.shape, rank)


def some_ratings(users: int, items: int, share: float = 0.4, seed: int = 0) -> np.ndarray:
    random = np.random.default_rng(seed)
    return random.integers(1, 6, (users, items)) * (random.random((users, items)) < share)


@pytest.mark.parametrize(("users", "items", "rank"), [(60, 40, 5), (30, 80, 4), (6, 5, 4), (2, 3, 1), (50, 2, 1)])
def test_triplets_are_those_of_numpy_up_to_signs(users: int, items: int, rank: int) -> None:
    R = some_ratings(users, items, 0.7)
    svd = found(R, rank)
    U, sizes, Vt = np.linalg.svd(R, full_matrices=False)
    np.testing.assert_allclose(svd.values, sizes[:rank], rtol=1e-12)
    signs = np.sign(np.sum(svd.items * Vt[:rank].T, axis=0))
    np.testing.assert_allclose(svd.items, Vt[:rank].T * signs, atol=1e-10)
    np.testing.assert_allclose(svd.users, U[:, :rank] * signs, atol=1e-10)


def test_the_largest_entry_of_an_item_vector_is_positive() -> None:
    svd = found(some_ratings(60, 40), 8)
    assert (svd.items.max(axis=0) == np.abs(svd.items).max(axis=0)).all()
    assert (svd.items[:, 1:].min(axis=0) < 0).all()


def test_the_same_ratings_give_the_same_bits() -> None:
    R = some_ratings(60, 40)
    assert bits(found(R, 6)) == bits(found(R, 6))


def test_cuts_change_no_more_than_rounding() -> None:
    R = some_ratings(60, 40)
    for one, other in zip(found(R, 6, 1, 1), found(R, 6, 7, 4), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-10)


def test_ratings_of_0_have_no_vectors() -> None:
    ids = [[csr_array(eye_array(n))] for n in (6, 5)]
    nothing = Observations(np.array([0, 3]), np.array([1, 2]), np.zeros(2))
    with pytest.raises(DataError, match="the ratings have no singular vectors; all of them may be 0"):
        rating_svd(LocalOracle(records_of_arrays(*ids, nothing, "float64")), 6, 5, 2)


@pytest.mark.parametrize(("users", "items"), [(12, 9), (80, 120)])
def test_beyond_the_rank_of_the_ratings_vectors_are_zero(users: int, items: int) -> None:
    # Two kinds of users, each of whom rates the same items alike: R has rank 2, and ARPACK must start anew.
    kinds = some_ratings(2, items, 0.6, seed=3)
    R = kinds[np.arange(users) % 2]
    svd, again = found(R, 5), found(R, 5)
    np.testing.assert_allclose(svd.values[:2], np.linalg.svd(R)[1][:2], rtol=1e-12)
    for part in svd:
        assert not part[..., 2:].any()
        assert np.isfinite(part).all()
    np.testing.assert_allclose((svd.users * svd.values) @ svd.items.T, R, atol=1e-9)
    assert bits(svd) == bits(again)
