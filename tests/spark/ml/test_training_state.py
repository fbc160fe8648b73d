"""A training that is interrupted goes on from its saved state, to the model of one that was not, bit by bit."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pyspark.sql import functions as F

from nimc_spark import NIMC, NIMCModel
from nimc_spark.errors import SetupError, UsageError
from nimc_spark.solvers.multistart import PassRecord
from tests.spark.ml.conftest import ITEM_FEATURES, Toy

PASSES = 9


def estimator(toy: Toy, folder: Path, **params: Any) -> NIMC:
    settings = {"rank": 2, "activation": "tanh", "maxIter": PASSES, "starts": 2, "ratingsPerLane": 60, **params}
    nimc = NIMC(itemFeatures=ITEM_FEATURES, stateDir=str(folder), stateInterval=2, **settings)
    return nimc.setUsers(toy.users).setItems(toy.items)


def interrupt(nimc: NIMC, toy: Toy, after: int) -> None:
    """Fits until the pass `after` is done, and no further."""

    def stop(record: PassRecord) -> None:
        if record.number == after:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        nimc.setOnPass(stop).fit(toy.train)


def bits(model: NIMCModel) -> list[object]:
    """All numbers of a model, as bytes."""
    sides = model.trained.sides.values()
    return [part for side in sides for part in (side.declared.tobytes(), side.ids, side.default)]


@pytest.fixture(scope="module")
def undisturbed(toy: Toy) -> NIMCModel:
    return estimator(toy, Path()).setStateDir(None).fit(toy.train)


def test_it_goes_on_to_the_same_bits(
    toy: Toy, undisturbed: NIMCModel, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    seen: list[int] = []
    interrupt(estimator(toy, tmp_path), toy, 5)
    assert len(list(tmp_path.iterdir())) == 1
    with caplog.at_level(logging.INFO):
        model = estimator(toy, tmp_path).setOnPass(lambda record: seen.append(record.number)).fit(toy.train)
    assert "training goes on after pass 5" in caplog.text
    assert bits(model) == bits(undisturbed)
    assert replace(model.summary, seconds=0.0) == replace(undisturbed.summary, seconds=0.0)
    assert seen == list(range(1, PASSES + 1))
    # What is over leaves nothing behind, neither a file nor a place in the model.
    assert list(tmp_path.iterdir()) == []
    assert not model.isSet("stateDir")


@pytest.mark.soak
def test_a_state_with_a_wrong_bit_is_left_aside(
    toy: Toy, undisturbed: NIMCModel, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for after in (4, 7):
        interrupt(estimator(toy, tmp_path), toy, after)
    (state,) = tmp_path.iterdir()
    damaged = bytearray(state.read_bytes())
    damaged[len(damaged) // 2] ^= 4
    state.write_bytes(damaged)
    assert bits(estimator(toy, tmp_path).fit(toy.train)) == bits(undisturbed)
    assert "is damaged and left aside" in caplog.text


@pytest.mark.soak
def test_another_problem_has_another_state(toy: Toy, tmp_path: Path) -> None:
    interrupt(estimator(toy, tmp_path), toy, 3)
    interrupt(estimator(toy, tmp_path, seed=1), toy, 3)
    nudged = toy.train.withColumn(
        "rating", F.when(F.col("user") == 0, F.col("rating") + 1e-3).otherwise(F.col("rating"))
    )
    interrupt(estimator(toy, tmp_path), replace(toy, train=nudged), 3)
    assert len(list(tmp_path.iterdir())) == 3
    # How the same rows are partitioned, and how long training may be, makes no other problem.
    again = replace(toy, train=toy.train.repartition(3, "item"))
    interrupt(estimator(toy, tmp_path, maxIter=50), again, 4)
    assert len(list(tmp_path.iterdir())) == 3


def test_a_budget_of_seconds_ends_training(toy: Toy, tmp_path: Path) -> None:
    model = estimator(toy, tmp_path, maxSeconds=1e-3).fit(toy.train)
    assert (model.summary.passes, model.summary.reason) == (1, "max_seconds")
    assert np.isfinite(model.summary.loss)
    with pytest.raises(UsageError, match=r"maxSeconds = 0.0 is not allowed; allowed: a number > 0"):
        estimator(toy, tmp_path, maxSeconds=0).fit(toy.train)


def test_a_folder_that_cannot_be_written_is_told(toy: Toy, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("")
    with caplog.at_level(logging.WARNING), pytest.raises(SetupError, match="the state of training cannot be saved at "):
        estimator(toy, tmp_path / "file").fit(toy.train)
