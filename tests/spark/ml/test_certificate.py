"""The certificate of a trained model, against a dense Hessian of finite differences."""

from __future__ import annotations

import numpy as np
import pytest
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from nimc_spark.errors import DataError, UsageError
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
    for limit, reach in ((0, 1.0), (10, 0.0), (10, float("nan"))):
        with pytest.raises(UsageError, match="limit must be at least 1, reach a finite number > 0"):
            certificate(model, data.positives, limit, reach)


@pytest.mark.soak
def test_a_certificate_is_of_the_data_of_its_training_alone(spark: SparkSession) -> None:
    data = OneClass(spark)
    model, rows = data.nimc(maxIter=4).fit(data.positives), data.positives
    give = "give the ratings and tables that it was trained on"
    with pytest.raises(DataError, match=f"give the users 4 features, the model has 3: {give}"):
        certificate(model.copy().setUsers(wider(spark, data)), rows)
    with pytest.raises(DataError, match=rf"these ratings have \d+ users \(int32\) which are not the \d+ .*: {give}"):
        certificate(model, rows.where("user > 0"))
    with pytest.raises(DataError, match=r"users \(string\) which are not the \d+ \(int32\) of the model"):
        certificate(model, rows.withColumn("user", F.col("user").cast("string")))
    swapped = rows.withColumn("user", F.when(F.col("user") < 2, 1 - F.col("user")).otherwise(F.col("user")))
    for other in (swapped, rows.where("user > 0 or item > 0"), rows.withColumn("rating", F.lit(2.0))):
        with pytest.raises(
            DataError, match=rf"with a loss of .* but the model was trained on \d+ to a loss of .* {give}"
        ):
            certificate(model, other)


@pytest.mark.soak
def test_a_model_without_a_parameter_has_no_certificate(spark: SparkSession) -> None:
    data = OneClass(spark)
    nothing = [data.nothing(name) for name in ("user", "item")]
    model = data.nimc(complementWeight=0.0).setUsers(nothing[0]).setItems(nothing[1]).fit(data.positives)
    with pytest.raises(UsageError, match="this model has no free parameter: every feature is 0 at every rating"):
        certificate(model, data.positives)


@pytest.mark.soak
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


def made(least: float, largest: float = 2.0, converged: bool = True, gradient: float = 0.0) -> Certificate:
    return Certificate(3, 0, 1.0, gradient, least, largest, 10, converged, {})


def test_verdicts() -> None:
    assert made(0.5).verdict == "a τ-relaxed second-order point with τ = 0, strictly convex around it"
    assert (made(0.5).step, made(0.5).rate) == (0.5, 0.75)
    assert made(1e-9).verdict == "a τ-relaxed second-order point with τ = 0, flat along some direction"
    assert made(-1e-9).verdict == "a τ-relaxed second-order point with τ = 1e-09, flat along some direction"
    assert made(-0.1).verdict.startswith("a saddle: the loss bends down along the bottom eigenvector (τ = 0.1)")
    assert (made(-0.1).rate, made(0.0).rate) == (None, None)
    assert made(0.5, converged=False).verdict.startswith("undecided")
    assert made(0.5, gradient=5e-3).verdict.startswith("a τ-relaxed second-order point")
    assert made(0.5, gradient=0.1).gain == pytest.approx(0.0025)
    for largest in (2.0, 0.0, -1.0):
        slope = made(-1.0, largest, gradient=0.1).verdict
        assert slope.startswith("no stationary point: ‖∇f‖ = 0.1, a step of gradient descent takes")
    assert (made(-1.0, -0.5).step, made(-1.0, -0.5).rate, made(-1.0, -0.5).gain) == (None, None, 0.0)
    assert made(-1.0, -0.5).verdict.startswith("a saddle")
    assert made(0.0, 0.0).verdict.endswith("flat along some direction")
