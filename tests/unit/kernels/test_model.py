"""The shape of the parameters, and one side forwards: columns k and k+1, offsets, linear terms."""

from __future__ import annotations

import numpy as np
import pytest

from nimc_spark.kernels.features import DenseGroup, Part
from nimc_spark.kernels.model import Model, Parameters, SideName, backward, curvatures, forward, mean_model, pull

X = np.array([[1.0, -2.0], [0.5, 3.0], [0.0, 0.0]])
W = np.array([[0.2, -0.4, 10.0], [0.1, 0.3, 1.0]])
PART = Part(np.array([100.0, 200.0, 300.0]), (DenseGroup(0, X),))


@pytest.mark.parametrize("linear", [True, False], ids=["linear", "raw"])
def test_unravel_and_ravel_are_inverse(linear: bool) -> None:
    model = Model(rank=2, users_width=3, items_width=4, linear=linear)
    theta = np.arange(float(model.size))
    parameters = model.unravel(theta)
    columns = 3 if linear else 2
    assert (parameters.users.shape, parameters.items.shape) == ((3, columns), (4, columns))
    assert parameters.users[1, 0] == columns
    assert parameters.items[0, 0] == 3 * columns
    np.testing.assert_array_equal(model.ravel(parameters), theta)


@pytest.mark.parametrize(
    ("side", "linear", "ones"), [(SideName.USERS, 2, 3), (SideName.ITEMS, 3, 2)], ids=["users", "items"]
)
def test_scores_have_the_linear_term_with_the_offset_and_a_column_of_ones(
    side: SideName, linear: int, ones: int
) -> None:
    model = Model(2, 2, 2, "tanh", "tanh", dtype="float64")
    result = forward(model, side, PART, W)
    np.testing.assert_allclose(result.scores[:, :2], np.tanh(X @ W[:, :2]), rtol=1e-15)
    np.testing.assert_allclose(result.slopes[:, :2], 1 - np.tanh(X @ W[:, :2]) ** 2, rtol=1e-15)
    np.testing.assert_array_equal(result.slopes[:, 2], 1.0)
    np.testing.assert_allclose(result.inputs, X @ W, rtol=1e-15)
    np.testing.assert_allclose(result.scores[:, linear], [108.0, 208.0, 300.0], rtol=1e-15)
    np.testing.assert_array_equal(result.scores[:, ones], 1.0)


def test_without_linear_terms_the_offset_stands_alone() -> None:
    model = Model(3, 2, 2, "relu", "identity", linear=False, dtype="float64")
    np.testing.assert_array_equal(forward(model, SideName.USERS, PART, W).scores[:, 3], PART.offset)
    np.testing.assert_allclose(forward(model, SideName.ITEMS, PART, W).scores[:, :3], X @ W, rtol=1e-15)


def test_a_part_without_feature_groups_scores_at_zero() -> None:
    model = Model(1, 0, 0, "sigmoid", "sigmoid", dtype="float64")
    part = Part(np.array([7.0]), ())
    np.testing.assert_array_equal(forward(model, SideName.USERS, part, np.zeros((0, 2))).scores, [[0.5, 7.0, 1.0]])
    assert len(backward(part, np.ones((1, 2))).indices) == 0


@pytest.mark.parametrize(("side", "linear"), [(SideName.USERS, 2), (SideName.ITEMS, 3)], ids=["users", "items"])
def test_backward_pulls_each_column_to_its_parameters(side: SideName, linear: int) -> None:
    model = Model(2, 2, 2, dtype="float64")
    slopes, gathered = np.array([[0.5, 0.5, 1.0]] * 3), np.arange(12.0).reshape(3, 4)
    rows = backward(PART, pull(model, side, slopes, gathered))
    np.testing.assert_allclose(rows.values[:, :2], X.T @ (0.5 * gathered[:, :2]), rtol=1e-15)
    np.testing.assert_allclose(rows.values[:, 2], X.T @ gathered[:, linear], rtol=1e-15)


@pytest.mark.parametrize("linear", [True, False])
def test_a_mean_of_models_scores_their_mean(linear: bool) -> None:
    model = Model(2, 2, 2, "tanh", "sigmoid", linear, "float64")
    random = np.random.default_rng(1)
    several = [
        Parameters(random.normal(size=(2, model.columns)), random.normal(size=(2, model.columns))) for _ in range(3)
    ]
    mean, parameters = mean_model(model, several)
    assert (mean.rank, mean.columns) == (6, 6 + linear)

    def scores(of: Model, at: Parameters) -> np.ndarray:
        users, items = (forward(of, side, PART, at.side(side)).scores for side in SideName)
        return users @ items.T

    expected = np.mean([scores(model, at) for at in several], axis=0)
    np.testing.assert_allclose(scores(mean, parameters), expected, rtol=1e-12)
    # Slopes and curvatures are those of the scaled factors.
    step = 1e-6
    found = forward(mean, SideName.USERS, PART, parameters.users)
    up, down = (forward(mean, SideName.USERS, PART, parameters.users * (1 + e)) for e in (step, -step))
    change = (up.scores - down.scores)[:, :6] / (2 * step)
    np.testing.assert_allclose(change, (found.slopes * found.inputs)[:, :6], rtol=1e-6, atol=1e-9)
    bend = (up.slopes - down.slopes)[:, :6] / (2 * step)
    second = curvatures(mean, SideName.USERS, found.inputs)
    np.testing.assert_allclose(bend, (second * found.inputs)[:, :6], rtol=1e-6, atol=1e-9)
