"""A start from an earlier model: rows are matched by what they are of, whatever else is new."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from nimc_spark import NIMC, NIMCModel
from nimc_spark.errors import UsageError
from nimc_spark.kernels.model import SideName
from tests.spark.ml.conftest import Toy

VECTOR = {"kind": "passthrough", "column": "features"}
HISTORY = {"kind": "history", "weights": "residuals"}
SETTINGS: dict[str, Any] = {"rank": 2, "solver": "lbfgs", "ratingsPerLane": 60, "seed": 3}
# A step too short to be seen: the model is its start.
STILL: dict[str, Any] = {**SETTINGS, "solver": "gd", "stepSize": 1e-300, "maxIter": 1, "dtype": "float64"}


@pytest.fixture(scope="module")
def earlier(toy: Toy) -> NIMCModel:
    """Trained without users from 15 on and without item 3; ids of users, histories of users."""
    nimc = NIMC(**SETTINGS, maxIter=30, userFeatures=[VECTOR, {"kind": "id"}, HISTORY], itemFeatures=[VECTOR])
    return nimc.setUsers(toy.users).setItems(toy.items).fit(toy.train.where("user < 15 and item != 3"))


def rows_by_id(model: NIMCModel, side: SideName) -> dict[int, np.ndarray]:
    table = model.trained.sides[side].ids
    return {i: np.array(w) for i, w in zip(table["id"].to_pylist(), table["weights"].to_pylist(), strict=True)}


def same(found: np.ndarray, expected: np.ndarray) -> None:
    """But for the way to the solver's variables and back."""
    np.testing.assert_allclose(found, expected, rtol=1e-15, atol=0)


@pytest.mark.soak
def test_it_is_where_the_earlier_one_ended(toy: Toy, earlier: NIMCModel) -> None:
    ratings = toy.train.where("user < 15 and item != 3")
    nimc = NIMC(**SETTINGS, maxIter=1, userFeatures=[VECTOR, {"kind": "id"}, HISTORY], itemFeatures=[VECTOR])
    again = nimc.setUsers(toy.users).setItems(toy.items).setInitialModel(earlier).fit(ratings)
    assert again.summary.losses[0] == pytest.approx(earlier.summary.loss, rel=1e-6)


def test_rows_go_where_they_belong_and_others_are_random(toy: Toy, earlier: NIMCModel) -> None:
    # New users and an item, the rank one higher, another order of features, ids of items, a plain history.
    users = [{"kind": "history"}, HISTORY, {"kind": "id"}, VECTOR]
    nimc = NIMC(**{**STILL, "rank": 3}, userFeatures=users, itemFeatures=[{"kind": "id"}, VECTOR])
    nimc.setUsers(toy.users).setItems(toy.items)
    cold, warm = nimc.fit(toy.train), nimc.copy().setInitialModel(earlier).fit(toy.train)
    old = [0, 1, 3]
    random, found, known = (rows_by_id(m, SideName.USERS) for m in (cold, warm, earlier))
    assert set(known) < set(found)
    for user, row in found.items():
        if user in known:
            same(row[old], known[user])
            assert row[2] == random[user][2] != 0
        else:
            np.testing.assert_array_equal(row, random[user])
    for side in SideName:
        mine, theirs = warm.trained.sides[side].declared, earlier.trained.sides[side].declared
        same(mine[:, old], theirs)
    np.testing.assert_array_equal(*(list(rows_by_id(m, SideName.ITEMS).values()) for m in (warm, cold)))
    histories = [m.trained.sides[SideName.USERS].history for m in (warm, cold, earlier)]
    plain = histories[0].others
    np.testing.assert_array_equal(histories[0].rows[:plain], histories[1].rows[:plain])
    items, before = (m.trained.sides[SideName.ITEMS].ids["id"].to_pylist() for m in (warm, earlier))
    for place, item in enumerate(items):
        row = histories[0].rows[plain + place]
        if item in before:
            same(row[old], histories[2].rows[before.index(item)])
        else:
            np.testing.assert_array_equal(row, histories[1].rows[plain + place])


def test_what_cannot_be_a_start_is_refused(toy: Toy, earlier: NIMCModel) -> None:
    other = NIMC(**SETTINGS, activation="tanh").setInitialModel(earlier)
    with pytest.raises(UsageError, match="has identity for users, not tanh: give the same activation"):
        other.fit(toy.train)
    both = NIMC(**SETTINGS, activation="tanh", init="tensor").setInitialModel(earlier)
    with pytest.raises(UsageError, match="init = tensor and an initial model"):
        both.fit(toy.train)
