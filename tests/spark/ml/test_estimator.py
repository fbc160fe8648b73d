"""Fitting: what is learned, the same bits for any partitioning, problems as small as they come, and bad input."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pyspark.ml.linalg import Vectors
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from nimc_spark import NIMC, NIMCModel
from nimc_spark.engine.blocks import GridLimits, SideData, build_blocks
from nimc_spark.engine.profile import profile_ratings
from nimc_spark.errors import DataError, TrainingError, UsageError
from nimc_spark.kernels.features import dense_rows
from nimc_spark.kernels.model import Model, SideName
from nimc_spark.kernels.objective import GroupPenalty, Layout, objective, random_start
from nimc_spark.kernels.statistics import FeatureCounts
from nimc_spark.solvers import solver
from nimc_spark.solvers.multistart import PassRecord, minimize
from nimc_spark.solvers.oracle import ScaledOracle
from nimc_spark.solvers.progress import Progress
from tests.spark.engine.oracle_problem import local_oracle, persisted
from tests.spark.ml.conftest import BARE_ITEM, ITEMS, NEW_USER, USERS, Toy

BRIEF = {"rank": 2, "maxIter": 3}
REFERENCES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "identity": lambda z: z,
    "tanh": np.tanh,
    "sigmoid": lambda z: 1 / (1 + np.exp(-z)),
}


def rmse(scored: DataFrame) -> float:
    return math.sqrt(scored.agg(F.avg((F.col("prediction") - F.col("rating")) ** 2)).first()[0])


def rows_of(frame: DataFrame) -> list[tuple]:
    return sorted((tuple(row) for row in frame.collect()), key=repr)


def numbers_of(model: NIMCModel) -> list[Any]:
    """Everything that training found, as values that compare exactly."""
    sides = model.trained.sides
    return [model.trained.rating_range, model.summary.losses] + [
        part
        for side in SideName
        for part in (sides[side].ids.to_pydict(), sides[side].declared.tobytes(), sides[side].default)
    ]


def own_rows(model: NIMCModel, side: SideName) -> dict[Any, np.ndarray]:
    ids = model.trained.sides[side].ids
    return {i: np.array(w) for i, w in zip(ids["id"].to_pylist(), ids["weights"].to_pylist(), strict=True)}


def test_ids_alone_recover_a_small_problem(toy: Toy, ids_model: NIMCModel) -> None:
    mean = toy.train.agg(F.avg("rating")).first()[0]
    baseline = rmse(toy.test.withColumn("prediction", F.lit(mean)))
    assert rmse(ids_model.transform(toy.test)) < 0.5 * baseline
    assert rmse(ids_model.transform(toy.train)) < 0.2 * baseline


def test_the_summary_tells_what_training_did(toy: Toy, ids_model: NIMCModel) -> None:
    summary = ids_model.summary
    assert (summary.ratings, summary.users, summary.items) == (toy.train.count(), USERS, ITEMS)
    assert summary.parameters == (USERS + ITEMS) * 3
    assert summary.lanes > 2
    assert summary.passes == len(summary.losses) <= 30
    assert list(summary.losses) == sorted(summary.losses, reverse=True)
    assert summary.loss == summary.losses[-1]
    assert not summary.collapsed


def test_the_trained_model_has_the_same_bits_for_any_partitioning(spark: SparkSession, toy: Toy) -> None:
    before = persisted(spark)
    estimator = NIMC(rank=3, activation="tanh", baseline=["global", "item", "user"], maxIter=4, ratingsPerLane=40)
    estimator.setItems(toy.items)
    one, other = (estimator.fit(toy.train.repartition(n)) for n in (1, 3))
    assert one.summary.lanes > 2
    assert numbers_of(other) == numbers_of(one)
    assert rows_of(other.transform(toy.test.repartition(5))) == rows_of(one.transform(toy.test))
    assert persisted(spark) == before


def test_spark_trains_what_one_process_trains(spark: SparkSession, toy: Toy) -> None:
    """The papers' raw objective, all steps but the passes' place the same: the same bits."""
    per_lane, most = 60, 5
    settings = {"linear": False, "baseline": [], "dtype": "float64", "regParam": 0.7, "seed": 4, "tol": 0.0}
    trained = NIMC(rank=2, maxIter=most, ratingsPerLane=per_lane, **settings).fit(toy.train)
    sides = dict.fromkeys(SideName, SideData(uses_id=True))
    blocks = build_blocks(
        toy.train, profile_ratings(toy.train), sides, "float64", GridLimits(ratings_per_lane=per_lane)
    )
    passes, count = local_oracle(blocks), blocks.count
    blocks.close()
    model = Model(2, USERS, ITEMS, linear=False, dtype="float64")
    sums = passes.run(FeatureCounts(), model, [model.unravel(np.zeros(model.size))])[0]
    counts = {side: dense_rows(sums[side.value], model.width(side))[:, 0] for side in SideName}  # type: ignore[arg-type]
    layouts = {side: Layout((("id", model.width(side)),)) for side in SideName}
    penalties = {side: {"id": GroupPenalty(0.7, 0.0)} for side in SideName}
    goal = objective(model, count, counts, layouts, penalties, 0.5)
    scaled = ScaledOracle(passes.bind(goal), goal.scale)
    start = scaled.to_scaled(random_start(model, counts, count, 4, 0, 0.3))
    outcome = minimize(scaled, solver("lm", Progress(0.0, 1e-12)), [start], most)[0]
    parameters = model.unravel(scaled.from_scaled(outcome.iterate.x))
    assert trained.summary.loss == outcome.iterate.value
    for side in SideName:
        found = np.array(trained.trained.sides[side].ids["weights"].to_pylist())
        assert found.tobytes() == parameters.side(side).tobytes()


def test_the_loss_is_the_formula_with_weights_offsets_and_penalties_by_group(spark: SparkSession) -> None:
    random = np.random.default_rng(2)
    rows = [
        (u, i, float(random.normal(3, 1)), float(random.uniform(0.5, 2)), float(random.normal(2, 0.2)))
        for u in range(8)
        for i in range(6)
        if random.random() < 0.7
    ]
    frame = spark.createDataFrame([*rows, rows[0]], "user int, item int, rating double, w double, o double")
    penalties = {"users": {"id": {"factors": 0.9, "linear": 0.3}}, "items": 0.4}
    estimator = NIMC(rank=2, userActivation="tanh", itemActivation="sigmoid", weightCol="w", offsetCol="o")
    estimator.setParams(groupRegParam=penalties, linearRegParam=0.2, regPower=0.5, dtype="float64", maxIter=6)
    trained = estimator.fit(frame)
    U, V = (own_rows(trained, side) for side in SideName)
    mean = trained.trained.sides[SideName.USERS].constant
    counts: dict[tuple[str, int], float] = {}
    total = weights = targets = 0.0
    for u, i, r, w, o in [*rows, rows[0]]:
        s = o + mean + U[u][2] + V[i][2] + REFERENCES["tanh"](U[u][:2]) @ REFERENCES["sigmoid"](V[i][:2])
        total += 0.5 * w * (s - r) ** 2
        weights, targets = weights + w, targets + w * (r - o)
        for key in (("u", u), ("i", i)):
            counts[key] = counts.get(key, 0.0) + w
    for side, own, (factors, linear) in (("u", U, (0.9, 0.3)), ("i", V, (0.4, 0.2))):
        for key, row in own.items():
            total += 0.5 * counts[side, key] ** 0.5 * (factors * row[:2] @ row[:2] + linear * row[2] ** 2)
    assert mean == pytest.approx(targets / weights, rel=1e-12)
    assert trained.summary.loss == pytest.approx(total / (len(rows) + 1), rel=1e-12)
    # What the offsets explain is no part of a score.
    low, high = trained.trained.rating_range
    assert (low, high) == (min(r - o for _, _, r, _, o in rows), max(r - o for _, _, r, _, o in rows))


def test_weight_two_is_the_row_twice(toy: Toy) -> None:
    # Strong regularization of the factors leaves a convex problem with one minimum.
    settings = {"rank": 1, "regParam": 1e4, "dtype": "float64", "tol": 1e-12, "maxIter": 40, "clip": False}
    small = toy.train.where("user < 8 and item < 8").withColumn("w", F.when(F.col("user") < 4, 2.0).otherwise(1.0))
    twice = small.union(small.where("w = 2"))
    weighted, doubled = NIMC(**settings, weightCol="w").fit(small), NIMC(**settings).fit(twice)
    found, wanted = ([row[-2] for row in rows_of(m.transform(small.drop("rating")))] for m in (weighted, doubled))
    np.testing.assert_allclose(found, wanted, rtol=1e-5)
    assert weighted.summary.collapsed
    assert doubled.summary.collapsed


SMALL = {
    "rank > items": ({"rank": 9}, [(u, u % 2, 1.0 + u) for u in range(4)]),
    "one user": ({"rank": 2}, [(7, i, float(i)) for i in range(5)]),
    "one rating": ({"rank": 2}, [(7, 8, 4.0)]),
}


@pytest.mark.parametrize("case", SMALL)
def test_small_as_they_come(spark: SparkSession, case: str) -> None:
    settings, rows = SMALL[case]
    # Always more partitions than ratings.
    ratings = spark.createDataFrame(rows, "user int, item int, rating double").repartition(8)
    model = NIMC(maxIter=25, regParam=0.01, linearRegParam=0.01, **settings).fit(ratings)
    for _, _, rating, prediction, source in rows_of(model.transform(ratings)):
        assert source == "model"
        assert prediction == pytest.approx(rating, abs=0.2)


def test_ids_of_any_type_keep_their_type(spark: SparkSession, toy: Toy) -> None:
    user, item = F.concat(F.lit("u."), F.col("user")), F.col("item").cast("long") + 2**40
    named = toy.train.select(user.alias("a user.id"), item.alias("`item`"), F.col("rating").alias("r.x y"))
    columns = {"userCol": "a user.id", "itemCol": "`item`", "ratingCol": "r.x y", "predictionCol": "p.q"}
    model = NIMC(**BRIEF, **columns, ratingsPerLane=60).fit(named)
    ids = [model.trained.sides[side].ids["id"].to_pylist() for side in SideName]
    assert sorted(ids[0]) == sorted(f"u.{u}" for u in range(USERS))
    assert sorted(ids[1]) == [2**40 + i for i in range(ITEMS)]
    scored = model.transform(named)
    assert scored.columns == [*named.columns, "p.q", "score_source"]
    assert {row.score_source for row in scored.collect()} == {"model"}
    lists = model.recommendForAllUsers(2)
    assert lists.columns == ["a user.id", "recommendations"]
    assert lists.first().recommendations[0].asDict().keys() == {"`item`", "rating"}


def test_every_pair_is_scored_and_says_from_what(spark: SparkSession, toy: Toy, feature_model: NIMCModel) -> None:
    rows = [
        (1, 1, "model"),
        (1, 1, "model"),
        (NEW_USER, 1, "model"),
        (NEW_USER, BARE_ITEM, "model"),
        (1, BARE_ITEM, "model"),
        (555, 1, "baseline"),
        (1, 555, "baseline"),
        (2**40, 555, "baseline"),
        (None, 1, "baseline"),
        (None, None, "baseline"),
    ]
    pairs = spark.createDataFrame(rows, "user long, item long, expected string")
    found = feature_model.transform(pairs).collect()
    assert sorted([(r.user, r.item, r.score_source) for r in found], key=repr) == sorted(rows, key=repr)
    scores = {(r.user, r.item): r.prediction for r in found}
    assert all(math.isfinite(score) for score in scores.values())
    users, items = (feature_model.trained.sides[side] for side in SideName)
    assert scores[None, None] == scores[2**40, 555]
    assert scores[None, None] == pytest.approx(np.dot(users.default, items.default), rel=1e-12)
    x = np.array([0.5, -0.5]) @ users.declared
    own = own_rows(feature_model, SideName.ITEMS)[BARE_ITEM]
    wanted = np.tanh(x[:2]) @ np.tanh(own[:2]) + users.constant + x[2] + own[2]
    assert scores[NEW_USER, BARE_ITEM] == pytest.approx(wanted, rel=1e-12)


def test_an_observer_sees_every_pass_and_starts_share_them(toy: Toy) -> None:
    seen: list[PassRecord] = []
    model = NIMC(rank=2, maxIter=4, starts=3, tol=0.0).setOnPass(seen.append).fit(toy.train)
    assert [record.number for record in seen] == [1, 2, 3, 4]
    assert {len(record.losses) for record in seen} == {3}
    assert model.summary.loss == min(seen[-1].losses)
    assert model.summary.losses == tuple(record.losses[model.summary.start] for record in seen)


def test_features_whose_squares_overflow_are_named(toy: Toy) -> None:
    wild = toy.items.select("item", F.array(F.lit(1e200) * F.col("item")).alias("features"))
    with pytest.raises(DataError, match="the features or their squares are no numbers after encoding: scale the large"):
        NIMC(**BRIEF, dtype="float64").setItems(wild).fit(toy.train)


@pytest.mark.soak
def test_the_scale_of_weights_is_that_of_the_penalty(toy: Toy) -> None:
    """Weights 4 w, and λ √4 as large: a loss 4 times as large at every pass, from the same start."""
    heavy = toy.train.withColumn("w", F.lit(4.0))
    settings = {"rank": 2, "maxIter": 4, "tol": 0.0, "solver": "lbfgs", "dtype": "float64"}
    plain = NIMC(**settings, regParam=0.6, linearRegParam=0.2).fit(toy.train)
    weighted = NIMC(**settings, regParam=1.2, linearRegParam=0.4, weightCol="w").fit(heavy)
    assert weighted.summary.losses == pytest.approx([4 * loss for loss in plain.summary.losses], rel=1e-6)


def test_steps_that_are_too_long_are_named(toy: Toy) -> None:
    losses = NIMC(**BRIEF, solver="gd", stepSize=0.5).fit(toy.train).summary.losses
    assert losses[2] < losses[1] < losses[0]
    for step in (5.0, 1e40):
        with pytest.raises(
            TrainingError, match=r"the step is too large; lower stepSize \(now .*\), check the ratings'"
        ):
            NIMC(**BRIEF, solver="gd", stepSize=step).fit(toy.train)
    for step in (20.0, 1e-300):
        summary = NIMC(**BRIEF, solver="adam", stepSize=step).fit(toy.train).summary
        idle, worse = summary.warnings
        assert idle == f"none of 3 passes improved on the start's loss of {summary.loss:.6g}"
        # Without any model, mean squares of the ratings' distances from their mean.
        alone = 0.5 * toy.train.agg(F.var_pop("rating")).first()[0]
        assert worse.startswith(
            f"the loss {summary.loss:.6g} is above {alone:.6g}, that of offsets alone: train longer"
        )
    with pytest.raises(UsageError, match=r"stepSize = 0\.5 cannot go with solver = 'auto': only gd and adam take one"):
        NIMC(stepSize=0.5).fit(toy.train)


@pytest.mark.parametrize(
    ("settings", "change", "message"),
    [
        (
            {},
            lambda df: df.withColumn("rating", F.lit("good")),
            r"the column 'rating' \(ratingCol\) is string; it must",
        ),
        ({}, lambda df: df.withColumn("rating", F.array("rating")), r"'rating' \(ratingCol\) is array<double>"),
        ({"itemCol": "movie"}, lambda df: df, "no column itemCol = 'movie'; they have: user, item, rating"),
        ({"weightCol": "w"}, lambda df: df, "no column weightCol = 'w'"),
        ({}, lambda df: df.limit(0), "the ratings are empty"),
        ({}, lambda df: df.withColumn("user", F.lit(None).cast("int")), "rows with a null user"),
    ],
)
def test_unusable_ratings(
    toy: Toy, settings: dict[str, str], change: Callable[[DataFrame], DataFrame], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        NIMC(**settings).fit(change(toy.train))


def test_unusable_attributes(spark: SparkSession, toy: Toy) -> None:
    def fit(users: DataFrame, **settings: Any) -> None:
        NIMC(**BRIEF, **settings).setUsers(users).fit(toy.train)

    bad = spark.createDataFrame([(77, Vectors.dense(1.0, math.nan))], ["user", "features"])
    with pytest.raises(DataError, match="the table of users has 1 repeated values of 'user'"):
        fit(toy.users.union(toy.users.limit(1)))
    with pytest.raises(DataError, match=r"1 rows with a null, NaN or infinite feature, such as user = 77, features ="):
        fit(toy.users.union(bad))
    with pytest.raises(UsageError, match=r"no column 'features': declare userFeatures, .* it has user, age"):
        fit(toy.users.withColumnRenamed("features", "age"))
    with pytest.raises(DataError, match="1 rows whose 'user' is null or no int as in the ratings"):
        fit(toy.users.union(bad.select(F.lit(2**40), F.col("features"))))
    with pytest.raises(UsageError, match="userFeatures needs a table: give usersTable or setUsers"):
        NIMC(userFeatures=[{"kind": "numeric", "column": "age"}]).fit(toy.train)
    with pytest.raises(UsageError, match="groupRegParam: there is no 'user'; there are: users, items"):
        NIMC(**BRIEF, groupRegParam={"user": 1}).fit(toy.train)


def test_unusable_attributes_when_scoring(spark: SparkSession, toy: Toy, feature_model: NIMCModel) -> None:
    def score(users: DataFrame | None) -> None:
        feature_model.copy().setUsers(users).transform(toy.test)

    wider = spark.createDataFrame([(1, Vectors.dense(1.0, 2.0, 3.0))], ["user", "features"])
    with pytest.raises(DataError, match=r"'features' has .*the features were fitted on length 2"):
        score(wider)
    with pytest.raises(DataError, match="1 repeated values of 'user'"):
        score(toy.users.union(toy.users.limit(1)))
    with pytest.raises(UsageError, match="scores users by their features: give them with setUsers or usersTable"):
        score(None)
    with pytest.raises(DataError, match="the pairs have no column item; they have: user"):
        feature_model.transform(toy.test.select("user"))


@pytest.mark.soak
def test_tables_by_path_and_by_name(spark: SparkSession, toy: Toy, feature_model: NIMCModel, tmp_path: Path) -> None:
    toy.users.write.format("delta").save(f"{tmp_path}/users")
    toy.items.write.format("delta").saveAsTable("nimc_test_items")
    estimator = feature_model.copy()
    named = NIMC(rank=2, activation="tanh", maxIter=6, clip=False, itemFeatures=estimator.getItemFeatures())
    named.setUsersTable(f"{tmp_path}/users").setItemsTable("nimc_test_items")
    model = named.fit(toy.train)
    assert numbers_of(model) == numbers_of(feature_model)
    assert rows_of(model.transform(toy.test)) == rows_of(feature_model.transform(toy.test))
    for name in (f"{tmp_path}/nothing", "nimc_no_such_table"):
        with pytest.raises(DataError, match=f"there is no table '{name}'"):
            NIMC(usersTable=name).fit(toy.train)
    spark.sql("drop table nimc_test_items")
