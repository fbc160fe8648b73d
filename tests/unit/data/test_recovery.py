"""Training recovers a planted model, and what it gives does not depend on how the data came in."""

from __future__ import annotations

import numpy as np
import pytest

from nimc_spark.data.local import Observations
from nimc_spark.kernels.model import Model
from nimc_spark.kernels.objective import GroupPenalty, random_start
from nimc_spark.solvers import solver
from nimc_spark.solvers.multistart import Outcome, best_outcome, minimize
from nimc_spark.solvers.oracle import ScaledOracle
from nimc_spark.solvers.progress import Progress
from tests.unit.problems import Problem, dense_scores

SIDE, WIDTH, RANK, PAIRS = 40, 5, 2, 600


def planted(activation: str) -> tuple[Problem, np.ndarray]:
    """A realizable problem without noise, and the planted parameters."""
    random = np.random.default_rng(11)
    sides = [[random.normal(size=(SIDE, WIDTH)), np.empty((SIDE, 0))] for _ in range(2)]
    user, item = random.integers(0, SIDE, (2, PAIRS))
    model = Model(RANK, WIDTH, WIDTH, activation, activation, linear=False, dtype="float64")
    theta = random.normal(scale=0.7, size=model.size)
    none = {"attributes": GroupPenalty(0.0, 0.0), "id": GroupPenalty(0.0, 0.0)}
    blank = Problem(model, sides[0], sides[1], Observations(user, item, np.zeros(PAIRS)), none, 0.0)
    rating = dense_scores(blank, theta)[user, item]
    return Problem(model, sides[0], sides[1], Observations(user, item, rating), none, 0.0), theta


def trained(problem: Problem, starts: int, passes: int) -> tuple[np.ndarray, Outcome]:
    local = problem.passes(lanes=2)
    goal = problem.objective(local)
    scaled = ScaledOracle(local.bind(goal), goal.scale)
    counts = problem.counts(local)
    thetas = [random_start(problem.model, counts, problem.count, 1, number, 1.0) for number in range(starts)]
    method = solver("lbfgs", Progress(1e-12, 1e-12))
    best = best_outcome(minimize(scaled, method, [scaled.to_scaled(t) for t in thetas], passes))
    return scaled.from_scaled(best.iterate.x), best


@pytest.mark.parametrize("activation", ["sigmoid", "tanh"])
def test_a_planted_model_is_recovered_from_random_starts(activation: str) -> None:
    problem, theta = planted(activation)
    found, outcome = trained(problem, starts=4, passes=400)
    assert outcome.iterate.value < 1e-15
    # All pairs, most of them never seen.
    error = dense_scores(problem, found) - dense_scores(problem, theta)
    assert np.abs(error).max() < 1e-5


def test_training_twice_gives_the_same_bits() -> None:
    problem, _ = planted("tanh")
    assert trained(problem, 2, 30)[0].tobytes() == trained(problem, 2, 30)[0].tobytes()
