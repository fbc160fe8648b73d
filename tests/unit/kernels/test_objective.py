"""f and ∇f: against finite differences and against the dense formula, for every activation pair and encoding."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from nimc_spark.kernels.model import Model, SideName, Vector
from nimc_spark.kernels.objective import Layout, objective, random_start
from tests.unit.problems import (
    ITEMS,
    PENALTIES,
    REFERENCES,
    USERS,
    Problem,
    dense_counts,
    dense_value_and_gradient,
    small_problem,
    smallest_preactivation,
)

STEP = 1e-5
# A step moves a pre-activation by at most STEP · max|x| < 1e-4, so this far from 0 no rectifier meets its kink.
AWAY_FROM_KINK = 1e-3
TOLERANCE = 1e-6


def some_point(problem: Problem) -> Vector:
    """A point with every parameter that exists away from 0, and every pre-activation away from a kink."""
    mask = problem.objective(problem.passes()).mask
    for seed in range(100):
        theta = np.where(mask, np.random.default_rng(seed).normal(scale=0.7, size=len(mask)), 0.0)
        if smallest_preactivation(problem, theta) > AWAY_FROM_KINK:
            return theta
    raise ValueError("no point is away from the kink")


def relative_error(found: Vector, wanted: Vector) -> float:
    return float(np.linalg.norm(found - wanted) / np.linalg.norm(wanted))


def check(problem: Problem) -> None:
    theta = some_point(problem)
    passes = problem.passes()
    goal = problem.objective(passes)
    free = np.flatnonzero(goal.mask)
    steps = STEP * np.eye(len(theta))[free]
    value, gradient, _ = passes.bind(goal).evaluate([theta])[0]
    values = np.array([e.value for e in passes.bind(goal).evaluate([*(theta + steps), *(theta - steps)])])
    differences = (values[: len(free)] - values[len(free) :]) / (2 * STEP)
    assert relative_error(gradient[free], differences) <= TOLERANCE
    assert np.abs(gradient[~goal.mask]).max(initial=0.0) == 0.0
    dense_value, dense_gradient = dense_value_and_gradient(problem, theta)
    assert value == pytest.approx(dense_value, rel=1e-12)
    assert relative_error(gradient, dense_gradient) <= 1e-12


@pytest.mark.parametrize("linear", [True, False], ids=["linear", "raw"])
@pytest.mark.parametrize("encoding", ["dense", "sparse"])
@pytest.mark.parametrize("items", REFERENCES)
@pytest.mark.parametrize("users", REFERENCES)
def test_gradient_of_every_activation_pair(users: str, items: str, encoding: str, linear: bool) -> None:
    """Weights, offsets, repeated ratings and penalties are in all of them."""
    check(small_problem(encoding, users_activation=users, items_activation=items, linear=linear))


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("linear", [True, False], ids=["linear", "raw"])
def test_gradient_with_each_count_power(power: float, linear: bool) -> None:
    check(small_problem("mixed", power=power, users_activation="tanh", items_activation="relu", linear=linear))


@pytest.mark.parametrize("left_out", ["weight", "offset"])
def test_gradient_without_weights_or_offsets(left_out: str) -> None:
    problem = small_problem("mixed", users_activation="sigmoid", items_activation="tanh")
    check(replace(problem, observations=replace(problem.observations, **{left_out: None})))


def test_a_repeated_rating_counts_as_often_as_its_weight() -> None:
    problem = small_problem(users_activation="tanh", items_activation="tanh")
    o = problem.observations
    twice = np.concatenate([np.arange(problem.count), [4]])
    weight = np.where(np.arange(problem.count) == 4, 2 * o.weight, o.weight)
    repeated, weighted = (replace(problem, observations=v) for v in (o.take(twice), replace(o, weight=weight)))
    theta = some_point(problem)
    values = []
    for version in (repeated, weighted):
        passes = version.passes()
        evaluation = passes.bind(version.objective(passes)).evaluate([theta])[0]
        # The mean is over |Ω|, which counts repetitions and not weights.
        values.append(version.count * np.array([evaluation.value, *evaluation.gradient]))
    np.testing.assert_allclose(*values, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("encoding", ["dense", "sparse"])
def test_rows_without_a_rating_are_no_parameters(encoding: str) -> None:
    problem = small_problem(encoding)
    passes = problem.passes()
    goal = problem.objective(passes)
    users, items = problem.model.unravel(goal.mask)
    # Attributes all have a rating here, ids all but the last of each side.
    assert users.all(axis=1).tolist() == [True] * (3 + USERS - 1) + [False]
    assert items.all(axis=1).tolist() == [True] * (3 + ITEMS - 1) + [False]
    assert not users[-1].any()
    assert (goal.scale > 0).tolist() == goal.mask.tolist()
    assert (goal.scale[~goal.mask] == 0).all()


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0])
def test_strength_is_lambda_times_the_powered_count(power: float) -> None:
    model = Model(2, 3, 1, dtype="float64")
    counts = {SideName.USERS: np.array([4.0, 0.0, 9.0]), SideName.ITEMS: np.array([16.0])}
    layouts = {SideName.USERS: Layout((("attributes", 2), ("id", 1))), SideName.ITEMS: Layout((("id", 1),))}
    penalties = dict.fromkeys(SideName, PENALTIES)
    goal = objective(model, 10, counts, layouts, penalties, power)
    users, items = model.unravel(goal.strength)
    np.testing.assert_allclose(users[0], np.array([0.3, 0.3, 0.05]) * 4.0**power)
    np.testing.assert_allclose(users[2], np.array([1.1, 1.1, 0.4]) * 9.0**power)
    np.testing.assert_allclose(items[0], np.array([1.1, 1.1, 0.4]) * 16.0**power)
    assert (goal.scale[model.columns : 2 * model.columns] == 0).all()


def random_sides(seed: int = 7, start: int = 0, spread: float = 0.3, width: int = 30) -> tuple[np.ndarray, np.ndarray]:
    """Parameters of a model of rank 40; user features have a mean square of 4, the 5 item features of 1."""
    model = Model(40, width, 5, dtype="float64")
    counts = {SideName.USERS: np.full(width, 4.0 * 100), SideName.ITEMS: np.full(5, 100.0)}
    return model.unravel(random_start(model, counts, 100, seed, start, spread))


def test_a_random_start_spreads_pre_activations_as_told() -> None:
    users, items = random_sides(spread=0.3)
    random = np.random.default_rng(0)
    z = 2 * random.normal(size=(500, 30)) @ users[:, :40]
    assert z.std() == pytest.approx(0.3, rel=0.05)
    assert items[:, :40].std() == pytest.approx(0.3 / np.sqrt(5), rel=0.15)
    assert (users[:, 40], items[:, 40]) == (pytest.approx(np.zeros(30), abs=0), pytest.approx(np.zeros(5), abs=0))


def test_random_starts_follow_seed_number_and_side_alone() -> None:
    users, items = random_sides()
    again = random_sides()
    assert (users.tobytes(), items.tobytes()) == (again[0].tobytes(), again[1].tobytes())
    for other in (random_sides(seed=8), random_sides(start=1)):
        assert abs(np.corrcoef(users[:, :40].ravel(), other[0][:, :40].ravel())[0, 1]) < 0.1
    assert random_sides(width=12)[1].tobytes() == items.tobytes()
    square = random_sides(width=5)
    assert abs(np.corrcoef(square[0][:, :40].ravel(), square[1][:, :40].ravel())[0, 1]) < 0.3
    np.testing.assert_allclose(random_sides(spread=0.6)[0], 2 * users, rtol=1e-15)


def test_a_random_start_is_zero_where_there_is_no_parameter() -> None:
    problem = small_problem()
    mask = problem.objective(problem.passes()).mask
    theta = random_start(problem.model, dense_counts(problem), problem.count, 3, 0, 0.5)
    assert (theta[~mask] == 0).all()
    linear = np.arange(len(theta)) % problem.model.columns == problem.model.rank
    assert (theta[mask & ~linear] != 0).all()


def test_a_random_start_without_any_feature_value_is_zero() -> None:
    model = Model(2, 1, 1)
    counts = {side: np.zeros(1) for side in SideName}
    np.testing.assert_array_equal(random_start(model, counts, 5, 1, 0, 0.5), np.zeros(6))


@pytest.mark.parametrize("lanes", [2, 6])
def test_a_random_start_does_not_depend_on_the_lanes(lanes: int) -> None:
    problem = small_problem()
    # Weights of 1 and halves as features: sums that are exact whatever their order.
    exact = replace(
        problem,
        users=[np.round(2 * problem.users[0]) / 2, problem.users[1]],
        items=[np.round(2 * problem.items[0]) / 2, problem.items[1]],
        observations=replace(problem.observations, weight=None),
    )
    one, many = (exact.counts(exact.passes(n, 2)) for n in (1, lanes))
    starts = [random_start(exact.model, counts, exact.count, 3, 0, 0.5) for counts in (one, many)]
    assert starts[0].tobytes() == starts[1].tobytes()
