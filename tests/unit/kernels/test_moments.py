"""The statistics of the tensor start against dense formulas, and Hermite features against quadrature."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from math import comb

import numpy as np
import pytest

from nimc_spark.data.local import LocalOracle
from nimc_spark.data.oracle import PassOracle
from nimc_spark.kernels.features import DenseGroup, Part, SparseGroup
from nimc_spark.kernels.model import Parameters
from nimc_spark.kernels.moments import (
    Fit,
    HermiteMap,
    LogScales,
    Regression,
    SideMoments,
    dense_part,
    exponents,
    pack,
    unpack_gram,
)
from nimc_spark.kernels.statistics import Statistic, Sums
from tests.unit.problems import Problem, array_of, dense, dense_scores, small_problem, with_part_offsets

GRIDS = [(1, 1), (3, 2), (6, 5)]


def sums_of(passes: PassOracle, problem: Problem, statistic: Statistic) -> Sums:
    return passes.run(statistic, problem.model, [problem.model.unravel(np.zeros(problem.model.size))])[0]


def hermite_maps(problem: Problem, degrees: tuple[int, int]) -> tuple[HermiteMap, HermiteMap]:
    random = np.random.default_rng(8)
    widths = problem.model.users_width, problem.model.items_width
    maps = [
        HermiteMap(random.normal(size=d), random.normal(size=(d, 2)), n) for d, n in zip(widths, degrees, strict=True)
    ]
    return maps[0], maps[1]


@pytest.mark.parametrize(("variables", "degree"), [(1, 3), (2, 1), (2, 3), (3, 2)])
def test_hermite_features_are_orthonormal(variables: int, degree: int) -> None:
    nodes, weights = np.polynomial.hermite_e.hermegauss(8)
    z = np.array(list(product(nodes, repeat=variables)))
    w = np.prod(list(product(weights, repeat=variables)), axis=1) / (2 * np.pi) ** (variables / 2)
    mean = np.arange(1.0, variables + 1)
    h = HermiteMap(mean, np.eye(variables) / 2, degree).of(2 * z + mean)
    assert h.shape[1] == comb(variables + degree, degree)
    np.testing.assert_allclose((h * w[:, None]).T @ h, np.eye(h.shape[1]), atol=1e-12)


def test_exponents_come_degree_by_degree() -> None:
    assert exponents(2, 3).tolist() == [[0, 0], [1, 0], [0, 1], [2, 0], [1, 1], [0, 2], [3, 0], [2, 1], [1, 2], [0, 3]]


def test_degree_one_is_one_and_z() -> None:
    x = np.random.default_rng(1).normal(size=(5, 3))
    project = np.random.default_rng(2).normal(size=(3, 2))
    np.testing.assert_allclose(
        HermiteMap(np.ones(3), project, 1).of(x), np.column_stack([np.ones(5), (x - 1) @ project])
    )


def test_packed_products_unpack_to_the_gram_of_the_kronecker_product() -> None:
    random = np.random.default_rng(3)
    f, g = random.normal(size=(7, 3)), random.normal(size=(7, 4))
    rows = np.einsum("ra,rb->rab", f, g).reshape(7, 12)
    np.testing.assert_allclose(unpack_gram(pack(f).T @ pack(g), 3, 4), rows.T @ rows, rtol=1e-12)


def test_a_part_s_groups_side_by_side() -> None:
    sparse = SparseGroup(np.array([3, 6]), np.array([0, 1, 3]), np.array([1, 0, 1]), np.array([5.0, 6.0, 7.0]))
    part = Part(np.zeros(2), (DenseGroup(0, np.array([[1, 2], [3, 4]], dtype=np.float32)), sparse))
    np.testing.assert_array_equal(dense_part(part, 8), [[1, 2, 0, 0, 0, 0, 5, 0], [3, 4, 0, 6, 0, 0, 7, 0]])


@pytest.mark.parametrize("encoding", ["dense", "mixed"])
@pytest.mark.parametrize("grid", GRIDS)
def test_side_moments(grid: tuple[int, int], encoding: str) -> None:
    problem = small_problem(encoding)
    found = sums_of(problem.passes(*grid), problem, SideMoments())
    o = problem.observations
    for name, rows, features in (("users", o.user, problem.users), ("items", o.item, problem.items)):
        x = dense(features)[rows]
        np.testing.assert_allclose(array_of(found, f"{name}_mean"), o.weight @ x, rtol=1e-12)
        np.testing.assert_allclose(array_of(found, f"{name}_square"), (o.weight[:, None] * x).T @ x, atol=1e-12)
    counts = [float(array_of(found, name)[0]) for name in ("weight", "ratings", "users_rows", "lanes", "items_rows")]
    # The last user has no rating; items are counted with or without, in every lane.
    assert counts == pytest.approx([o.weight.sum(), 14, 5, grid[0], 5 * grid[0]], rel=1e-14)


@pytest.mark.parametrize("degrees", [(1, 1), (3, 1), (1, 3), (2, 2)])
@pytest.mark.parametrize("grid", GRIDS)
def test_regression(grid: tuple[int, int], degrees: tuple[int, int]) -> None:
    """Either side may be the wider; offsets and what earlier fits predict are taken off."""
    problem = small_problem("mixed")
    o, random = problem.observations, np.random.default_rng(9)
    earlier_maps, maps = hermite_maps(problem, (1, 1)), hermite_maps(problem, degrees)
    earlier = Fit(*earlier_maps, random.normal(size=(3, 3)))
    found = sums_of(problem.passes(*grid), problem, Regression(*maps, (earlier,)))
    sides = dense(problem.users)[o.user], dense(problem.items)[o.item]
    p, q = (m.of(x) for m, x in zip(earlier_maps, sides, strict=True))
    t = o.rating - o.offset - np.einsum("ra,ab,rb->r", p, earlier.coefficients, q)
    f, g = (m.of(x) for m, x in zip(maps, sides, strict=True))
    rows = np.einsum("ra,rb->rab", f, g).reshape(len(t), -1)
    gram = unpack_gram(array_of(found, "gram"), f.shape[1], g.shape[1])
    wanted = (o.weight[:, None] * rows).T @ rows
    np.testing.assert_allclose(gram, wanted, rtol=1e-10, atol=1e-12 * np.abs(wanted).max())
    np.testing.assert_allclose(array_of(found, "right").ravel(), rows.T @ (o.weight * t), rtol=1e-9, atol=1e-9)
    assert array_of(found, "square")[0] == pytest.approx(o.weight @ t**2, rel=1e-12)


def test_offsets_of_users_and_items_are_taken_off_too() -> None:
    problem = small_problem("dense")
    random, o = np.random.default_rng(6), problem.observations
    users, items = random.normal(size=6), random.normal(size=5)
    statistic = Regression(*hermite_maps(problem, (1, 1)))
    found = sums_of(LocalOracle(with_part_offsets(problem.records(), users, items)), problem, statistic)
    t = o.rating - o.offset - users[o.user] - items[o.item]
    assert array_of(found, "square")[0] == pytest.approx(o.weight @ t**2, rel=1e-12)


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize(("users", "items"), [("tanh", "softplus(2)"), ("relu", "sigmoid")])
def test_log_scales_are_the_derivatives_of_the_loss(users: str, items: str, grid: tuple[int, int]) -> None:
    problem = small_problem("mixed", users_activation=users, items_activation=items)
    passes, model, k = problem.passes(*grid), problem.model, problem.model.rank
    U, V = model.unravel(np.random.default_rng(12).normal(size=model.size))

    def at(x: np.ndarray) -> Parameters:
        columns = U[:, :k] * np.exp(x[:k]), V[:, :k] * np.exp(x[k : 2 * k])
        linear = np.split(x[2 * k :], [model.users_width])
        return Parameters(*(np.column_stack(pair) for pair in zip(columns, linear, strict=True)))

    start = np.concatenate([np.zeros(2 * k), U[:, k], V[:, k]])
    steps = 1e-5 * np.eye(len(start))
    around = passes.run(LogScales(), model, [at(x) for x in [start, *(start + steps), *(start - steps)]])
    losses, n = np.array([array_of(s, "loss")[0] for s in around[1:]]), len(start)
    gradient, normal = array_of(around[0], "gradient"), array_of(around[0], "normal")
    np.testing.assert_allclose(gradient, (losses[:n] - losses[n:]) / 2e-5, rtol=1e-6, atol=1e-7)
    assert array_of(around[0], "weight")[0] == pytest.approx(problem.observations.weight.sum())
    assert normal == pytest.approx(dense_normal(problem, start, at), rel=1e-6, abs=1e-7)


def dense_normal(problem: Problem, start: np.ndarray, at: Callable[[np.ndarray], Parameters]) -> np.ndarray:
    """JᵀJ with J from central differences of every rating's score."""
    o, step = problem.observations, 1e-5
    columns = []
    for direction in step * np.eye(len(start)):
        up, down = (dense_scores(problem, problem.model.ravel(at(start + d))) for d in (direction, -direction))
        columns.append((up - down)[o.user, o.item] / (2 * step))
    J = np.array(columns).T
    return (o.weight[:, None] * J).T @ J
