"""Hessian, Gauss-Newton matrix, products and blocks: against finite differences, each other and dense formulas."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nimc_spark.data.local import LocalOracle
from nimc_spark.data.oracle import BoundOracle
from nimc_spark.kernels.curvature import RowBlocks
from nimc_spark.kernels.model import Vector
from nimc_spark.solvers.oracle import Along, At, Want
from tests.unit.kernels.test_objective import relative_error, some_point
from tests.unit.problems import (
    ITEMS,
    REFERENCES,
    USERS,
    Problem,
    dense_scores,
    small_problem,
    unlabelled,
    with_part_offsets,
)

STEP = 1e-5
PAIRS = [(users, items) for users in ("sigmoid", "tanh", "relu", "identity") for items in ("sigmoid", "tanh", "relu")]
PAIRS += [(name, "tanh") for name in REFERENCES if name not in ("sigmoid", "tanh", "relu", "identity")]
PAIRS += [("tanh", name) for name in REFERENCES if name not in ("sigmoid", "tanh", "relu")]


def bound(problem: Problem, lanes: int = 1, item_parts: int = 1) -> BoundOracle:
    passes = problem.passes(lanes, item_parts)
    return passes.bind(problem.objective(passes))


def some_direction(problem: Problem, theta: Vector) -> Vector:
    return np.where(theta != 0, np.random.default_rng(3).normal(size=len(theta)), 0.0)


def matrix(oracle: BoundOracle, theta: Vector, want: Want) -> np.ndarray:
    found = oracle.evaluate([theta], want)[0].curvature
    assert found is not None
    return found.matrix()


def check(problem: Problem) -> None:
    """The Hessian's product is the change of the gradient; the assembled matrices do what the products do."""
    theta = some_point(problem)
    v = some_direction(problem, theta)
    oracle = bound(problem)
    before, after = oracle.evaluate([theta - STEP * v, theta + STEP * v])
    product = oracle.product(theta, v)
    assert relative_error(product, (after.gradient - before.gradient) / (2 * STEP)) <= 1e-6
    hessian, gauss_newton = (matrix(oracle, theta, want) for want in (Want.HESSIAN, Want.MATRIX))
    assert relative_error(hessian @ v, product) <= 1e-10
    assert relative_error(gauss_newton @ v, oracle.product(theta, v, exact=False)) <= 1e-10
    np.testing.assert_array_equal(hessian, hessian.T)
    assert np.linalg.eigvalsh(gauss_newton)[0] > -1e-12


@pytest.mark.parametrize("beta", [0.0, 0.3], ids=["ratings", "unlabelled"])
@pytest.mark.parametrize("encoding", ["dense", "sparse"])
@pytest.mark.parametrize(("users", "items"), PAIRS)
def test_second_derivatives_of_activation_pairs(users: str, items: str, encoding: str, beta: float) -> None:
    """With weights, offsets (of ratings, or none), linear terms and penalties."""
    problem = small_problem(encoding, users_activation=users, items_activation=items)
    check(unlabelled(problem, beta) if beta else problem)


@pytest.mark.parametrize("beta", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("linear", [True, False], ids=["linear", "raw"])
@pytest.mark.parametrize("left_out", ["weight", "penalty", "nothing"])
def test_second_derivatives_without(left_out: str, linear: bool, beta: float) -> None:
    problem = small_problem("mixed", users_activation="sigmoid", items_activation="softplus(2)", linear=linear)
    if beta:
        problem = unlabelled(problem, beta)
    if left_out == "weight":
        problem = replace(problem, observations=replace(problem.observations, weight=None))
    if left_out == "penalty":
        nothing = {name: replace(p, factors=0.0, linear=0.0) for name, p in problem.penalties.items()}
        problem = replace(problem, penalties=nothing)
    check(problem)


def dense_pu(problem: Problem, theta: Vector, offset: np.ndarray) -> float:
    """f with Ω^c as full matrices: ½ Σ_Ω w (s − a)² + β/2 Σ_Ω^c s² and the penalties, over |Ω|."""
    o = problem.observations
    w = np.ones(problem.count) if o.weight is None else o.weight
    scores = dense_scores(problem, theta) + offset
    outside = np.ones(scores.shape)
    outside[o.user, o.item] = 0.0
    loss = (w * (scores[o.user, o.item] - o.rating) ** 2).sum() + problem.beta * (outside * scores**2).sum()
    strength = problem.objective(problem.passes()).strength
    return 0.5 * float(loss + theta @ (strength * theta)) / problem.count


def dense_gauss_newton(problem: Problem, theta: Vector) -> np.ndarray:
    """JᵀJ from the rows of J of every pair, Ω with w and Ω^c with β, by differences of the score."""
    o = problem.observations
    weights = np.full((USERS, ITEMS), problem.beta)
    weights[o.user, o.item] = 1.0 if o.weight is None else o.weight
    moves = 1e-6 * np.eye(len(theta))
    J = np.array([(dense_scores(problem, theta + e) - dense_scores(problem, theta - e)) / 2e-6 for e in moves])
    J[~problem.objective(problem.passes()).mask] = 0.0
    goal = problem.objective(problem.passes())
    return (np.einsum("pij,qij,ij->pq", J, J, weights) + np.diag(np.where(goal.mask, goal.strength, 0))) / problem.count


@pytest.mark.parametrize("linear", [True, False], ids=["linear", "raw"])
@pytest.mark.parametrize("beta", [0.1, 0.7, 1.0])
def test_the_complement_is_that_of_the_full_matrix(beta: float, linear: bool) -> None:
    """Value, gradient, product and matrix, with offsets of users and items, which belong to every pair's score."""
    problem = unlabelled(small_problem(users_activation="tanh", items_activation="sigmoid", linear=linear), beta)
    theta = some_point(problem)
    random = np.random.default_rng(6)
    users, items = random.normal(size=USERS), random.normal(size=ITEMS)
    passes = LocalOracle(with_part_offsets(problem.records(), users, items))
    oracle = passes.bind(problem.objective(problem.passes()))
    offset = users[:, None] + items[None, :]
    found = oracle.evaluate([theta])[0]
    assert found.value == pytest.approx(dense_pu(problem, theta, offset), rel=1e-12)
    free = np.flatnonzero(theta)
    moves = 1e-5 * np.eye(len(theta))[free]
    differences = [(dense_pu(problem, theta + e, offset) - dense_pu(problem, theta - e, offset)) / 2e-5 for e in moves]
    assert relative_error(found.gradient[free], np.array(differences)) <= 1e-8
    dense_matrix = dense_gauss_newton(problem, theta)
    assert relative_error(matrix(oracle, theta, Want.MATRIX).ravel(), dense_matrix.ravel()) <= 1e-8


@pytest.mark.parametrize("beta", [0.0, 0.4])
@pytest.mark.parametrize(("lanes", "item_parts"), [(3, 2), (6, 5), (8, 7), (1, 3)])
def test_lanes_and_item_parts_change_rounding_only(beta: float, lanes: int, item_parts: int) -> None:
    problem = small_problem(users_activation="tanh", items_activation="sigmoid")
    problem = unlabelled(problem, beta) if beta else problem
    theta = some_point(problem)
    v = some_direction(problem, theta)
    one, many = bound(problem), bound(problem, lanes, item_parts)
    for want in (Want.MATRIX, Want.HESSIAN):
        assert relative_error(matrix(many, theta, want).ravel(), matrix(one, theta, want).ravel()) <= 1e-12
    for exact in (True, False):
        assert relative_error(many.product(theta, v, exact), one.product(theta, v, exact)) <= 1e-12


@pytest.mark.parametrize("beta", [0.0, 0.4])
@pytest.mark.parametrize("encoding", ["dense", "sparse", "mixed"])
def test_blocks_are_those_of_the_matrix(encoding: str, beta: float) -> None:
    problem = small_problem(encoding, users_activation="tanh", items_activation="sigmoid")
    problem = unlabelled(problem, beta) if beta else problem
    model, theta = problem.model, some_point(problem)
    oracle = bound(problem, 2, 2)
    whole = matrix(oracle, theta, Want.MATRIX)
    found = oracle.evaluate([theta], Want.BLOCKS)[0].curvature
    assert found is not None
    cut = model.users_width * model.columns
    np.testing.assert_allclose(found.stacks[0][0], whole[:cut, :cut], rtol=1e-13, atol=1e-16)
    np.testing.assert_allclose(found.stacks[1][0], whole[cut:, cut:], rtol=1e-13, atol=1e-16)
    passes = problem.passes(2, 2)
    goal = problem.objective(passes)
    rows = goal.blocks(passes.run(RowBlocks(beta), model, [model.unravel(theta)])[0])
    c = model.columns
    for place, block in enumerate(np.concatenate(rows)):
        mine = slice(place * c, (place + 1) * c)
        np.testing.assert_allclose(block, whole[mine, mine], rtol=1e-12, atol=1e-16)


def test_queries_of_different_kinds_share_a_pass() -> None:
    problem = unlabelled(small_problem(users_activation="tanh"), 0.2)
    theta = some_point(problem)
    v = some_direction(problem, theta)
    oracle = bound(problem, 2, 2)
    queries = [At(theta), Along(theta, v), At(2 * theta), Along(theta, v, exact=False)]
    together = oracle.answer(queries)
    for query, answer in zip(queries, together, strict=True):
        alone = oracle.answer([query])[0]
        assert np.concatenate([np.ravel(a) for a in answer if a is not None]).tobytes() == (
            np.concatenate([np.ravel(a) for a in alone if a is not None]).tobytes()
        )


@settings(max_examples=40, deadline=None)
@given(
    rank=st.integers(1, 4),
    lanes=st.integers(1, 7),
    item_parts=st.integers(1, 6),
    linear=st.booleans(),
    encoding=st.sampled_from(["dense", "sparse", "mixed"]),
    beta=st.sampled_from([0.0, 0.5]),
    kept=st.integers(1, 14),
    seed=st.integers(0, 1000),
)
def test_any_shape_has_a_matrix_that_does_what_its_product_does(
    rank: int, lanes: int, item_parts: int, linear: bool, encoding: str, beta: float, kept: int, seed: int
) -> None:
    """Down to one rating, more lanes than users, users and items without ratings."""
    problem = small_problem(encoding, seed, rank=rank, linear=linear, users_activation="tanh", items_activation="tanh")
    problem = replace(problem, observations=problem.observations.take(np.arange(kept)))
    problem = unlabelled(problem, beta) if beta else problem
    oracle = bound(problem, lanes, item_parts)
    goal = problem.objective(problem.passes())
    theta, v = (
        np.where(goal.mask, np.random.default_rng(s).normal(size=len(goal.mask)), 0.0) for s in (seed, seed + 1)
    )
    hessian = matrix(oracle, theta, Want.HESSIAN)
    np.testing.assert_allclose(hessian @ v, oracle.product(theta, v), rtol=1e-10, atol=1e-12)
