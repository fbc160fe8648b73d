"""The tensor start's algebra on coefficients that theory gives exactly, without sampling."""

from __future__ import annotations

import numpy as np
import pytest

from nimc_spark.errors import UsageError
from nimc_spark.kernels.alignment import align
from nimc_spark.kernels.gaussian import gamma
from nimc_spark.kernels.model import Model, Parameters
from nimc_spark.kernels.moments import exponents, pack, root_factorials
from nimc_spark.kernels.tensor import (
    Coefficients,
    Rank1Terms,
    decompose,
    find_units,
    mirrored,
    signs_of,
    solve_regression,
    whitening,
)

SUPPORTED = ["sigmoid", "tanh", "erf", "relu", "leaky_relu(0.1)", "leaky_relu(-0.5)", "leaky_relu(3)", "softplus"]


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def unit_columns(rank: int, seed: int) -> np.ndarray:
    """Columns of length 1, not orthogonal: condition number 3."""
    random = generator(seed)
    (left, _), (right, _) = (np.linalg.qr(random.normal(size=(rank, rank))) for _ in range(2))
    columns = left @ np.diag(np.linspace(1, 3, rank)) @ right
    return columns / np.linalg.norm(columns, axis=0)


def monomials(columns: np.ndarray, order: int) -> np.ndarray:
    """(c, k) the coefficient of u^⊗n on each h_α, |α| = n: u^α √(α!)/n! times n!/α!."""
    alphas, roots = exponents(len(columns), order), root_factorials(len(columns), order)
    mine = alphas.sum(axis=1) == order
    return np.array([np.prod(columns.T**alpha, axis=1) for alpha in alphas[mine]]) / roots[mine, None]


def cosines(found: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    return np.abs(found.T @ wanted).max(axis=0)


@pytest.mark.parametrize("rank", [1, 2, 3, 5, 8])
@pytest.mark.parametrize("order", [2, 3])
def test_rank_one_terms_are_found(rank: int, order: int) -> None:
    u, b = unit_columns(rank, 1), generator(2).normal(size=(rank, rank + 1))
    terms = decompose(monomials(u, order) @ b, order, generator())
    assert terms.misfit < 1e-4
    np.testing.assert_allclose(cosines(terms.directions, u), 1, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(terms.directions, axis=0), 1, rtol=1e-12)
    assert reproduces(terms, order, monomials(u, order) @ b)


def reproduces(terms: Rank1Terms, order: int, coefficients: np.ndarray) -> bool:
    error = monomials(terms.directions, order) @ terms.partners - coefficients
    return float(np.linalg.norm(error) / np.linalg.norm(coefficients)) < 1e-4


@pytest.mark.parametrize("order", [2, 3])
def test_noise_of_a_tenth_bends_directions_by_a_few_degrees(order: int) -> None:
    u, b = unit_columns(4, 3), generator(4).normal(size=(4, 5))
    exact = monomials(u, order) @ b
    noise = generator(5).normal(size=exact.shape)
    noisy = exact + 0.1 * noise * np.linalg.norm(exact) / np.linalg.norm(noise)
    assert cosines(decompose(noisy, order, generator()).directions, u).min() > 0.97


def test_a_decomposition_depends_on_its_generator_s_seed_alone() -> None:
    coefficients = generator(1).normal(size=(20, 5))
    first, second = (decompose(coefficients, 3, generator(7)) for _ in range(2))
    assert first.directions.tobytes() == second.directions.tobytes()


@pytest.mark.parametrize("order", [2, 3])
def test_nothing_gives_something_finite(order: int) -> None:
    terms = decompose(np.zeros((len(monomials(np.eye(3), order)), 4)), order, generator())
    assert np.isfinite(terms.directions).all()
    assert not terms.partners.any()


def in_theory(users: str, items: str, U: np.ndarray, V: np.ndarray, mains: bool) -> Coefficients:
    """Coefficients of A(x, y) under x, y ~ N(0, I) from γ_j, each of them exact."""
    u, v = U / np.linalg.norm(U, axis=0), V / np.linalg.norm(V, axis=0)
    g = [gamma(users, j, np.linalg.norm(U, axis=0)) for j in range(4)]
    h = [gamma(items, j, np.linalg.norm(V, axis=0)) for j in range(4)]
    tensors = []
    for own, other, z, moments, partners in ((users, items, u, g, h), (items, users, v, h, g)):
        order = signs_of(own).order
        high = moments[2] - moments[0] if order == 2 else moments[3] - 3 * moments[1]
        directions = v if other == items and z is u else u
        last = np.column_stack([partners[0] * high, (partners[1] * high)[:, None] * directions.T])
        tensors.append(monomials(z, order) @ last)
    interaction = (u * g[1] * h[1]) @ v.T
    return Coefficients(interaction, *tensors, (u @ (g[1] * h[0]), v @ (h[1] * g[0])) if mains else None)


@pytest.mark.parametrize("mains", [True, False])
@pytest.mark.parametrize(
    ("users", "items"), [*((a, a) for a in SUPPORTED), ("sigmoid", "relu"), ("tanh", "sigmoid"), ("relu", "tanh")]
)
def test_units_with_their_signs_are_those_of_the_model(users: str, items: str, mains: bool) -> None:
    random = generator(6)
    U, V = unit_columns(4, 7) * random.uniform(0.7, 2, 4), unit_columns(4, 8) * random.uniform(0.7, 2, 4)
    units = find_units(in_theory(users, items, U, V, mains), signs_of(users), signs_of(items), generator())
    wanted = Parameters(U / np.linalg.norm(U, axis=0), V / np.linalg.norm(V, axis=0))
    model = Model(4, 4, 4, users, items)
    assert align(model, Parameters(units.users, units.items), wanted).error < 1e-3
    strengths = np.abs(gamma(users, 1, np.linalg.norm(U, axis=0)) * gamma(items, 1, np.linalg.norm(V, axis=0)))
    np.testing.assert_allclose(np.sort(units.strengths), np.sort(strengths), rtol=1e-2)


def test_mirrored_exchanges_the_sides() -> None:
    given = in_theory("sigmoid", "relu", unit_columns(3, 1), unit_columns(3, 2), True)
    other = in_theory("relu", "sigmoid", unit_columns(3, 2), unit_columns(3, 1), True)
    for found, wanted in zip(mirrored(given), other, strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-12)


@pytest.mark.parametrize(
    ("name", "order", "mean", "slope", "high"),
    [
        ("sigmoid", 3, 1, 1, -1),
        ("tanh", 3, 0, 1, -1),
        ("erf", 3, 0, 1, -1),
        ("relu", 2, 1, 1, 1),
        ("leaky_relu(3)", 2, -1, 1, -1),
        ("softplus(5)", 2, 1, 1, 1),
    ],
)
def test_signs(name: str, order: int, mean: int, slope: int, high: int) -> None:
    assert signs_of(name) == (order, mean, slope, high)


@pytest.mark.parametrize("name", ["identity", "quadratic", "leaky_relu(1)", "leaky_relu(-1)"])
def test_activations_whose_moments_vanish_are_refused(name: str) -> None:
    with pytest.raises(UsageError, match=r"cannot see the factors of activation .*; use a random start, or sigmoid"):
        signs_of(name)


def test_whitening() -> None:
    x = generator(1).normal(size=(200, 4)) @ generator(2).normal(size=(4, 4)) + 3
    mean, square = x.mean(axis=0), x.T @ x / len(x)
    M = whitening(mean, square)
    np.testing.assert_allclose(np.cov(((x - mean) @ M).T, bias=True), np.eye(4), atol=1e-9)
    np.testing.assert_allclose(M, M.T, atol=1e-12)


def test_whitening_leaves_out_what_does_not_vary() -> None:
    x = generator(1).normal(size=(200, 3))
    x = np.column_stack([x, np.full(200, 7.0), x[:, 0] + x[:, 1], np.zeros(200)])
    mean, square = x.mean(axis=0), x.T @ x / len(x)
    M = whitening(mean, square)
    assert M.shape == (6, 3)
    np.testing.assert_allclose(np.cov(((x - mean) @ M).T, bias=True), np.eye(3), atol=1e-6)
    np.testing.assert_allclose(M[[3, 5]], 0, atol=1e-9)


def test_regression_is_solved() -> None:
    f, g = generator(1).normal(size=(300, 4)), generator(2).normal(size=(300, 3))
    B = generator(3).normal(size=(4, 3))
    t = np.einsum("ra,ab,rb->r", f, B, g)
    found = solve_regression(pack(f).T @ pack(g), (f * t[:, None]).T @ g)
    np.testing.assert_allclose(found, B, atol=1e-4)
