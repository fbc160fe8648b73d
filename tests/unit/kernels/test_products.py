"""Products of the ratings matrix against dense ones, over any lanes; weights and offsets have no part in them."""

from __future__ import annotations

import numpy as np
import pytest

from nimc_spark.kernels.products import RatingGram, RatingProduct
from tests.unit.problems import ITEMS, USERS, dense, rows_of, small_problem


@pytest.mark.parametrize("encoding", ["dense", "sparse", "mixed"])
@pytest.mark.parametrize(("lanes", "item_parts"), [(1, 1), (3, 2)])
def test_products_are_those_of_the_dense_matrix(encoding: str, lanes: int, item_parts: int) -> None:
    problem = small_problem(encoding)
    o, model = problem.observations, problem.model
    R = np.zeros((USERS, ITEMS))
    np.add.at(R, (o.user, o.item), o.rating)
    X, Y = dense(problem.users), dense(problem.items)
    parameters = model.unravel(np.random.default_rng(1).normal(size=model.size))
    oracle = problem.passes(lanes, item_parts)
    product = oracle.run(RatingProduct(), model, [parameters])[0]
    gram = oracle.run(RatingGram(), model, [parameters])[0]
    np.testing.assert_allclose(
        rows_of(product, "users", X.shape[1]), X.T @ R @ Y @ parameters.items, rtol=1e-12, atol=1e-13
    )
    np.testing.assert_allclose(
        rows_of(gram, "items", Y.shape[1]), Y.T @ R.T @ R @ Y @ parameters.items, rtol=1e-12, atol=1e-12
    )
