"""The population limit of the Hessian: λ_min = ρ, ReLU's k flat directions; and that samples tend to it."""

from __future__ import annotations

import numpy as np
import pytest

from nimc_spark.data.local import LocalOracle, Observations, records_of_arrays
from nimc_spark.kernels.gaussian import constants
from nimc_spark.kernels.model import Model
from nimc_spark.solvers.oracle import Want
from nimc_spark.studies.hessian import ZERO, gauged, population_hessian
from nimc_spark.studies.synthetic import unpenalized


@pytest.mark.parametrize(("name", "k", "rho"), [("sigmoid", 3, 0.00065833), ("tanh", 2, 0.0094586)])
def test_the_least_eigenvalue_at_the_truth_is_rho(name: str, k: int, rho: float) -> None:
    least = np.linalg.eigvalsh(population_hessian(name, k))[0]
    assert least == pytest.approx(constants(name).rho, rel=1e-9)
    assert least == pytest.approx(rho, rel=1e-5)


@pytest.mark.parametrize("k", [2, 3])
def test_relu_has_k_flat_directions_under_objective_3_and_none_under_4(k: int) -> None:
    full = population_hessian("relu", k)
    assert int((np.linalg.eigvalsh(full) < ZERO).sum()) == k
    assert np.linalg.eigvalsh(gauged(full, "relu", k))[0] > 0.01


@pytest.mark.parametrize("name", ["sigmoid", "relu"])
def test_the_hessian_of_a_large_sample_is_near_the_population_limit(name: str) -> None:
    k, n = 2, 1500
    random = np.random.default_rng(0)
    X, Y = random.normal(size=(2, n, k))
    user, item = np.divmod(random.choice(n * n, 200_000, replace=False), n)
    value = {"sigmoid": lambda z: 1 / (1 + np.exp(-z)), "relu": lambda z: np.maximum(z, 0)}[name]
    rating = (value(X)[user] * value(Y)[item]).sum(axis=1)
    model = Model(k, k, k, name, name, linear=False, dtype="float64")
    passes = LocalOracle(records_of_arrays([X], [Y], Observations(user, item, rating), "float64"))
    goal, _ = unpenalized(passes, model, len(rating))
    truth = np.concatenate([np.eye(k).ravel(), np.eye(k).ravel()])
    found = passes.bind(goal).evaluate([truth], Want.HESSIAN)[0].curvature
    assert found is not None
    wanted = population_hessian(name, k)
    np.testing.assert_allclose(found.matrix(), wanted, atol=0.12 * np.abs(wanted).max())
