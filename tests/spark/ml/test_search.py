"""The search over settings: its errors are those of the trained model on the validation ratings, new ids too."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from pyspark.sql import DataFrame, SparkSession

from nimc_spark import NIMC
from nimc_spark.engine.splits import Split
from nimc_spark.errors import DataError, UsageError
from nimc_spark.ml import Multiples, NIMCSearch
from nimc_spark.ml.tuning import Budget, Trial, _better, search
from tests.spark.engine.oracle_problem import persisted
from tests.spark.ml.conftest import Toy

FEATURES = [{"kind": "passthrough", "column": "features"}, {"kind": "id"}, {"kind": "history", "weights": "residuals"}]
SETTINGS: dict[str, Any] = {"rank": 2, "regParam": 1.0, "maxIter": 25, "solver": "lbfgs", "ratingsPerLane": 100}


def estimator(toy: Toy, setting: Mapping[str, Any]) -> NIMC:
    features = {"userFeatures": FEATURES, "itemFeatures": FEATURES}
    return NIMC(**{**SETTINGS, **features, **setting}).setUsers(toy.users).setItems(toy.items)


@pytest.mark.soak
def test_the_best_of_each_coordinate_is_kept(spark: SparkSession, toy: Toy) -> None:
    # Users 20 … 23 and item 4 are new in the validation ratings.
    held_out = "user >= 20 or item = 4"
    training, validation = toy.train.where(f"not ({held_out})"), toy.train.where(held_out)
    before, seen = persisted(spark), list[Trial]()
    found = search(
        lambda setting: estimator(toy, setting),
        {"regParam": lambda _: [0.05, 40.0], "rank": lambda s: [s.get("rank", 2) - 1]},
        [(training, validation)],
        Budget(rounds=1),
        on_trial=seen.append,
    )
    assert persisted(spark) == before
    assert found.trials == seen
    assert [(t.number, t.coordinate) for t in seen] == [(1, "start"), (2, "regParam"), (3, "regParam"), (4, "rank")]
    assert found.error == min(t.error for t in seen) == next(t.error for t in seen if t.setting == found.best)
    assert "validation ratings: below 1000" in found.warnings[0]
    best = estimator(toy, found.best).fit(training)
    rows = best.transform(validation).select("rating", "prediction").toPandas()
    assert found.error == pytest.approx(np.sqrt(np.mean((rows.rating - rows.prediction) ** 2)), rel=1e-5)


@pytest.mark.soak
def test_a_model_that_ranks_is_judged_by_its_lists(toy: Toy) -> None:
    """The error is 1 − NDCG of the trained model's lists: of new users, and of known ones without what they rated."""
    settings = {
        "objective": "ranking",
        "positiveFrom": 4.0,
        "maxIter": 8,
        "userFeatures": FEATURES[:1],
        "itemFeatures": FEATURES[:1],
    }
    held_out = "(user + item) % 4 = 0 or user >= 20"
    training, validation = toy.train.where(f"not ({held_out})"), toy.train.where(held_out)
    found = search(lambda _: estimator(toy, settings), {}, [(training, validation)], Budget(), 3)
    model = estimator(toy, settings).fit(training)
    liked: dict[int, set[int]] = {}
    for user, item, _ in validation.where("rating >= 4").collect():
        liked.setdefault(user, set()).add(item)
    lists = model.recommend(3, toy.users.select("user"), exclude=training).orderBy("rank").collect()
    gains = []
    for user, items in liked.items():
        hits = [row["item"] in items for row in lists if row["user"] == user]
        discount = 1 / np.log2(np.arange(3) + 2)
        gains.append(discount @ hits / discount[: len(items)].sum())
    assert found.error == pytest.approx(1 - np.mean(gains), rel=1e-12)
    with pytest.raises(DataError, match="no validation rating is a positive: lower positiveFrom"):
        search(lambda _: estimator(toy, {**settings, "positiveFrom": 99.0}), {}, [(training, validation)], Budget())


@pytest.mark.soak
def test_the_error_of_several_folds_is_their_mean(toy: Toy) -> None:
    parts = [f"user % 3 = {fold}" for fold in range(2)]
    folds = [(toy.train.where(f"not ({part})"), toy.train.where(part)) for part in parts]

    def errors(*folds: tuple[DataFrame, DataFrame]) -> dict[float, float]:
        found = search(
            lambda setting: NIMC(**{**SETTINGS, "maxIter": 4, **setting}),
            {"regParam": lambda _: [0.5]},
            folds,
            Budget(rounds=1),
        )
        return {trial.setting.get("regParam", 1.0): trial.error for trial in found.trials}

    one, other, both = errors(folds[0]), errors(folds[1]), errors(*folds)
    assert both == {key: pytest.approx((one[key] + other[key]) / 2, rel=1e-12) for key in (1.0, 0.5)}


@pytest.mark.parametrize(
    ("errors", "best", "better"),
    [
        ([0.9], [1.0], True),
        ([1.0], [1.0], False),
        # Gains 0.1 and 0.3, 0.2 with a standard error of 0.1; then 0.1 with one of 0.2.
        ([0.9, 0.7], [1.0, 1.0], True),
        ([1.1, 0.7], [1.0, 1.0], False),
    ],
)
def test_a_setting_is_better_by_more_than_chance(errors: list[float], best: list[float], better: bool) -> None:
    assert _better(np.array(errors), np.array(best)) == better


@pytest.mark.soak
def test_multiples_of_the_best_are_tried_on_while_they_improve(toy: Toy) -> None:
    held_out = "item % 3 = 0 and user % 2 > 0"
    training, validation = toy.train.where(f"not ({held_out})"), toy.train.where(held_out)
    found = search(
        lambda setting: estimator(toy, {"maxIter": 6, **setting}),
        {"regParam": lambda s: [s["regParam"] * times for times in (0.25, 4.0)], "tol": lambda _: [1e-4]},
        [(training, validation)],
        Budget(rounds=1),
        start={"regParam": 60.0},
    )
    tried = [trial.setting["regParam"] for trial in found.trials if trial.coordinate == "regParam"]
    # Each setting once, and one step beyond the best.
    assert tried[:2] == [15.0, 240.0]
    assert len(set(tried)) == len(tried) > 2
    assert found.best["regParam"] not in (60.0, min(tried), max(tried))
    assert len([trial for trial in found.trials if trial.coordinate == "tol"]) == 1


@pytest.mark.soak
def test_the_estimator_trains_on_all_ratings_with_what_a_part_of_them_chose(toy: Toy, spark: SparkSession) -> None:
    nimc = NIMC(rank=2, maxIter=5, activation="tanh", itemFeatures=FEATURES[:2]).setItems(toy.items)
    nimc.setGroupRegParam({"items": {"id": 3.0, "attributes": 2.0}})
    space = {
        "rank": [1],
        "items.id.factors": Multiples((4.0,)),
        "activation": ["tanh", "identity"],
        # Without the group that has a λ of its own.
        "itemFeatures": [FEATURES[1:2]],
    }
    before = persisted(spark)
    fitted = NIMCSearch(nimc, space, Split("item", 0.3, 1), Budget(rounds=1), passes=3).fit(toy.train)
    assert persisted(spark) == before
    trials, best = fitted.found.trials, fitted.found.best
    assert [trial.coordinate for trial in trials[:2]] == ["start", "rank"]
    assert {trial.passes for trial in trials} == {3}
    assert fitted.found.error == min(trial.error for trial in trials)
    alike = nimc.copy().setParams(**{key: best[key] for key in ("rank", "activation") if key in best})
    if "itemFeatures" in best:
        alike.setItemFeatures(best["itemFeatures"])
    attributes = {} if "itemFeatures" in best else {"attributes": 2.0}
    alike.setGroupRegParam({"items": {"id": best.get("items.id.factors", 3.0), **attributes}})
    assert fitted.bestModel.summary.losses == alike.fit(toy.train).summary.losses
    assert fitted.bestModel.summary.passes == 5
    assert fitted.transform(toy.test).count() == toy.test.count()
    for key, message in (
        ("items.genre.linear", "'items.genre.linear' cannot be searched; there are userFeatures, "),
        ("activation", "'activation' is 'tanh', of which there are no multiples: give a list of values"),
    ):
        with pytest.raises(UsageError, match=message):
            NIMCSearch(nimc, {key: Multiples()}, Split("item", 0.3, 1)).fit(toy.train)


@pytest.mark.parametrize(
    ("space", "message"),
    [
        # Trials share columns, tables and starts.
        ({"weightCol": ["w"]}, "'weightCol' cannot be searched"),
        ({"starts": [2]}, "'starts' cannot be searched"),
        ({"rank": 3}, "'rank' has 3; give a list of values"),
        ({"activation": "tanh"}, "'activation' has 'tanh'; give a list of values"),
        (
            {"regParam": [1.0], "users.id.factors": [1.0]},
            "'regParam' is over λ of all groups, 'users.id.factors' of one",
        ),
    ],
)
def test_a_space_that_trials_cannot_differ_in_is_refused(toy: Toy, space: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        NIMCSearch(NIMC(), space).fit(toy.train)


@pytest.mark.parametrize("times", [2.0, ("a",), (float("nan"),), (-1.0,), (), (0.0,)])
def test_multiples_are_finite_factors(times: object) -> None:
    with pytest.raises(UsageError, match="give finite factors above 0"):
        Multiples(times)  # type: ignore[arg-type]


def test_no_trial_begins_beyond_the_budget(toy: Toy) -> None:
    training, validation = toy.train.where("user % 3 > 0"), toy.train.where("user % 3 = 0")
    found = search(
        lambda setting: estimator(toy, {**setting, "maxIter": 3}),
        {"rank": lambda _: [1]},
        [(training, validation)],
        Budget(passes=3),
    )
    assert [(trial.coordinate, trial.passes) for trial in found.trials] == [("start", 3)]
