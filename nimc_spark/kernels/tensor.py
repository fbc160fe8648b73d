"""The algebra of the tensor initializer: from fitted Hermite coefficients to the directions of U and V.

With standardized x, y (Gaussian in theory) and unit directions ū_i, v̄_i, ratings A = φ_u(Uᵀx)ᵀφ_v(Vᵀy) have

    C      = E[A x yᵀ]          = Σ_i γ₁(|u_i|) γ₁(|v_i|) ū_i v̄_iᵀ
    T_n,0  = E[A H_n(x)]        = Σ_i γ₀(|v_i|) c_n(|u_i|) ū_i^⊗n
    T_n,1  = E[A H_n(x) ⊗ y]    = Σ_i γ₁(|v_i|) c_n(|u_i|) ū_i^⊗n ⊗ v̄_i            c_2 = γ₂ − γ₀, c_3 = γ₃ − 3γ₁

and the mirror images with x and y exchanged. The order n of a side is 2 where c_2 ≠ 0 (rectifiers, softplus) and else
3 (sigmoid, tanh, erf). Over a last mode [1, y] both tensors are one, T_n = Σ_i ū_i^⊗n ⊗ b_i.

Conventions
    bases          everything is in coordinates Pᵀx, Qᵀy of the two subspaces of dimension k
    coefficients   (c, k + 1) on the c orthonormal Hermite features h_α with |α| = n of one side and [1, z] of the other
    entries        (i_1 … i_n) of T_n is √(α!) times the coefficient of h_α; Σ_α of squares is ‖T_n‖²/n!
Source: Section 3.3 of the NIMC paper; γ_j as in `gaussian.py`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import product
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.linalg import cho_factor, cho_solve

from nimc_spark.errors import UsageError
from nimc_spark.kernels.gaussian import gamma
from nimc_spark.kernels.moments import exponents, root_factorials, unpack_gram

Matrix = npt.NDArray[np.float64]
Vector = npt.NDArray[np.float64]

# Of the mean diagonal entry of a Gram matrix.
_RIDGE = 1e-6
# Directions whose variance is below this share of the largest mean square do not vary.
_SINGULAR = 1e-10
# Pairs of random projections that are diagonalized; each is a start of the refinement.
_PROJECTIONS = 20
# Of the starts, those with the least misfit before refinement are refined.
_REFINED = 4
# Refinement: steps, failures of a step in a row, and the relative decrease at which it ends.
_STEPS = 60
_FAILURES = 20
_SETTLED = 1e-5
# Its damping, as a share of the mean diagonal entry of JᵀJ.
_FIRST_DAMPING, _LEAST_DAMPING = 1e-3, 1e-10
# A moment of an activation at σ = 1 that is smaller is zero.
_VANISHES = 1e-6
_TINY = 1e-300


class Signs(NamedTuple):
    """What an activation says about its side: the order n, and the signs (−1, 0 or 1) of γ₀, γ₁ and c_n."""

    order: int
    mean: float
    slope: float
    high: float


class Coefficients(NamedTuple):
    """Fitted coefficients in the bases: C (k, k), those of T_n of each side (c, k + 1), and E[A x], E[A y] (k,).

    `mains` is None where linear terms may have a share in them.
    """

    interaction: Matrix
    users: Matrix
    items: Matrix
    mains: tuple[Vector, Vector] | None


class Rank1Terms(NamedTuple):
    """T_n = Σ_i u_i^⊗n ⊗ b_i: unit columns `directions` (k, k), rows `partners` (k, k + 1), and the relative misfit."""

    directions: Matrix
    partners: Matrix
    misfit: float


class Units(NamedTuple):
    """Unit columns ū_i, v̄_i (k, k) in the bases, and strengths (k,) = γ₁(|u_i|) γ₁(|v_i|)."""

    users: Matrix
    items: Matrix
    strengths: Vector


class _Weights(NamedTuple):
    """The k numbers each that stand before the rank-one terms of C, T_n,0, T_n,1 of the users, and of the items."""

    interaction: Vector
    users_alone: Vector
    users_mixed: Vector
    items_alone: Vector
    items_mixed: Vector


def signs_of(name: str) -> Signs:
    """The signs of the activation called `name`.

    Raises UsageError where the moments that this method needs vanish: identity, quadratic, leaky_relu(1) or (−1).
    """
    moments = [float(gamma(name, power, 1.0)) for power in range(4)]
    second, third = moments[2] - moments[0], moments[3] - 3 * moments[1]
    order, high = (2, second) if abs(second) > _VANISHES else (3, third)
    mean, slope, high = (float(np.sign(m)) if abs(m) > _VANISHES else 0.0 for m in (moments[0], moments[1], high))
    if slope == 0 or high == 0:
        raise UsageError(
            f"the tensor start cannot see the factors of activation {name!r}: its moments vanish, or nearly so; use a "
            "random start, or sigmoid, tanh, erf, relu, leaky_relu(a) with a far from ±1, or a softplus(b) of larger b"
        )
    return Signs(order, mean, slope, high)


def solve_regression(gram: Matrix, right: Matrix) -> Matrix:
    """B (f, g) that minimizes Σ w (t − fᵀ B g)², from the sums of `Regression`, with a slight ridge."""
    full = unpack_gram(gram, *right.shape)
    full[np.diag_indices_from(full)] += _RIDGE * np.trace(full) / len(full)
    solution: Matrix = cho_solve(cho_factor(full, overwrite_a=True, check_finite=False), right.ravel())
    return solution.reshape(right.shape)


def whitening(mean: Vector, square: Matrix) -> Matrix:
    """(d, r) M with MᵀΣM = I for the covariance Σ = square − mean meanᵀ of rank r; Σ^{−1/2} where r = d."""
    values, vectors = np.linalg.eigh(square - np.outer(mean, mean))
    alive = values > _SINGULAR * np.abs(square).max(initial=_TINY)
    scaled: Matrix = vectors[:, alive] / np.sqrt(values[alive])
    return scaled @ vectors.T if alive.all() else scaled


def find_units(given: Coefficients, users: Signs, items: Signs, generator: np.random.Generator) -> Units:
    """The units that explain all coefficients best in least squares, from a decomposition of either side's tensor."""
    found = []
    for led_by_items in (False, True):
        ahead = mirrored(given) if led_by_items else given
        order = items.order if led_by_items else users.order
        start = _match(decompose(ahead.users, order, generator), ahead.interaction)
        start = Units(start.items, start.users, start.strengths) if led_by_items else start
        found.append(_refine_units(start, given, (users.order, items.order)))
    _, units, weights = min(found, key=lambda f: f[0])
    return _oriented(units, weights, given, users, items)


def mirrored(given: Coefficients) -> Coefficients:
    """The same with users and items exchanged."""
    mains = None if given.mains is None else given.mains[::-1]
    return Coefficients(given.interaction.T, given.items, given.users, mains)


def decompose(coefficients: Matrix, order: int, generator: np.random.Generator) -> Rank1Terms:
    """T_n = Σ_i u_i^⊗n ⊗ b_i, i = 1 … k, from its coefficients (c, k + 1); the order n is 2 or 3.

    Starts come from simultaneous diagonalization of pairs of random projections; each is refined to a least-squares
    fit, and the best fit is kept.
    """
    rank = coefficients.shape[1] - 1
    tensor = _full_tensor(coefficients, order, rank)
    starts = [_diagonalized(tensor, order, generator) for _ in range(_PROJECTIONS)]
    starts.sort(key=lambda start: _misfit(start, coefficients, order))
    return min((_refine_terms(start, coefficients, order) for start in starts[:_REFINED]), key=lambda t: t.misfit)


def _misfit(directions: Matrix, coefficients: Matrix, order: int) -> float:
    """What the best partners of given directions leave."""
    values = _monomials(directions, order)[0]
    return float(np.linalg.norm(values @ _solved(values, coefficients) - coefficients))


def _full_tensor(coefficients: Matrix, order: int, variables: int) -> Matrix:
    """(k, …, k, k + 1) from the coefficients of each multi-index."""
    alphas, roots = _of_order(variables, order)
    places = {tuple(alpha): row for row, alpha in enumerate(alphas.tolist())}
    indices = product(range(variables), repeat=order)
    rows = [places[tuple(np.bincount(index, minlength=variables).tolist())] for index in indices]
    full: Matrix = (coefficients * roots[:, None])[rows]
    return full.reshape((variables,) * order + (coefficients.shape[1],))


def _of_order(variables: int, order: int) -> tuple[npt.NDArray[np.int64], Vector]:
    alphas = exponents(variables, order)
    mine = alphas.sum(axis=1) == order
    return alphas[mine], root_factorials(variables, order)[mine]


def _diagonalized(tensor: Matrix, order: int, generator: np.random.Generator) -> Matrix:
    """Unit columns from the eigenvectors of M_a M_b⁺, M_a and M_b two random projections Σ_i w_i u_i u_iᵀ."""
    projections = []
    for _ in range(2):
        projection = tensor
        while projection.ndim > 2:
            projection = projection @ generator.standard_normal(projection.shape[-1])
        projections.append(projection)
    _, vectors = np.linalg.eig(projections[0] @ np.linalg.pinv(projections[1]))
    # Noise makes conjugate pairs; their real columns differ: a sum and a difference of real and imaginary part.
    real = vectors.real + vectors.imag
    unit: Matrix = real / _norms(real)
    return unit


def _solved(matrix: Matrix, right: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The shortest least-squares solution, blind to directions in which the matrix is nearly singular."""
    solution: npt.NDArray[np.float64] = np.linalg.lstsq(matrix, right, rcond=1e-6)[0].astype(np.float64)
    return solution


def _norms(columns: Matrix) -> Vector:
    """(k,) lengths of the columns, not 0."""
    lengths: Vector = np.maximum(np.sqrt((columns**2).sum(axis=0)), _TINY)
    return lengths


def _monomials(columns: Matrix, order: int) -> tuple[Matrix, Matrix]:
    """(c, k) u_i^α/√α!, |α| = n, and (c, k, k) its derivative by each entry of u_i."""
    alphas, roots = _of_order(len(columns), order)
    power = alphas[:, None, :]
    entries = columns.T[None, :, :]
    raised = entries**power
    lowered = power * entries ** np.maximum(power - 1, 0)
    slopes = np.empty_like(lowered)
    for variable in range(len(columns)):
        others = np.delete(raised, variable, axis=2).prod(axis=2)
        slopes[:, :, variable] = lowered[:, :, variable] * others
    return raised.prod(axis=2) / roots[:, None], slopes / roots[:, None, None]


def _refine_terms(start: Matrix, coefficients: Matrix, order: int) -> Rank1Terms:
    """The least-squares fit near a start, over directions and partners."""
    k, m = start.shape[1], coefficients.shape[1]
    goal = coefficients / (np.linalg.norm(coefficients) or 1.0)
    partners = _solved(_monomials(start, order)[0], goal)

    def function(x: Vector) -> tuple[Vector, Matrix]:
        u, b = x[: k * k].reshape(k, k), x[k * k :].reshape(k, m)
        values, slopes = _monomials(u, order)
        by_u = np.einsum("cia,im->cmai", slopes, b).reshape(goal.size, k * k)
        by_b = np.einsum("ci,mn->cmin", values, np.eye(m)).reshape(goal.size, k * m)
        return (values @ b - goal).ravel(), np.hstack([by_u, by_b])

    found = _least_squares(function, np.concatenate([start.ravel(), partners.ravel()]))
    u, b = found.x[: k * k].reshape(k, k), found.x[k * k :].reshape(k, m)
    norms = _norms(u)
    return Rank1Terms(u / norms, b * (norms**order)[:, None] * np.linalg.norm(coefficients), math.sqrt(2 * found.cost))


def _match(terms: Rank1Terms, interaction: Matrix) -> Units:
    """v̄_i and the strengths from Ū⁻¹ C = D V̄ᵀ: row i of the left side is d_i v̄_iᵀ."""
    rows = _solved(terms.directions, interaction)
    norms = _norms(rows.T)
    return Units(terms.directions, rows.T / norms, norms)


def _refine_units(start: Units, given: Coefficients, orders: tuple[int, int]) -> tuple[float, Units, _Weights]:
    """The least-squares fit of units to C and both tensors at once: cost, units, weights.

    Of each tensor the last mode is known up to a number a unit: b_i = (alone_i, mixed_i v̄_i).
    """
    k = len(given.interaction)
    scale = float(np.linalg.norm(given.interaction)) or 1.0
    goals = given.interaction / scale, given.users / scale, given.items / scale

    def split(x: Vector) -> tuple[Matrix, Matrix, _Weights]:
        return x[: k * k].reshape(k, k), x[k * k : 2 * k * k].reshape(k, k), _Weights(*x[2 * k * k :].reshape(5, k))

    def function(x: Vector) -> tuple[Vector, Matrix]:
        u, v, w = split(x)
        c, by_c = _interaction(u, v, w.interaction)
        a, by_a = _tensor(u, v, w.users_alone, w.users_mixed, orders[0])
        b, by_b = _tensor(v, u, w.items_alone, w.items_mixed, orders[1])
        fits = zip((c, a, b), goals, strict=True)
        # The columns of x: u, v, and the weights of C, of the users' tensor and of the items'.
        empty = [np.zeros((rows.size, k)) for rows in (c, a, b)]
        jacobian = [
            np.hstack([*by_c, *4 * [empty[0]]]),
            np.hstack([by_a[0], by_a[1], empty[1], by_a[2], *2 * [empty[1]]]),
            np.hstack([by_b[1], by_b[0], *3 * [empty[2]], by_b[2]]),
        ]
        return np.concatenate([(fit - goal).ravel() for fit, goal in fits]), np.vstack(jacobian)

    found = _least_squares(function, _first_guess(start, goals, orders, scale))
    u, v, w = split(found.x)
    norms = [_norms(columns) for columns in (u, v)]
    size = norms[0] * norms[1]
    high = norms[0] ** orders[0], norms[1] ** orders[1]
    weights = _Weights(
        *(w.interaction * size * scale, w.users_alone * high[0] * scale, w.users_mixed * high[0] * norms[1] * scale),
        *(w.items_alone * high[1] * scale, w.items_mixed * high[1] * norms[0] * scale),
    )
    return float(found.cost), Units(u / norms[0], v / norms[1], weights.interaction), weights


def _first_guess(start: Units, goals: tuple[Matrix, Matrix, Matrix], orders: tuple[int, int], scale: float) -> Vector:
    weights: list[Vector] = [start.strengths / scale]
    for own, other, goal, order in zip(start[:2], start[1::-1], goals[1:], orders, strict=True):
        partners = _solved(_monomials(own, order)[0], goal)
        weights += [partners[:, 0], np.einsum("im,mi->i", partners[:, 1:], other)]
    return np.concatenate([start.users.ravel(), start.items.ravel(), *weights])


def _interaction(u: Matrix, v: Matrix, weights: Vector) -> tuple[Matrix, list[Matrix]]:
    """Σ_i w_i u_i v_iᵀ (k, k), and its derivatives (k·k, …) by u, v and w."""
    k = len(u)
    by_u = np.einsum("ac,bi->abci", np.eye(k), v * weights).reshape(k * k, k * k)
    by_v = np.einsum("bc,ai->abci", np.eye(k), u * weights).reshape(k * k, k * k)
    by_weights = np.einsum("ai,bi->abi", u, v).reshape(k * k, k)
    return (u * weights) @ v.T, [by_u, by_v, by_weights]


def _tensor(own: Matrix, other: Matrix, alone: Vector, mixed: Vector, order: int) -> tuple[Matrix, list[Matrix]]:
    """Σ_i own_i^α b_i (c, k + 1), b_i = (alone_i, mixed_i other_i); its derivatives by own, other, weights."""
    k = len(own)
    values, slopes = _monomials(own, order)
    partners = np.column_stack([alone, mixed[:, None] * other.T])
    size = len(values) * (k + 1)
    by_own = np.einsum("cia,im->cmai", slopes, partners).reshape(size, k * k)
    by_other = np.zeros((len(values), k + 1, k, k))
    by_other[:, 1:] = np.einsum("ci,ab->cabi", values * mixed, np.eye(k))
    by_weights = np.zeros((len(values), k + 1, 2, k))
    by_weights[:, 0, 0] = values
    by_weights[:, 1:, 1] = np.einsum("ci,mi->cmi", values, other)
    return values @ partners, [by_own, by_other.reshape(size, k * k), by_weights.reshape(size, 2 * k)]


class _Minimum(NamedTuple):
    """A point and ½‖residual‖² there."""

    x: Vector
    cost: float


def _least_squares(function: Callable[[Vector], tuple[Vector, Matrix]], start: Vector) -> _Minimum:
    """Levenberg-Marquardt for ½‖r(x)‖², `function` gives r (m,) and its Jacobian (m, n).

    The scales of directions against their weights are free, so JᵀJ is singular: the damping makes steps finite.
    """
    x = start
    residual, jacobian = function(x)
    cost, damping, growth = 0.5 * float(residual @ residual), -1.0, 2.0
    for _ in range(_STEPS):
        normal, gradient = jacobian.T @ jacobian, jacobian.T @ residual
        mean = float(np.trace(normal)) / len(x) + _TINY
        damping = max(damping, _LEAST_DAMPING * mean) if damping > 0 else _FIRST_DAMPING * mean
        for _ in range(_FAILURES):
            step = np.linalg.solve(normal + damping * np.eye(len(x)), -gradient)
            residual, jacobian = function(x + step)
            trial = 0.5 * float(residual @ residual)
            if trial < cost:
                break
            damping, growth = damping * growth, 2 * growth
        else:
            break
        gain = (cost - trial) / (0.5 * float(step @ (damping * step - gradient)))
        damping, growth = damping * max(0.2, 1 - (2 * gain - 1) ** 3), 2.0
        settled = cost - trial <= _SETTLED * cost
        x, cost = x + step, trial
        if settled:
            break
    return _Minimum(x, cost)


def _oriented(units: Units, weights: _Weights, given: Coefficients, users: Signs, items: Signs) -> Units:
    """The signs of ū_i and v̄_i: that of their product from C, the common one from all that depends on it.

    Two odd activations leave the common sign free: (u, v) and (−u, −v) are the same unit.
    """
    against = np.where(weights.interaction * users.slope * items.slope < 0, -1.0, 1.0)
    v = units.items * against
    powered = against**items.order
    evidence = _evidence(users, items, weights.users_alone, weights.users_mixed * against)
    evidence += _evidence(items, users, weights.items_alone * powered, weights.items_mixed * powered)
    if given.mains is not None:
        evidence += users.slope * items.mean * _solved(units.users, given.mains[0])
        evidence += items.slope * users.mean * _solved(v, given.mains[1])
    common = np.where(evidence < 0, -1.0, 1.0)
    return Units(units.users * common, v * common, np.abs(units.strengths))


def _evidence(own: Signs, other: Signs, alone: Vector, mixed: Vector) -> Vector:
    """(k,) positive where the common sign is right: of T_n the half that is odd in it, times its sign in theory."""
    return own.high * (other.slope * mixed if own.order % 2 == 0 else other.mean * alone)
