"""Moments of activations under a standard normal, and the constants that Section 3 of the NIMC paper is made of.

    γ_j(σ) = E[φ(σz) z^j]        z ~ N(0, 1), σ ≥ 0
    α_ij = E[φ(z)^i z^j]         β_ij = E[φ'(z)^i z^j]         γ = E[φ(z) φ'(z) z]
    ρ = min{α₂₀β₂₀ − α₁₀²β₁₀² − β₁₀²α₁₁², α₂₀β₂₂ − α₁₀²β₁₂² − γ²}

Closed forms of γ_j, with μ_m = E[z^m] and h_m = E[z^m; z > 0]:

    identity          σ μ_{j+1}
    quadratic         σ² μ_{j+2}
    ReLU, leak a      σ h_{j+1} (1 − (−1)^j a)
    erf               0 for even j; γ_j = (j−1) γ_{j−2} + (2/√π) σ s^j μ_{j−1} for odd j, s = (1 + 2σ²)^{−1/2}

The last is Stein's identity, with E[φ'(σz) z^m] = (2/√π) s^{m+1} μ_m. All others are adaptive quadrature.
Source: Eq. (10) of the NIMC paper's appendix.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.integrate import quad

from nimc_spark.errors import UsageError
from nimc_spark.kernels.activations import Activation, activation

# The density is below 1e-42 further out.
_REACH = 14.0
_ABSOLUTE, _RELATIVE = 1e-14, 1e-12


class Constants(NamedTuple):
    """α_ij, β_ij and γ of Eq. (10): the nine that the paper's bounds use."""

    a10: float
    a11: float
    a20: float
    b10: float
    b11: float
    b12: float
    b20: float
    b22: float
    gamma: float

    @property
    def rho(self) -> float:
        """ρ of Eq. (10): the least eigenvalue of the Hessian at orthogonal U*, V* if β₁₁ = 0."""
        directions = self.a20 * self.b20 - (self.a10**2 + self.a11**2) * self.b10**2
        scales = self.a20 * self.b22 - self.a10**2 * self.b12**2 - self.gamma**2
        return min(directions, scales)


def gamma(name: str, power: int, sigma: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """γ_power(σ) of the activation called `name`, in the shape of `sigma`, to about 1e-12 of max(1, σ²).

    Raises UsageError for an unknown name, a negative power, or a σ that is negative or not finite.
    """
    scales = np.asarray(sigma, dtype=np.float64)
    if power < 0 or not np.all(np.isfinite(scales) & (scales >= 0)):
        raise UsageError(f"moment {power} at σ = {scales} does not exist here; allowed: power ≥ 0 and finite σ ≥ 0")
    phi = activation(name)
    closed = _closed_form(phi)
    evaluate = closed or (lambda j, s: gamma_by_quadrature(name, j, s))
    flat = [evaluate(power, float(s)) for s in scales.ravel()]
    return np.array(flat).reshape(scales.shape)


def gamma_by_quadrature(name: str, power: int, sigma: float) -> float:
    """γ_power(σ) by quadrature, whether or not there is a closed form."""
    value = activation(name).value
    return expectation(lambda z: float(value(np.array([sigma * z]))[0]) * z**power, sigma)


def constants(name: str) -> Constants:
    """The constants of Eq. (10) for the activation called `name`. Raises UsageError for an unknown name."""
    phi = activation(name)

    def moment(values: int, slopes: int, power: int) -> float:
        def integrand(z: float) -> float:
            at = np.array([z])
            return float(phi.value(at)[0] ** values * phi.slope(at)[0] ** slopes) * z**power

        return expectation(integrand)

    return Constants(
        *(moment(1, 0, 0), moment(1, 0, 1), moment(2, 0, 0)),
        *(moment(0, 1, 0), moment(0, 1, 1), moment(0, 1, 2), moment(0, 2, 0), moment(0, 2, 2)),
        moment(1, 1, 1),
    )


def expectation(integrand: Callable[[float], float], sharpness: float = 1.0) -> float:
    """E[integrand(z)], for one that is smooth off 0 and whose narrowest feature is at 0, about 1/sharpness wide."""
    width = 1 / max(sharpness, 1.0)
    ends = [0.0, *(width * reach for reach in (2.0, 10.0, 50.0) if width * reach < _REACH), _REACH]
    total = 0.0
    for low, high in pairwise(ends):
        for sign in (1, -1):
            total += _integral(integrand, sign, low, high)
    return total


def _integral(integrand: Callable[[float], float], sign: int, low: float, high: float) -> float:
    result = quad(lambda z: integrand(sign * z) * _density(z), low, high, epsabs=_ABSOLUTE, epsrel=_RELATIVE, limit=200)
    return float(result[0])


def _density(z: float) -> float:
    return math.exp(-0.5 * z * z) / math.sqrt(2 * math.pi)


def _moment(power: int) -> float:
    """μ_m = (m−1)!! for even m, 0 for odd m."""
    return 2 * _half_moment(power) if power % 2 == 0 else 0.0


def _half_moment(power: int) -> float:
    """h_m = 2^{m/2−1} Γ((m+1)/2)/√π."""
    return 2 ** (power / 2 - 1) * math.gamma((power + 1) / 2) / math.sqrt(math.pi)


def _closed_form(phi: Activation) -> Callable[[int, float], float] | None:
    family = phi.name.partition("(")[0]
    if family in ("relu", "leaky_relu"):
        leak = -float(phi.value(np.array([-1.0]))[0])
        return lambda j, s: s * _half_moment(j + 1) * (1 - (-1) ** j * leak)
    forms: dict[str, Callable[[int, float], float]] = {
        "identity": lambda j, s: s * _moment(j + 1),
        "quadratic": lambda j, s: s * s * _moment(j + 2),
        "erf": _erf_moment,
    }
    return forms.get(family)


def _erf_moment(power: int, sigma: float) -> float:
    if power % 2 == 0:
        return 0.0
    shrink = 1 / math.sqrt(1 + 2 * sigma * sigma)
    new = 2 / math.sqrt(math.pi) * sigma * shrink**power * _moment(power - 1)
    return new if power == 1 else (power - 1) * _erf_moment(power - 2, sigma) + new
