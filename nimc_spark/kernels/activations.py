"""Activations φ with φ' and φ'': the one registry.

Adding an activation is one entry in `_FAMILIES`; nothing else changes. The model is A(x, y) = φ_u(Uᵀx)ᵀ φ_v(Vᵀy),
Eq. (1) of "Nonlinear Inductive Matrix Completion based on One-layer Neural Networks".
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.special import erf, expit

from nimc_spark.errors import UsageError

Array = npt.NDArray[np.floating]
Elementwise = Callable[[Array], Array]

_TWO_OVER_ROOT_PI = 2 / math.sqrt(math.pi)


@dataclass(frozen=True)
class Activation:
    """φ and its first two derivatives, each elementwise on an array of any shape; the dtype is kept.

    At a kink (ReLU, leaky ReLU at 0) φ' is the derivative from the left, and φ'' is 0.
    """

    name: str
    value: Elementwise
    slope: Elementwise
    curvature: Elementwise


def _sigmoid_slope(z: Array) -> Array:
    s: Array = expit(z)
    slope: Array = s * (1 - s)
    return slope


def _sigmoid_curvature(z: Array) -> Array:
    s: Array = expit(z)
    return s * (1 - s) * (1 - 2 * s)


def _tanh_slope(z: Array) -> Array:
    t: Array = np.tanh(z)
    return 1 - t * t


def _tanh_curvature(z: Array) -> Array:
    t: Array = np.tanh(z)
    return -2 * t * (1 - t * t)


def _rectifier(name: str, leak: float) -> Activation:
    def slope(z: Array) -> Array:
        return np.where(z > 0, z.dtype.type(1), z.dtype.type(leak))

    return Activation(name, lambda z: z * slope(z), slope, np.zeros_like)


def _leaky_relu(leak: float = 0.01) -> Activation:
    return _rectifier(f"leaky_relu({leak!r})", leak)


def _softplus(b: float = 1.0) -> Activation:
    """log(1 + e^{bz})/b in a form that neither overflows nor cancels: max(z, 0) + log(1 + e^{−b|z|})/b."""

    def value(z: Array) -> Array:
        soft: Array = np.log1p(np.exp(-b * np.abs(z))) / b
        return np.maximum(z, 0) + soft

    def slope(z: Array) -> Array:
        s: Array = expit(b * z)
        return s

    def curvature(z: Array) -> Array:
        return b * _sigmoid_slope(b * z)

    return Activation(f"softplus({b!r})", value, slope, curvature)


def _erf_slope(z: Array) -> Array:
    slope: Array = _TWO_OVER_ROOT_PI * np.exp(-z * z)
    return slope


def _erf_curvature(z: Array) -> Array:
    return -2 * z * _erf_slope(z)


def _square(z: Array) -> Array:
    return z * z


def _double(z: Array) -> Array:
    return 2 * z


def _twos(z: Array) -> Array:
    return np.full_like(z, 2)


_FAMILIES: Mapping[str, Callable[..., Activation]] = {
    "identity": lambda: Activation("identity", np.array, np.ones_like, np.zeros_like),
    "sigmoid": lambda: Activation("sigmoid", expit, _sigmoid_slope, _sigmoid_curvature),
    "tanh": lambda: Activation("tanh", np.tanh, _tanh_slope, _tanh_curvature),
    "relu": lambda: _rectifier("relu", 0.0),
    "leaky_relu": _leaky_relu,
    "softplus": _softplus,
    "erf": lambda: Activation("erf", erf, _erf_slope, _erf_curvature),
    "quadratic": lambda: Activation("quadratic", _square, _double, _twos),
}
ACTIVATION_NAMES = tuple(_FAMILIES)


class _Argument(NamedTuple):
    """How a family's argument is written where names are listed, and between which numbers it may be."""

    shown: str
    lowest: float
    highest: float


_ARGUMENTS: Mapping[str, _Argument] = {
    "leaky_relu": _Argument("leaky_relu(a) with |a| ≤ 1e6", -1e6, 1e6),
    "softplus": _Argument("softplus(b) with 1e-6 ≤ b ≤ 1e6", 1e-6, 1e6),
}


@cache
def activation(name: str) -> Activation:
    """The activation called `name`, such as ``"tanh"`` or, with its parameter, ``"leaky_relu(0.1)"``.

    Raises UsageError for a name that is not in the registry, or an argument that its family does not allow.
    """
    match = re.fullmatch(r"([a-z_]+)(?:\(([^()]*)\))?", name.strip())
    family, argument = match.groups() if match else (name, None)
    try:
        if family not in _FAMILIES or (argument is not None and family not in _ARGUMENTS):
            raise ValueError
        value = [] if argument is None else [float(argument)]
        if not all(_ARGUMENTS[family].lowest <= v <= _ARGUMENTS[family].highest for v in value):
            raise ValueError
    except ValueError:
        allowed = ", ".join(_ARGUMENTS[n].shown if n in _ARGUMENTS else n for n in ACTIVATION_NAMES)
        raise UsageError(f"activation {name!r} is not known; allowed: {allowed}") from None
    return _FAMILIES[family](*value)
