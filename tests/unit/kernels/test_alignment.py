"""Alignment: what the model cannot tell apart costs nothing, what it can tell apart does."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from nimc_spark.kernels.alignment import align, balanced, gauge
from nimc_spark.kernels.model import Model, Parameters

ORDER = [2, 0, 3, 1]
SIGNS = np.array([1, -1, -1, 1])


def planted(seed: int = 3) -> Parameters:
    random = np.random.default_rng(seed)
    return Parameters(random.normal(size=(6, 4)), random.normal(size=(5, 4)))


def changed(parameters: Parameters, users: object, items: object) -> Parameters:
    return Parameters(parameters.users[:, ORDER] * users, parameters.items[:, ORDER] * items)


def model(activation: str, items: str | None = None, linear: bool = False) -> Model:
    return Model(4, 6, 5, activation, items or activation, linear)


@pytest.mark.parametrize("activation", ["sigmoid", "tanh", "relu", "softplus", "quadratic"])
def test_a_permutation_of_the_columns_costs_nothing(activation: str) -> None:
    wanted = planted()
    found = align(model(activation), changed(wanted, 1, 1), wanted)
    assert found.error < 1e-15
    for mine, theirs in zip(found.found, found.wanted, strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-14)


@pytest.mark.parametrize(("activation", "free"), [("tanh", True), ("erf", True), ("sigmoid", False), ("relu", False)])
def test_common_signs_are_free_for_odd_activations_alone(activation: str, free: bool) -> None:
    error = align(model(activation), changed(planted(), SIGNS, SIGNS), planted()).error
    assert (error < 1e-15) is free


def test_one_sided_signs_are_never_free() -> None:
    assert align(model("tanh"), changed(planted(), SIGNS, 1), planted()).error > 0.5
    assert align(model("tanh", "sigmoid"), changed(planted(), SIGNS, SIGNS), planted()).error > 0.5


@pytest.mark.parametrize(("activation", "free"), [("relu", True), ("leaky_relu(0.1)", True), ("sigmoid", False)])
def test_norms_may_go_from_one_side_to_the_other_if_both_are_homogeneous(activation: str, free: bool) -> None:
    scales = np.array([0.1, 3.0, 7.0, 1.0])
    error = align(model(activation), changed(planted(), scales, 1 / scales), planted()).error
    assert (error < 1e-14) is free


def test_relu_has_positive_scales_only() -> None:
    assert align(model("relu"), changed(planted(), -1, -1), planted()).error > 0.5


def test_the_error_is_relative_in_frobenius_norm() -> None:
    wanted = planted()
    found = Parameters(1.1 * wanted.users, wanted.items.copy())
    size = np.sqrt((wanted.users**2).sum() + (wanted.items**2).sum())
    expected = 0.1 * np.linalg.norm(wanted.users) / size
    assert align(model("sigmoid"), found, wanted).error == pytest.approx(expected, rel=1e-12)


def test_linear_terms_take_no_part() -> None:
    wide = [Parameters(*(np.column_stack([w, np.full(len(w), c)]) for w in planted())) for c in (0.0, 9.0)]
    assert align(model("sigmoid", linear=True), *wide).error == 0


@pytest.mark.parametrize("change", [lambda w: 0 * w, lambda w: w])
def test_balancing_keeps_products_and_zeros(change: Callable[[np.ndarray], np.ndarray]) -> None:
    before = Parameters(np.column_stack([change(planted().users[:, 0]), planted().users[:, 1:]]), planted().items)
    after = balanced(before)
    norms = [np.linalg.norm(w, axis=0) for w in after]
    np.testing.assert_allclose(norms[0][1:], norms[1][1:], rtol=1e-14)
    np.testing.assert_allclose(
        norms[0] * norms[1], np.linalg.norm(before.users, axis=0) * np.linalg.norm(before.items, axis=0), rtol=1e-14
    )


@pytest.mark.parametrize(
    ("users", "items", "fixed"), [("relu", "identity", 4), ("relu", "tanh", 0), ("tanh", "tanh", 0)]
)
def test_a_gauge_fixes_the_largest_entry_of_each_unit_that_scales_freely(users: str, items: str, fixed: int) -> None:
    shape, parameters = model(users, items), planted()
    mask = shape.unravel(gauge(shape, parameters))
    assert (mask.users.sum(), mask.items.sum()) == (fixed, 0)
    if fixed:
        assert np.abs(parameters.users)[mask.users].sum() == pytest.approx(np.abs(parameters.users).max(axis=0).sum())
