"""Gaussian moments: closed forms against quadrature, quadrature against the trapezoid rule, the paper's constants."""

from __future__ import annotations

import numpy as np
import pytest

from nimc_spark.errors import UsageError
from nimc_spark.kernels.activations import ACTIVATION_NAMES, activation
from nimc_spark.kernels.gaussian import constants, gamma, gamma_by_quadrature

CLOSED = ["identity", "quadratic", "relu", "leaky_relu(0.1)", "erf"]
SMOOTH = ["sigmoid", "tanh", "softplus", "softplus(5)", "erf"]
SCALES = [0.0, 0.1, 1.0, 3.0, 40.0]
# Trapezoids err by e^{−2πa/h} where φ(σz) is analytic for |Im z| < a = π/2σb: here below 1e-25.
GRID = np.linspace(-14, 14, 240_001)
DENSITY = np.exp(-(GRID**2) / 2) / np.sqrt(2 * np.pi) * (GRID[1] - GRID[0])


@pytest.mark.parametrize("power", range(5))
@pytest.mark.parametrize("name", CLOSED)
def test_closed_forms_are_what_quadrature_gives(name: str, power: int) -> None:
    for sigma in SCALES:
        wanted = gamma_by_quadrature(name, power, sigma)
        np.testing.assert_allclose(gamma(name, power, sigma), wanted, rtol=1e-12, atol=1e-12 * max(1, sigma**2))


@pytest.mark.parametrize("power", range(4))
@pytest.mark.parametrize("name", SMOOTH)
def test_quadrature_is_what_trapezoids_give(name: str, power: int) -> None:
    wanted = [np.sum(activation(name).value(sigma * GRID) * GRID**power * DENSITY) for sigma in SCALES]
    np.testing.assert_allclose(gamma(name, power, SCALES), wanted, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("name", ["sigmoid", "tanh"])
def test_far_out_they_are_the_step_s(name: str) -> None:
    # sigmoid(σz) → 1{z > 0} and tanh(σz) → sign z, with an error of about 1/σ².
    height = {"sigmoid": 1, "tanh": 2}[name]
    for sigma in (1e3, 1e5):
        np.testing.assert_allclose(gamma(name, 1, sigma), height / np.sqrt(2 * np.pi), atol=4 / sigma**2)
        np.testing.assert_allclose(gamma(name, 3, sigma), 2 * height / np.sqrt(2 * np.pi), atol=4 / sigma**2)


def test_the_moments_that_vanish() -> None:
    """Why the initializer cannot use one tensor for all: γ₀ = 0 for tanh, γ₃ = 3γ₁ for ReLU, γ₂ = γ₀ for sigmoid."""
    assert gamma("tanh", 0, 2.0) == pytest.approx(0, abs=1e-15)
    assert gamma("relu", 3, 2.0) == pytest.approx(3 * float(gamma("relu", 1, 2.0)), rel=1e-14)
    assert gamma("sigmoid", 2, 2.0) == pytest.approx(float(gamma("sigmoid", 0, 2.0)), rel=1e-13)


def test_shape_is_kept() -> None:
    assert gamma("sigmoid", 1, np.ones((2, 3))).shape == (2, 3)
    assert gamma("relu", 0, 1.0).shape == ()


@pytest.mark.parametrize(("power", "sigma"), [(-1, 1.0), (0, -1.0), (1, np.inf), (1, np.nan)])
def test_what_does_not_exist_is_refused(power: int, sigma: float) -> None:
    with pytest.raises(UsageError, match="does not exist here; allowed: power ≥ 0"):
        gamma("tanh", power, sigma)


def test_rho_of_the_paper() -> None:
    assert constants("sigmoid").rho == pytest.approx(0.00065833, abs=5e-9)
    assert constants("tanh").rho == pytest.approx(0.0094586, abs=5e-8)


def test_relu_s_constants() -> None:
    found = constants("relu")._asdict()
    root = 1 / np.sqrt(2 * np.pi)
    assert root == pytest.approx(0.39894, abs=5e-6)
    for name, value in found.items():
        assert value == pytest.approx(root if name in ("a10", "b11") else 0.5, rel=1e-12)


def test_identity_s_constants() -> None:
    assert constants("identity") == pytest.approx((0, 1, 1, 1, 0, 1, 1, 1, 1), abs=1e-12)


@pytest.mark.parametrize("name", ACTIVATION_NAMES)
def test_stein(name: str) -> None:
    """E[φ(z) z] = E[φ'(z)], and α_1j = γ_j(1)."""
    found = constants(name)
    assert found.a11 == pytest.approx(found.b10, rel=1e-12, abs=1e-12)
    np.testing.assert_allclose([found.a10, found.a11], [gamma(name, j, 1.0) for j in (0, 1)], atol=1e-13)
