"""Metrics against numbers worked out by hand and against numpy; the same bits for any partitioning."""

from __future__ import annotations

import math

import numpy as np
import pytest
from pyspark.sql import DataFrame, SparkSession

from nimc_spark.engine.evaluation import calibration, evaluate_ranking, evaluate_ratings, item_information
from nimc_spark.errors import DataError, UsageError

SCORED = "`a rating` double, `p.model` double, mean float, ku boolean, ki boolean"
PREDICTORS = {"model": "p.model", "item_mean": "mean"}


def rated(df: DataFrame) -> dict:
    return evaluate_ratings(df, "a rating", PREDICTORS, "ku", "ki")


def test_rating_errors_by_hand(spark: SparkSession) -> None:
    rows = [(4.0, 3.0, 4.0, True, True), (2.0, 4.0, 2.5, True, True), (5.0, 5.0, 1.0, False, True)]
    cells = rated(spark.createDataFrame(rows, SCORED))
    assert list(cells) == ["known_user/known_item", "new_user/known_item"]
    assert cells["known_user/known_item"] == {
        "n": 2,
        # e² is 1 and 4: mean 2.5, standard deviation 1.5.
        "model": {"rmse": math.sqrt(2.5), "rmse_se": 1.5 / math.sqrt(2) / (2 * math.sqrt(2.5)), "mae": 1.5},
        "item_mean": {
            "rmse": math.sqrt(0.125),
            "rmse_se": 0.125,
            "mae": 0.25,
        },
    }
    assert cells["new_user/known_item"] == {
        "n": 1,
        "model": {"rmse": 0.0, "rmse_se": 0.0, "mae": 0.0},
        "item_mean": {"rmse": 4.0, "rmse_se": 0.0, "mae": 4.0},
    }


@pytest.mark.parametrize("scale", [1.0, 1e-12, 1e15])
def test_rating_errors_of_any_scale_have_the_same_bits_for_any_partitioning(spark: SparkSession, scale: float) -> None:
    random = np.random.default_rng(8)
    ratings, predictions = random.normal(size=(2, 3000)) * scale * 10.0 ** random.integers(-2, 3, size=3000)
    known = random.random((3000, 2)) < 0.5
    rows = [
        (float(r), float(p), 0.0, bool(u), bool(i)) for r, p, (u, i) in zip(ratings, predictions, known, strict=True)
    ]
    df = spark.createDataFrame(rows, SCORED)
    results = [rated(df.repartition(parts)) for parts in (1, 2, 7)]
    assert results[0] == results[1] == results[2]
    for cell, (u, i) in {"known_user/new_item": (True, False), "new_user/new_item": (False, False)}.items():
        mine = (known == (u, i)).all(axis=1)
        error = (predictions - ratings)[mine]
        rmse, mae = math.sqrt(math.fsum(error**2) / len(error)), math.fsum(abs(error)) / len(error)
        assert results[0][cell]["n"] == mine.sum()
        spread = np.std(error**2 / rmse**2) * rmse / (2 * math.sqrt(len(error)))
        assert results[0][cell]["model"] == {
            "rmse": pytest.approx(rmse, rel=1e-14),
            "rmse_se": pytest.approx(spread, rel=1e-10),
            "mae": pytest.approx(mae, rel=1e-14),
        }


def test_calibration_has_the_means_of_like_predictions(spark: SparkSession) -> None:
    random = np.random.default_rng(4)
    predictions = random.choice([1.0, 1.4, 3.0, 4.9, 5.0], size=500)
    ratings = predictions + random.normal(size=500)
    rows = [(float(r), float(p), 0.0, True, True) for r, p in zip(ratings, predictions, strict=True)]
    df = spark.createDataFrame(rows, SCORED)
    found = calibration(df, "a rating", "p.model", 8)
    assert found == calibration(df.repartition(5), "a rating", "p.model", 8)
    groups = [predictions < 2, predictions == 3, predictions > 4]
    assert [own.n for own in found] == [group.sum() for group in groups]
    for own, group in zip(found, groups, strict=True):
        assert own.prediction == pytest.approx(predictions[group].mean(), rel=1e-12)
        assert own.rating == pytest.approx(ratings[group].mean(), rel=1e-12)
    one = calibration(df.where("`p.model` = 3"), "a rating", "p.model", 8)
    assert (len(one), one[0].prediction) == (1, 3.0)
    assert calibration(df.where("mean > 7"), "a rating", "p.model", 8) == []


def test_no_rows_no_cells(spark: SparkSession) -> None:
    assert rated(spark.createDataFrame([], SCORED)) == {}


@pytest.mark.parametrize("bad", [None, math.nan, math.inf])
def test_a_prediction_that_is_no_number_is_named(spark: SparkSession, bad: float | None) -> None:
    rows = [(4.0, bad, 4.0, True, True), (4.0, 1.0, 4.0, True, True)]
    with pytest.raises(DataError, match=r"1 rows have a null or non-finite rating or prediction in column 'p\.model'"):
        rated(spark.createDataFrame(rows, SCORED))


def lists_of(spark: SparkSession, lists: dict[int, list[int]]) -> DataFrame:
    rows = [(user, rank, item) for user, items in lists.items() for rank, item in enumerate(items, start=1)]
    return spark.createDataFrame(rows, "user int, rank int, item int")


def pairs_of(spark: SparkSession, wanted: dict[int, list[int]], kind: str = "int") -> DataFrame:
    rows = [(user, item) for user, items in wanted.items() for item in items]
    return spark.createDataFrame(rows, "user int, item int").selectExpr(
        f"cast(user as {kind})", f"cast(item as {kind})"
    )


def test_ranking_by_hand(spark: SparkSession) -> None:
    lists = lists_of(spark, {1: [10, 11, 12, 13], 2: [10, 20], 3: [30]})
    # User 1 hits at ranks 1 and 3 of R = 2, user 2 misses its one, user 4 has no list, user 3 does not count.
    relevant = pairs_of(spark, {1: [10, 12, 12], 2: [99], 4: [10]})
    metrics = evaluate_ranking(lists, relevant, 3, catalogue_size=20)
    ndcg = (1 + 1 / 2) / (1 + 1 / math.log2(3))
    assert metrics == {
        "ndcg@3": pytest.approx(ndcg / 3, rel=1e-15),
        "recall@3": pytest.approx(1 / 3, rel=1e-15),
        "map@3": pytest.approx((1 + 2 / 3) / 2 / 3, rel=1e-15),
        "coverage": 5 / 20,
        "users": 3,
    }


def test_only_the_first_k_count_and_the_ideal_has_at_most_k(spark: SparkSession) -> None:
    metrics = evaluate_ranking(lists_of(spark, {1: [1, 2, 3]}), pairs_of(spark, {1: [1, 2, 3, 4]}), 2, 4)
    assert metrics == {"ndcg@2": 1.0, "recall@2": 0.5, "map@2": 1.0, "coverage": 0.5, "users": 1}


def test_ids_of_another_type_match_by_value_and_unmatched_users_count_zero(spark: SparkSession) -> None:
    relevant = pairs_of(spark, {1: [10]}, "string").union(spark.createDataFrame([("x", "y"), (None, "1")]))
    metrics = evaluate_ranking(lists_of(spark, {1: [10]}), relevant, 1, 1)
    assert metrics == {"ndcg@1": 0.5, "recall@1": 0.5, "map@1": 0.5, "coverage": 1.0, "users": 2}


def test_novelty_is_the_mean_information_of_what_is_recommended(spark: SparkSession) -> None:
    # Item 1 has the ratings of 4 of 4 users, 2 of 2 and 3 of 1.
    training = spark.createDataFrame([(u, i) for u in range(4) for i in (1, 2, 3) if u < 8 >> i], "user int, item int")
    # A pair that comes twice is one user's.
    informed = item_information(training.union(training.where("item = 3")))
    lists = lists_of(spark, {1: [1, 2, 3], 2: [3, 2, 1]}).join(informed, "item")
    found = [evaluate_ranking(lists, pairs_of(spark, {1: [1]}), k, 3)["novelty"] for k in (1, 2, 3)]
    assert found == [(0 + 2) / 2, (0 + 1 + 2 + 1) / 4, 1.0]
    assert math.isnan(evaluate_ranking(lists.limit(0), pairs_of(spark, {1: [1]}), 1, 3)["novelty"])


def test_no_relevant_items(spark: SparkSession) -> None:
    metrics = evaluate_ranking(lists_of(spark, {1: [10]}), pairs_of(spark, {1: [10]}).limit(0), 1, 2)
    assert math.isnan(metrics["ndcg@1"])
    assert (metrics["coverage"], metrics["users"]) == (0.5, 0)


def numpy_metrics(lists: dict[int, list[int]], wanted: dict[int, list[int]], k: int) -> np.ndarray:
    rows = []
    for user, items in wanted.items():
        hit = np.isin(np.array(lists.get(user, [])[:k], dtype=int), items).astype(float)
        places = np.arange(1, len(hit) + 1)
        best = min(k, len(items))
        ideal = (1 / np.log2(np.arange(2, best + 2))).sum()
        precision = np.cumsum(hit) / places
        rows.append(((hit / np.log2(places + 1)).sum() / ideal, hit.sum() / len(items), (precision * hit).sum() / best))
    return np.mean(rows, axis=0)


def test_ranking_against_numpy_with_the_same_bits_for_any_partitioning(spark: SparkSession) -> None:
    random = np.random.default_rng(2)
    lists = {user: random.permutation(40)[: random.integers(1, 12)].tolist() for user in range(60)}
    wanted = {user: random.permutation(40)[: random.integers(1, 15)].tolist() for user in range(30, 90)}
    results = [
        evaluate_ranking(lists_of(spark, lists).repartition(parts), pairs_of(spark, wanted).repartition(parts), 7, 40)
        for parts in (1, 3)
    ]
    assert results[0] == results[1]
    found = [results[0][f"{name}@7"] for name in ("ndcg", "recall", "map")]
    np.testing.assert_allclose(found, numpy_metrics(lists, wanted, 7), rtol=1e-13)


def test_wrong_use_is_named(spark: SparkSession) -> None:
    lists = lists_of(spark, {1: [1]})
    with pytest.raises(UsageError, match="k is 0"):
        evaluate_ranking(lists, pairs_of(spark, {1: [1]}), 0, 5)
    with pytest.raises(UsageError, match="catalogue has 0 items"):
        evaluate_ranking(lists, pairs_of(spark, {1: [1]}), 1, 0)
