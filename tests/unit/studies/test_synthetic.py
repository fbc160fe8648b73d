"""Planted problems: what they plant is a minimum without loss, and lm finds it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from nimc_spark.solvers.lm import Lm
from nimc_spark.solvers.progress import Progress
from nimc_spark.studies.convergence import Race, local_descent, passes_to_targets
from nimc_spark.studies.recovery import Trial, recovered
from nimc_spark.studies.synthetic import Planted, Setting, conditioned, fitted

SETTING = Setting("sigmoid", 40, 6, 3, 2.0, 600, 3)


def test_the_truth_has_no_loss_and_no_error() -> None:
    planted = Planted(SETTING)
    at = planted.oracle().evaluate([planted.truth])[0]
    assert at.value < 1e-28
    assert np.abs(at.gradient).max() < 1e-14
    assert planted.error(planted.truth) < 1e-14
    fresh = planted.resampled(np.random.default_rng(1)).evaluate([planted.truth])[0]
    assert fresh.value < 1e-28


def test_singular_values_of_a_conditioned_matrix() -> None:
    values = np.linalg.svd(conditioned(np.random.default_rng(0), 7, 3, 4.0), compute_uv=False)
    np.testing.assert_allclose(values, [4.0, 2.5, 1.0], rtol=1e-12)


def test_lm_recovers_a_planted_model_to_rounding() -> None:
    planted = Planted(SETTING)
    theta, outcome = fitted(planted, Lm(Progress(0.0, 1e-15)), planted.starts(3), 40)
    assert outcome.iterate.value < 1e-20
    assert planted.error(theta) < 1e-8


def test_few_ratings_do_not_recover_it() -> None:
    few = replace(SETTING, pairs=30)
    assert recovered(Trial(SETTING, "lm"))
    assert not recovered(Trial(few, "lm"))


@pytest.mark.parametrize(("solver", "most"), [("lm", 40), ("lbfgs", 300), ("gncg", 200)])
def test_passes_to_an_error(solver: str, most: int) -> None:
    coarse, fine = passes_to_targets(Race(SETTING, solver))
    assert coarse < fine <= most


def test_descent_on_fresh_samples_stays_within_the_theorem_s_rate() -> None:
    least, largest, errors = local_descent((Setting("tanh", 200, 5, 2, 1.0, 4000, 1), 40))
    ratios = np.array(errors[1:]) / np.array(errors[:-1])
    assert 0 < least < largest
    assert np.median(ratios[20:]) <= 1 - least / largest + 0.01
    assert errors[-1] < 0.6 * errors[0]
