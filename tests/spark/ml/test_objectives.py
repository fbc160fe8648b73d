"""Settings of the one objective through the Estimator: one-class data with its complement, solvers, warnings."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pyspark.ml.linalg import Vectors
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from nimc_spark import NIMC, NIMCModel
from nimc_spark.errors import DataError, UsageError
from nimc_spark.kernels.model import SideName
from nimc_spark.ml.certificate import certificate
from nimc_spark.ml.evaluation import Ranking, evaluate_model
from tests.spark.ml.conftest import Toy

USERS, ITEMS, UNRATED = 12, 9, 8
BETA, LAMBDA = 0.3, 0.05


class OneClass:
    """Positives of users and items with features; item 8 has features and no positive."""

    def __init__(self, spark: SparkSession) -> None:
        random = np.random.default_rng(2)
        self.X, self.Y = random.normal(size=(USERS, 3)), random.normal(size=(ITEMS, 2))
        self.mask = random.random((USERS, ITEMS)) < 0.4
        self.mask[:, UNRATED] = False
        self.mask[np.arange(USERS), np.arange(USERS) % UNRATED] = True
        rows = [(int(u), int(i), 1.0) for u, i in np.argwhere(self.mask)]
        self.positives = spark.createDataFrame(rows, "user int, item int, rating double").coalesce(2)
        self.users, self.items = (
            spark.createDataFrame([(i, Vectors.dense(x.tolist())) for i, x in enumerate(m)], [name, "features"])
            for name, m in (("user", self.X), ("item", self.Y))
        )

    def nothing(self, name: str) -> DataFrame:
        """A table of features that are all 0, of the users or the items."""
        table = self.users if name == "user" else self.items
        return table.select(name, F.array(F.lit(0.0), F.lit(0.0)).alias("features"))

    def nimc(self, **params: Any) -> NIMC:
        settings = {
            "rank": 2,
            "activation": "tanh",
            "linear": False,
            "complementWeight": BETA,
            "regParam": LAMBDA,
            "regPower": 0.0,
            "tol": 1e-7,
            "maxIter": 60,
            **params,
        }
        return NIMC(**settings).setUsers(self.users).setItems(self.items)

    def loss(self, model: NIMCModel) -> float:
        """f with the complement as a full matrix, of the formula alone."""
        U, V = (model.trained.sides[side].declared for side in SideName)
        scores = np.tanh(self.X @ U) @ np.tanh(self.Y @ V).T
        rated = ((scores - 1) ** 2)[self.mask].sum()
        return (
            0.5
            * (rated + BETA * (scores**2)[~self.mask].sum() + LAMBDA * ((U**2).sum() + (V**2).sum()))
            / (self.mask.sum())
        )


@pytest.fixture(scope="module")
def one_class(spark: SparkSession) -> OneClass:
    return OneClass(spark)


def test_a_complement_counts_every_pair_of_a_user_and_an_item_of_the_table(one_class: OneClass) -> None:
    """Few parameters: lm, in float64, and the value it reports is that of the dense objective."""
    model = one_class.nimc(tol=1e-3, maxIter=15).fit(one_class.positives)
    assert (model.summary.solver, model.trained.model.dtype) == ("lm", "float64")
    assert model.summary.items == ITEMS
    assert model.summary.loss == pytest.approx(one_class.loss(model), rel=1e-12)
    assert model.summary.loss < 0.95 * model.summary.losses[0]
    # Scores of one-class data lie between the complement's 0 and the positives' 1.
    assert model.trained.rating_range == (0.0, 1.0)
    scores = [r.prediction for r in model.transform(one_class.positives).collect()]
    assert 0 <= min(scores) < max(scores) <= 1


def test_what_a_complement_refuses(one_class: OneClass, spark: SparkSession) -> None:
    twice = one_class.positives.unionAll(one_class.positives.limit(2))
    with pytest.raises(DataError, match="2 pairs of user and item have several ratings; with complementWeight > 0"):
        one_class.nimc().fit(twice)
    with pytest.raises(UsageError, match="offsetCol cannot go with complementWeight"):
        one_class.nimc(offsetCol="rating").fit(one_class.positives)
    with pytest.raises(UsageError, match=r"baseline = \['user'\] cannot go with complementWeight > 0"):
        one_class.nimc(baseline=["user"]).fit(one_class.positives)
    strangers = one_class.items.withColumn("item", F.col("item") + 100)
    with pytest.raises(DataError, match=r"no id in the table of items has a rating: is .item. the right"):
        one_class.nimc().setItems(strangers).fit(one_class.positives)
    for weight in (-0.1, 1.5, float("nan")):
        with pytest.raises(UsageError, match=r"complementWeight = .* is not allowed; allowed: a number from 0 to 1"):
            one_class.nimc(complementWeight=weight).fit(one_class.positives)


def test_ranking_is_one_class_with_rated_negatives_and_popularity_as_offset(one_class: OneClass) -> None:
    stars = one_class.positives.withColumn("rating", (F.col("user") + 2 * F.col("item")) % 5 + 1.0)
    model = one_class.nimc(complementWeight=None, objective="ranking", positiveFrom=4, tol=1e-3, maxIter=15).fit(stars)
    target = np.zeros((USERS, ITEMS))
    for user, item, rating in stars.collect():
        target[user, item] = float(rating >= 4)
    # β is 1 unless it is set: all pairs weigh the same.
    offset = target.mean(axis=0)
    items = model.trained.sides[SideName.ITEMS].ids
    found = dict(zip(items["id"].to_pylist(), items["offset"].to_pylist(), strict=True))
    np.testing.assert_allclose([found[i] for i in range(ITEMS)], offset, rtol=1e-12)
    U, V = (model.trained.sides[side].declared for side in SideName)
    errors = offset + np.tanh(one_class.X @ U) @ np.tanh(one_class.Y @ V).T - target
    value = 0.5 * ((errors**2).sum() + LAMBDA * ((U**2).sum() + (V**2).sum())) / one_class.mask.sum()
    assert model.summary.loss == pytest.approx(value, rel=1e-12)
    # Scores order items, they are no ratings: nothing bounds them, and their errors are not told.
    cells = evaluate_model(model, stars, stars, Ranking.of(model, 3, None)).cells
    cell = cells["known_user/known_item"]
    assert "rmse" in cell["item_mean"]
    assert set(cell["model"]) == set(cell["liked"]) == {"ndcg@3", "recall@3", "map@3", "coverage", "novelty", "users"}
    assert cell["model"]["users"] == (target.max(axis=1) > 0).sum()


def test_a_model_of_positives_that_tells_no_pair_from_another_is_collapsed(one_class: OneClass) -> None:
    model = one_class.nimc(regParam=1e4, maxIter=3).fit(one_class.positives)
    assert model.summary.collapsed


@pytest.mark.soak
def test_columns_of_any_name_can_be_evaluated(toy: Toy) -> None:
    names = {"userCol": "item_known", "itemCol": "rest", "ratingCol": "stars", "predictionCol": "rating"}
    renamed = {"user": "item_known", "item": "rest", "rating": "stars"}
    train, test = (rows.withColumnsRenamed(renamed) for rows in (toy.train, toy.test))
    plain, other = NIMC(rank=2, maxIter=2).fit(toy.train), NIMC(rank=2, maxIter=2, **names).fit(train)
    expected = evaluate_model(plain, toy.train, toy.test, None)
    assert evaluate_model(other, train, test, None) == expected


def test_who_lists_by_predicted_ratings_is_told(
    toy: Toy, ids_model: NIMCModel, caplog: pytest.LogCaptureFixture
) -> None:
    ids_model.recommend(1)
    assert "train with objective = ranking" in caplog.text
    with pytest.raises(UsageError, match="objective = 'rank' is not allowed; allowed: ratings or ranking"):
        NIMC(objective="rank").fit(toy.train)
    with pytest.raises(UsageError, match="positiveFrom = nan is not allowed"):
        NIMC(objective="ranking", positiveFrom=float("nan")).fit(toy.train)


@pytest.mark.soak
def test_scores_of_averaged_starts_are_their_mean(toy: Toy, tmp_path: Path) -> None:
    settings = {"rank": 2, "activation": "tanh", "starts": 2, "maxIter": 6, "clip": False, "dtype": "float64"}
    together = NIMC(**settings, averageStarts=True).setUsers(toy.users).setItems(toy.items).fit(toy.train)
    assert together.trained.model.rank == 4
    assert together.userFactors.first().features.__len__() == 6
    together.save(str(tmp_path / "model"))
    loaded = NIMCModel.load(str(tmp_path / "model")).setUsers(toy.users).setItems(toy.items)
    rows = [sorted(m.transform(toy.test).select("user", "item", "prediction").collect()) for m in (together, loaded)]
    assert rows[0] == rows[1]
    with pytest.raises(UsageError, match="is a mean of several starts"):
        certificate(together, toy.train)


@pytest.mark.soak
def test_solvers_agree_on_ids_alone(toy: Toy) -> None:
    losses = {}
    for name in ("lm", "gncg"):
        model = NIMC(rank=2, solver=name, tol=1e-4, regParam=0.5, initSpread=0.5, maxIter=30).fit(toy.train)
        losses[name] = model.summary.loss
        assert model.summary.solver == name
    assert losses["gncg"] == pytest.approx(losses["lm"], rel=0.02)


def test_too_many_parameters_for_a_matrix_are_refused_before_training(toy: Toy) -> None:
    with pytest.raises(UsageError, match=r"solver lm with .* parameters needs a matrix"):
        NIMC(rank=900, solver="lm").fit(toy.train)


def test_what_a_person_should_know_is_in_the_summary(toy: Toy) -> None:
    start = {"rank": 3, "maxIter": 1, "solver": "lbfgs", "initSpread": 30.0, "itemActivation": "identity"}
    model = NIMC(userActivation="tanh", **start).setUsers(toy.users).fit(toy.train)
    said = " ".join(model.summary.warnings)
    assert "rank 3 is above the 2 feature columns of the users" in said
    assert re.search(r"\d\d% of the slopes of the users' tanh are below 0.001: .* standardize them", said)
    assert re.search(r"ratings for \d+ parameters", said) is None
    few = NIMC(rank=20, maxIter=1).fit(toy.train.limit(30))
    assert re.search(r"^30 ratings for \d+ parameters: regParam decides", few.summary.warnings[0])


@pytest.mark.soak
def test_a_tensor_start_is_the_first_start(spark: SparkSession) -> None:
    """It begins nearer to a planted model than a random one, and says that the data are few."""
    random = np.random.default_rng(5)
    n, d, k = 60, 4, 2
    X, Y, U, V = random.normal(size=(n, d)), random.normal(size=(n, d)), *random.normal(size=(2, d, k))
    rating = np.tanh(X @ U) @ np.tanh(Y @ V).T
    pairs = [(int(u), int(i), float(rating[u, i])) for u, i in np.argwhere(random.random((n, n)) < 0.4)]
    ratings = spark.createDataFrame(pairs, "user int, item int, rating double").coalesce(2)
    users, items = (
        spark.createDataFrame([(i, Vectors.dense(x.tolist())) for i, x in enumerate(m)], [name, "features"])
        for name, m in (("user", X), ("item", Y))
    )
    settings = {"rank": k, "activation": "tanh", "linear": False, "baseline": [], "maxIter": 1, "regParam": 1e-6}
    first = {}
    for init in ("random", "tensor"):
        estimator = NIMC(init=init, initSpread=1.0, **settings).setUsers(users).setItems(items)
        first[init] = estimator.fit(ratings).summary.losses[0]
    assert first["tensor"] < 0.2 * first["random"]
    with pytest.raises(UsageError, match="identity"):
        NIMC(init="tensor", maxIter=1).fit(ratings)
    with pytest.raises(UsageError, match="init = 'svd' is not allowed; allowed: random, tensor"):
        NIMC(init="svd").fit(ratings)
