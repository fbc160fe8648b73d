"""Scaled variables: the chain rule, and variables with scale 0."""

from __future__ import annotations

import numpy as np
import pytest

from nimc_spark.solvers import solver
from nimc_spark.solvers.multistart import minimize
from nimc_spark.solvers.oracle import Evaluation, ScaledOracle, Want
from nimc_spark.solvers.progress import Progress
from tests.unit.solvers.functions import HESSIAN, MINIMUM, Counted, quadratic

SCALE = np.array([0.5, 2.0, 0.0, 10.0])


def test_gradient_by_the_chain_rule() -> None:
    scaled = ScaledOracle(Counted(quadratic), SCALE)
    z, h = np.array([0.3, -0.2, 0.7, 0.1]), 1e-5
    value, gradient, _ = scaled.evaluate([z])[0]
    assert value == quadratic(SCALE * z)[0]
    steps = [sign * h * row for sign in (1, -1) for row in np.eye(4)]
    values = np.array([e.value for e in scaled.evaluate([z + step for step in steps])])
    np.testing.assert_allclose(gradient, (values[:4] - values[4:]) / (2 * h), rtol=1e-8, atol=1e-8)
    assert gradient[2] == 0.0


def test_curvature_and_products_are_scaled_from_both_sides() -> None:
    scaled = ScaledOracle(Counted(quadratic), SCALE)
    z, v = np.array([0.3, -0.2, 0.7, 0.1]), np.array([1.0, -2.0, 0.5, 3.0])
    wanted = SCALE[:, None] * HESSIAN * SCALE
    found = scaled.evaluate([z], Want.MATRIX)[0].curvature
    assert found is not None
    np.testing.assert_allclose(found.matrix(), wanted, rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(found.times(v), wanted @ v, rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(scaled.product(z, v), wanted @ v, rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose((wanted + 0.5 * np.eye(4)) @ found.solve(v, 0.5), v, rtol=1e-6)


def test_points_go_there_and_back() -> None:
    scaled = ScaledOracle(Counted(quadratic), SCALE)
    theta = np.array([1.0, -3.0, 0.0, 5.0])
    np.testing.assert_array_equal(scaled.to_scaled(theta), [2.0, -1.5, 0.0, 0.5])
    np.testing.assert_array_equal(scaled.from_scaled(scaled.to_scaled(theta)), theta)


def test_one_call_stays_one_call() -> None:
    counted = Counted(quadratic)
    ScaledOracle(counted, SCALE).evaluate([np.zeros(4), np.ones(4), MINIMUM])
    assert counted.calls == [3]


@pytest.mark.parametrize("name", ["lbfgs", "gd", "lm", "gncg"])
def test_a_variable_of_scale_zero_stays_zero_and_the_rest_is_minimized(name: str) -> None:
    scale = np.array([0.5, 2.0, 0.0, 1.0])
    scaled = ScaledOracle(Counted(quadratic), scale)
    outcome = minimize(scaled, solver(name, Progress(0.0, 1e-9)), [scaled.to_scaled(np.ones(4))], 800)[0]
    free = np.array([0, 1, 3])
    # Rows of the free variables: A_ff (x_f − m_f) = A_f2 m_2.
    wanted = MINIMUM[free] + np.linalg.solve(HESSIAN[np.ix_(free, free)], HESSIAN[free, 2] * MINIMUM[2])
    found = scaled.from_scaled(outcome.iterate.x)
    assert found[2] == 0.0
    np.testing.assert_allclose(found[free], wanted, rtol=0, atol=1e-7)


@pytest.mark.parametrize(
    ("value", "gradient", "finite"),
    [(1.0, 1.0, True), (np.nan, 1.0, False), (np.inf, 1.0, False), (1.0, np.nan, False), (1.0, -np.inf, False)],
)
def test_finite(value: float, gradient: float, finite: bool) -> None:
    assert Evaluation(value, np.array([0.0, gradient])).finite() is finite
