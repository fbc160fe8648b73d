"""Params: defaults, accessors, what is refused and how."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pyspark.sql import SparkSession

from nimc_spark import NIMC, NIMCModel
from nimc_spark.errors import UsageError

DEFAULTS = {
    "userCol": "user",
    "itemCol": "item",
    "ratingCol": "rating",
    "predictionCol": "prediction",
    "rank": 20,
    "activation": "identity",
    "linear": True,
    "objective": "ratings",
    "solver": "auto",
    "starts": 1,
    "dtype": "float32",
    "clip": True,
}


@pytest.mark.usefixtures("spark")
class TestParams:
    def test_defaults_and_accessors(self) -> None:
        estimator = NIMC()
        assert {name: estimator.getOrDefault(name) for name in DEFAULTS} == DEFAULTS
        # These follow the objective where they are unset.
        assert (estimator.complement_weight, estimator.baseline_terms) == (0.0, ["global"])
        ranking = NIMC(objective="ranking")
        assert (ranking.complement_weight, ranking.baseline_terms) == (1.0, ["item"])
        assert estimator.setRank(7).setRegParam(0.5).setActivation("tanh") is estimator
        assert (estimator.getRank(), estimator.getRegParam(), estimator.getActivation()) == (7, 0.5, "tanh")
        for param in estimator.params:
            label = param.name[0].upper() + param.name[1:]
            assert callable(getattr(estimator, f"get{label}"))
            assert callable(getattr(estimator, f"set{label}"))

    def test_explain_params_shows_each_with_its_default(self) -> None:
        text = NIMC(rank=3).explainParams()
        assert "rank: k, the number of factors (default: 20, current: 3)" in text
        assert "weightCol: column of rating weights ≥ 0; unset: all 1 (undefined)" in text
        assert len(text.splitlines()) == len(NIMC().params)

    def test_an_unknown_name_is_answered_with_those_there_are(self) -> None:
        with pytest.raises(UsageError, match=r"NIMC has no Param 'ranks'; it has: activation, .*rank, "):
            NIMC(ranks=3)

    @pytest.mark.parametrize(
        ("name", "value", "message"),
        [
            ("rank", 0, "rank = 0 is not allowed; allowed: an integer from 1 to 1000"),
            ("activation", "relo", "activation 'relo' is not known; allowed: identity, sigmoid, tanh, relu, leaky"),
            ("itemActivation", "x", "activation 'x' is not known"),
            ("regParam", -1.0, r"regParam = -1.0 is not allowed; allowed: a number from 0 to 1e\+18"),
            ("regParam", float("nan"), "regParam = nan is not allowed"),
            ("baseline", ["item", "time"], r"baseline = \['item', 'time'\] .* allowed: a list of global, item, user"),
            ("solver", "sgd", "solver = 'sgd' is not allowed; allowed: auto, lbfgs, lm, gncg, gd, adam"),
            ("dtype", "float16", "dtype = 'float16' is not allowed; allowed: float32, float64"),
            ("groupRegParam", 5, r"groupRegParam = 5\.0 is not allowed; allowed: a mapping of numbers"),
            ("groupRegParam", {"users": -1}, "groupRegParam = .* is not allowed"),
            ("groupRegParam", {"users": {"id": {"factors": {}}}}, "groupRegParam = .* is not allowed"),
            ("groupRegParam", {"users": {"id": {"factors": True}}}, "groupRegParam = .* is not allowed"),
            ("groupRegParam", {"users": 1e19}, "groupRegParam = .* is not allowed"),
            ("initSpread", 0.0, "initSpread = 0.0 is not allowed; allowed: a number from 1e-6 to 1e6"),
            ("starts", 0, "starts = 0 is not allowed"),
            ("userCol", "", "userCol = '' is not allowed"),
        ],
    )
    def test_a_value_out_of_range_is_named_with_what_is_allowed(self, name: str, value: Any, message: str) -> None:
        with pytest.raises(UsageError, match=message):
            NIMC(**{name: value}).validate()

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("rank", "many"),
            ("rank", 1.5),
            ("linear", "yes"),
            ("baseline", "global"),
            ("seed", "x"),
        ],
    )
    def test_a_value_of_another_type_is_refused_where_it_is_set(self, name: str, value: Any) -> None:
        with pytest.raises(UsageError, match=f'param "{name}"'):
            NIMC(**{name: value})
        with pytest.raises(UsageError, match=f'param "{name}"'):
            getattr(NIMC(), f"set{name[0].upper()}{name[1:]}")(value)


def test_penalties_may_be_numbers_of_numpy() -> None:
    declared = {"users": {"id": np.float32(2)}, "items": {"id": {"factors": np.int64(3)}}}
    estimator = NIMC(groupRegParam=declared)
    estimator.validate()
    assert estimator.getGroupRegParam() == {"users": {"id": 2.0}, "items": {"id": {"factors": 3.0}}}
    assert type(estimator.getGroupRegParam()["users"]["id"]) is float
    for huge in ({"groupRegParam": {"users": 10**400}}, {"regParam": 10**400}):
        with pytest.raises(UsageError, match="int too large to convert to float"):
            NIMC(**huge)


def test_a_start_of_moments_does_not_go_with_a_complement() -> None:
    with pytest.raises(UsageError, match=r"init = 'tensor' cannot go with complementWeight > 0"):
        NIMC(init="tensor", activation="tanh", objective="ranking").validate()


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ({"predictionCol": "Score_Source"}, "predictionCol = 'score_source': that column says what scored a pair"),
        ({"ratingCol": "stars", "predictionCol": "Stars"}, "ratingCol = 'stars', .* each must be a column of its own"),
    ],
)
def test_columns_need_names_of_their_own(names: dict[str, str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        NIMC(**names).validate()


def test_a_seed_may_be_negative() -> None:
    assert (NIMC(seed=-1).unsigned_seed, NIMC(seed=7).unsigned_seed) == (2**64 - 1, 7)


def test_none_unsets(spark: SparkSession) -> None:
    estimator = NIMC(rank=4, weightCol="w", seed=3)
    estimator.setParams(rank=None, weightCol=None).setSeed(None)
    assert (estimator.getRank(), estimator.getSeed(), estimator.optional("weightCol")) == (20, 0, None)


def test_copy_keeps_the_dataframes_and_takes_the_extra_values(spark: SparkSession) -> None:
    users = spark.range(3).withColumnRenamed("id", "user")
    estimator = NIMC(rank=4).setUsers(users)
    copied = estimator.copy({estimator.rank: 9})
    assert (copied.getRank(), estimator.getRank()) == (9, 4)
    assert copied._users is users
    assert copied.uid == estimator.uid


@pytest.mark.usefixtures("spark")
@pytest.mark.parametrize("setter", ["setUsers", "setItems", "setContext"])
def test_what_is_no_dataframe_is_refused_where_it_is_given(setter: str) -> None:
    holder = NIMCModel() if setter == "setContext" else NIMC()
    assert getattr(holder, setter)(None) is holder
    with pytest.raises(UsageError, match=f"{setter} takes a Spark DataFrame or None, found pyarrow.lib.Table"):
        getattr(holder, setter)(pa.table({"user": [1]}))
