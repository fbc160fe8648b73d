"""What tune varies: keys of the config, explicit or spanned by its features, and settings as configs."""

from __future__ import annotations

from typing import Any

import pytest

from jobs._config import Config, parse_config
from jobs._space import base_tree, best_config, coordinates, keyed_by_member, setting_config
from nimc_spark.errors import UsageError
from nimc_spark.ml import Multiples

SCHEMA = "u INT, i INT, r DOUBLE"
TREE: dict[str, Any] = {
    "lake": "lake",
    "sources": {"ratings": {"path": "r.csv", "schema": SCHEMA}, "users": {"path": "u.csv", "schema": "u INT, age INT"}},
    "columns": {"user": "u", "item": "i", "rating": "r"},
    "features": {"users": [{"kind": "numeric", "column": "age"}, {"kind": "id"}, {"kind": "history"}]},
    "model": {"reg": {"users": {"id": 3.0, "history": {"linear": 7.0}}, "linear": 0.25}},
}


def config(**sections: Any) -> Config:
    return parse_config({**TREE, **sections})


def test_the_base_writes_every_penalty_out() -> None:
    reg = base_tree(config())["model"]["reg"]
    assert reg["users"] == {
        "attributes": {"factors": 8.0, "linear": 0.25},
        "id": {"factors": 3.0, "linear": 0.25},
        "history": {"factors": 4.0, "linear": 7.0},
    }
    assert reg["items"] == {"id": {"factors": 1.25, "linear": 0.25}}


def test_features_span_the_space_where_none_is_named() -> None:
    own = config()
    tree = base_tree(own)
    space = coordinates(own, tree)
    (without,) = space["features.users"]({})
    assert [d["kind"] for d in without] == ["numeric", "id"]
    assert space["model.rank"]({"model.rank": 20}) == [10, 40]
    assert space["model.reg.users.id.factors"]({}) == [0.75, 1.5, 6.0, 12.0]
    assert space["model.reg.users.id.factors"]({"model.reg.users.id.factors": 6.0}) == [1.5, 3.0, 12.0, 24.0]
    # λ of a group that the setting does not have is not varied, nor handed on.
    setting = {"features.users": without, "model.reg.users.id.linear": 9.0}
    assert space["model.reg.users.history.linear"](setting) == []
    found = setting_config(tree, setting)
    assert base_tree(found)["model"]["reg"]["users"]["id"] == {"factors": 3.0, "linear": 9.0}
    assert "history" not in base_tree(found)["model"]["reg"]["users"]
    assert base_tree(setting_config(tree, {})) == tree


def test_a_named_space_is_taken_as_it_is() -> None:
    own = config(tune={"space": {"model.activation": ["tanh", "relu"], "model.reg.power": {"times": [0.5, 2]}}})
    space = coordinates(own, base_tree(own))
    assert list(space) == ["model.activation", "model.reg.power"]
    assert space["model.activation"]({"model.activation": "relu"}) == ["tanh"]
    assert space["model.reg.power"]({}) == [0.25, 1.0]


def test_what_is_found_for_members_is_theirs_alone() -> None:
    cells = {"known_user/known_item": "warm", "new_user/known_item": "cold"}
    own = config(
        members={
            "warm": {},
            "cold": {"features": {"users": [{"kind": "numeric", "column": "age"}, {"kind": "const"}]}},
        },
        router=cells | {"known_user/new_item": "cold", "new_user/new_item": "cold"},
        tune={"space": {"model.rank": [7]}},
    )
    without = {"features.users": TREE["features"]["users"][:2], "model.reg.users.id.linear": 9.0}
    settings = {"warm": without, "cold": {"model.rank": 7}}
    best = best_config(own, settings)
    for name, member in own.by_member().items():
        assert base_tree(best.by_member()[name]) == base_tree(setting_config(base_tree(member), settings[name]))
    assert best.by_member()["cold"].model.rank == 7
    assert [d.kind for d in best.by_member()["warm"].features.users] == ["numeric", "id"]
    assert best.router == own.router
    assert not best.tune.space
    assert keyed_by_member(own, settings)["members.cold.model.rank"] == 7


def test_integers_have_integers_as_multiples() -> None:
    assert Multiples((0.25, 4.0)).of(10) == [2, 40]
    assert Multiples((0.25, 4.0)).of(1) == [1, 4]
    assert Multiples((0.25, 4.0)).of(0.1) == [0.025, 0.4]


@pytest.mark.parametrize(
    ("tune", "message"),
    [
        ({"space": {"lake": ["a"]}}, "space.lake: only keys of model and features can be searched"),
        ({"space": {"model.rank": []}}, "tune.space.model.rank = []"),
        ({"space": {"model.rank": {"factor": 2}}}, "tune.space.model.rank.times"),
        ({"validation": 1}, "tune.validation = 1"),
        ({"minutes": 0}, "tune.minutes = 0"),
        ({"folds": 4, "validation": 0.3}, "folds = 4 of 0.3 each: more than all training rows"),
    ],
)
def test_what_is_wrong_is_named(tune: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        config(tune=tune)
    assert message in str(caught.value)


def test_a_value_that_the_config_does_not_allow_is_named() -> None:
    with pytest.raises(UsageError, match=r"model.rank = 0"):
        setting_config(base_tree(config()), {"model.rank": 0})
