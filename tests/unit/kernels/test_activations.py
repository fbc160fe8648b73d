"""Activations: φ' and φ'' against central differences, dtypes, values at known points, names."""

from __future__ import annotations

import numpy as np
import pytest

from nimc_spark.errors import UsageError
from nimc_spark.kernels.activations import ACTIVATION_NAMES, activation

ALL = [*ACTIVATION_NAMES, "leaky_relu(0.1)", "softplus(0.5)", "softplus(20)"]
# From −6 to 6 and at least 0.06 from the rectifiers' kink.
POINTS = np.concatenate([-np.linspace(0.06, 6, 100), np.linspace(0.06, 6, 100)])


def central(f, z: np.ndarray, h: float = 1e-5) -> np.ndarray:
    return (f(z + h) - f(z - h)) / (2 * h)


@pytest.mark.parametrize("name", ALL)
def test_slope_is_the_derivative_of_the_value(name: str) -> None:
    phi = activation(name)
    slope = phi.slope(POINTS)
    np.testing.assert_allclose(central(phi.value, POINTS), slope, rtol=1e-6, atol=1e-6 * np.abs(slope).max())


@pytest.mark.parametrize("name", ALL)
def test_curvature_is_the_derivative_of_the_slope(name: str) -> None:
    phi = activation(name)
    curvature = phi.curvature(POINTS)
    np.testing.assert_allclose(
        central(phi.slope, POINTS), curvature, rtol=1e-6, atol=1e-6 * max(np.abs(curvature).max(), 1e-6)
    )


@pytest.mark.parametrize(
    ("name", "at_two", "at_minus_two"),
    [
        ("identity", 2.0, -2.0),
        ("sigmoid", 0.8807970779778823, 0.11920292202211755),
        ("tanh", 0.9640275800758169, -0.9640275800758169),
        ("relu", 2.0, 0.0),
        ("leaky_relu", 2.0, -0.02),
        ("leaky_relu(0.1)", 2.0, -0.2),
        ("softplus", 2.1269280110429727, 0.1269280110429726),
        ("softplus(0.5)", 2.6265233750364456, 0.6265233750364455),
        ("erf", 0.9953222650189527, -0.9953222650189527),
        ("quadratic", 4.0, 4.0),
    ],
)
def test_values(name: str, at_two: float, at_minus_two: float) -> None:
    np.testing.assert_allclose(activation(name).value(np.array([2.0, -2.0])), [at_two, at_minus_two], rtol=1e-15)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", ALL)
def test_dtype_and_shape_are_kept(name: str, dtype: str) -> None:
    z = np.linspace(-3, 3, 12, dtype=dtype).reshape(4, 3)[:, :2]
    phi = activation(name)
    for f in (phi.value, phi.slope, phi.curvature):
        assert (f(z).dtype, f(z).shape) == (z.dtype, (4, 2))


@pytest.mark.parametrize("name", ALL)
def test_the_argument_is_left_alone(name: str) -> None:
    z = np.array([[-1.0, 2.0]])
    value = activation(name).value(z)
    value += 1
    np.testing.assert_array_equal(z, [[-1.0, 2.0]])


@pytest.mark.parametrize("name", ["relu", "leaky_relu(0.1)"])
def test_at_the_kink_the_slope_is_the_one_from_the_left(name: str) -> None:
    phi = activation(name)
    zero, left = np.zeros(1), np.array([-1.0])
    assert phi.value(zero) == 0
    assert phi.slope(zero) == phi.slope(left)


def test_softplus_is_the_rectifier_far_from_zero() -> None:
    phi = activation("softplus(3)")
    for dtype in ("float32", "float64"):
        z = np.array([-1e30, -1e4, 1e4, 1e30], dtype=dtype)
        np.testing.assert_array_equal(phi.value(z), np.maximum(z, 0))
        np.testing.assert_array_equal(phi.slope(z), [0, 0, 1, 1])
        np.testing.assert_array_equal(phi.curvature(z), np.zeros(4))


@pytest.mark.parametrize("b", [0.5, 1.0, 20.0])
def test_softplus_keeps_its_digits_where_it_is_small(b: float) -> None:
    # log(1 + t) = t − t²/2 + … with t = e^{bz}.
    z = np.array([-30.0 / b])
    np.testing.assert_allclose(
        activation(f"softplus({b})").value(z) * b, np.exp(-30) * (1 - np.exp(-30) / 2), rtol=1e-12
    )


@pytest.mark.parametrize("name", ["sigmoid", "tanh", "erf"])
def test_far_out_nothing_overflows(name: str) -> None:
    phi = activation(name)
    z = np.array([-1e4, 1e4])
    assert np.isfinite(phi.value(z)).all()
    np.testing.assert_array_equal([phi.slope(z), phi.curvature(z)], np.zeros((2, 2)))


@pytest.mark.parametrize(
    "name",
    [
        *("swish", "Tanh", "", "tanh(1)", "erf(1)", "quadratic(2)", "sigmoid(2)"),
        *("leaky_relu(x)", "leaky_relu()", "leaky_relu(inf)", "leaky_relu(1)(2)", "leaky_relu(-2e6)"),
        *(
            "softplus(1e-7)",
            "softplus(2e6)",
            "softplus(0)",
            "softplus(-1)",
            "softplus(inf)",
            "softplus(nan)",
            "softplus(b)",
            "softplus()",
        ),
    ],
)
def test_unknown_names_are_told_what_is_allowed(name: str) -> None:
    with pytest.raises(UsageError) as caught:
        activation(name)
    arguments = "leaky_relu(a) with |a| ≤ 1e6, softplus(b) with 1e-6 ≤ b ≤ 1e6"
    allowed = f"identity, sigmoid, tanh, relu, {arguments}, erf, quadratic"
    assert str(caught.value) == f"activation {name!r} is not known; allowed: {allowed}"
