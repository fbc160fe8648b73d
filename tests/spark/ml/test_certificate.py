"""The certificate of a trained model, against a dense Hessian of finite differences."""

from __future__ import annotations

import numpy as np
import pytest
from pyspark.sql import SparkSession

from nimc_spark.errors import DataError
from nimc_spark.kernels.model import SideName
from nimc_spark.ml.certificate import Certificate, certificate
from tests.spark.ml.test_objectives import BETA, LAMBDA, OneClass


def dense_loss(data: OneClass, theta: np.ndarray) -> float:
    U, V = theta[:6].reshape(3, 2), theta[6:].reshape(2, 2)
    scores = np.tanh(data.X @ U) @ np.tanh(data.Y @ V).T
    rated = ((scores - 1) ** 2)[data.mask].sum() + BETA * (scores**2)[~data.mask].sum()
    return 0.5 * float(rated + LAMBDA * theta @ theta) / data.mask.sum()


def dense_hessian(data: OneClass, theta: np.ndarray, step: float = 1e-4) -> np.ndarray:
    moves = step * np.eye(len(theta))

    def second(a: np.ndarray, b: np.ndarray) -> float:
        signs = [(1, 1), (1, -1), (-1, 1), (-1, -1)]
        return sum(s * t * dense_loss(data, theta + s * a + t * b) for s, t in signs) / (4 * step**2)

    return np.array([[second(a, b) for b in moves] for a in moves])


def solver_scale(data: OneClass) -> np.ndarray:
    """1/scale² is a cheap diagonal of the Hessian: (λ + 0.05 c_r) / |Ω| of the factors of feature r."""
    user, item = np.nonzero(data.mask)
    counts = np.concatenate([(data.X[user] ** 2).sum(axis=0), (data.Y[item] ** 2).sum(axis=0)])
    return np.sqrt(len(user) / (LAMBDA + 0.05 * np.repeat(counts, 2)))


def test_a_certificate_has_the_eigenvalues_of_the_dense_hessian(spark: SparkSession) -> None:
    data = OneClass(spark)
    model = data.nimc(tol=1e-3, maxIter=8).fit(data.positives)
    found = certificate(model, data.positives)
    theta = np.concatenate([model.trained.sides[side].declared.ravel() for side in SideName])
    scale = solver_scale(data)
    values = np.linalg.eigvalsh(scale[:, None] * dense_hessian(data, theta) * scale)
    assert found.loss == pytest.approx(model.summary.loss, rel=1e-12)
    assert (found.parameters, found.converged) == (10, True)
    assert found.least == pytest.approx(values[0], abs=1e-5 * values[-1])
    assert found.largest == pytest.approx(values[-1], rel=1e-5)
    for losses in found.landscape.values():
        distance, loss = np.array(losses)
        assert loss[len(loss) // 2] == pytest.approx(found.loss, rel=1e-12)
        assert distance[0] == -distance[-1] != 0
    distance, loss = np.array(found.landscape["top"])
    # Near the middle the loss is a parabola of the top curvature, but for the slope that is left.
    bend = (loss[21] - 2 * loss[20] + loss[19]) / (distance[21] - distance[20]) ** 2
    assert bend == pytest.approx(found.largest, rel=0.05)
    with pytest.raises(DataError, match="give those that it was trained on"):
        certificate(model.copy().setUsers(wider(spark, data)), data.positives)


def test_units_that_scale_freely_have_no_flat_direction_in_the_certificate(spark: SparkSession) -> None:
    data = OneClass(spark)
    settings = {"activation": "relu", "solver": "lm", "maxIter": 15}
    models = [data.nimc(regParam=reg, **settings).fit(data.positives) for reg in (0.0, LAMBDA)]
    free, held = (certificate(model, data.positives) for model in models)
    assert (free.fixed, held.fixed) == (2, 0)
    assert free.least > 1e-4 * free.largest


def wider(spark: SparkSession, data: OneClass):  # type: ignore[no-untyped-def]
    from pyspark.ml.linalg import Vectors

    rows = [(i, Vectors.dense([*x, 1.0])) for i, x in enumerate(data.X.tolist())]
    return spark.createDataFrame(rows, ["user", "features"])


def made(least: float, largest: float = 2.0, converged: bool = True) -> Certificate:
    return Certificate(3, 0, 1.0, 0.0, least, largest, 10, converged, {})


def test_verdicts() -> None:
    assert made(0.5).verdict == "a τ-relaxed second-order point with τ = 0, strictly convex around it"
    assert (made(0.5).step, made(0.5).rate) == (0.5, 0.75)
    assert made(1e-9).verdict == "a τ-relaxed second-order point with τ = 0, flat along some direction"
    assert made(-1e-9).verdict == "a τ-relaxed second-order point with τ = 1e-09, flat along some direction"
    assert made(-0.1).verdict.startswith(
        "a saddle or a slope: the loss bends down along the bottom eigenvector (τ = 0.1)"
    )
    assert (made(-0.1).rate, made(0.0).rate) == (None, None)
    assert made(0.5, converged=False).verdict.startswith("undecided")
