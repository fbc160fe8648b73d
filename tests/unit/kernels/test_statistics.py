"""FeatureCounts and Averages against dense formulas, and the fixed tree in which contributions are merged."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from nimc_spark.data.local import LocalOracle
from nimc_spark.kernels.features import Rows
from nimc_spark.kernels.model import SideName
from nimc_spark.kernels.statistics import (
    Averages,
    Errors,
    FeatureCounts,
    LossGradient,
    Sums,
    merge,
)
from tests.unit.problems import (
    REFERENCES,
    STATISTICS,
    array_of,
    dense,
    dense_counts,
    dense_scores,
    rows_of,
    small_problem,
    with_part_offsets,
)


@pytest.mark.parametrize("encoding", ["dense", "sparse", "mixed"])
@pytest.mark.parametrize(("lanes", "item_parts"), [(1, 1), (3, 2)])
def test_feature_counts(encoding: str, lanes: int, item_parts: int) -> None:
    problem = small_problem(encoding)
    counts, wanted = problem.counts(problem.passes(lanes, item_parts)), dense_counts(problem)
    for side in SideName:
        np.testing.assert_allclose(counts[side], wanted[side], rtol=1e-13)
        assert counts[side][-1] == 0.0


def test_feature_counts_without_weights_count_ratings_of_each_id() -> None:
    problem = small_problem()
    plain = replace(problem, observations=replace(problem.observations, weight=None))
    counts = plain.counts(plain.passes())
    assert counts[SideName.USERS][3:].tolist() == [4, 2, 3, 2, 3, 0]
    assert counts[SideName.ITEMS][3:].tolist() == [4, 5, 2, 3, 0]


@pytest.mark.parametrize("side", list(SideName))
def test_feature_counts_tell_parts_that_are_not_finite(side: SideName) -> None:
    problem = small_problem("mixed")
    model = problem.model
    zero = model.unravel(np.zeros(model.size))
    assert array_of(problem.passes().run(FeatureCounts(), model, [zero])[0], "non_finite")[0] == 0
    broken = problem.features(side)[0].copy()
    broken[0, 0] = np.nan
    bad = replace(problem, **{side.value: [broken, problem.features(side)[1]]})
    assert array_of(bad.passes().run(FeatureCounts(), model, [zero])[0], "non_finite")[0] == 1


@pytest.mark.parametrize(("lanes", "item_parts"), [(1, 1), (3, 2), (6, 5)])
def test_averages(lanes: int, item_parts: int) -> None:
    problem = small_problem(users_activation="tanh", items_activation="sigmoid")
    model, o, k = problem.model, problem.observations, problem.model.rank
    theta = np.random.default_rng(2).normal(size=model.size)
    U, V = model.unravel(theta)
    sums = problem.passes(lanes, item_parts).run(Averages(), model, [model.unravel(theta)])[0]
    X, Y = dense(problem.users)[o.user], dense(problem.items)[o.item]
    p, q = REFERENCES["tanh"][0](X @ U[:, :k]), REFERENCES["sigmoid"][0](Y @ V[:, :k])
    s, w, one = (p * q).sum(axis=1), o.weight, np.ones((problem.count, 1))
    np.testing.assert_allclose(array_of(sums, "weight"), [w.sum()], rtol=1e-13)
    np.testing.assert_allclose(array_of(sums, "users"), w @ np.hstack([p, X @ U[:, [k]], one]), rtol=1e-12)
    np.testing.assert_allclose(array_of(sums, "items"), w @ np.hstack([q, one, Y @ V[:, [k]]]), rtol=1e-12)
    np.testing.assert_allclose(array_of(sums, "interaction"), [w @ s, w @ s**2], rtol=1e-12)
    offset = 0.0 if o.offset is None else o.offset
    np.testing.assert_allclose(array_of(sums, "offsets_loss"), [0.5 * w @ (o.rating - offset) ** 2], rtol=1e-12)
    slopes = REFERENCES["tanh"][1](X @ U[:, :k])
    np.testing.assert_allclose(array_of(sums, "users_flat"), w @ (slopes < 1e-3), rtol=1e-12)


@pytest.mark.parametrize(("lanes", "item_parts"), [(1, 1), (3, 2)])
def test_errors_of_scores_within_bounds(lanes: int, item_parts: int) -> None:
    problem = small_problem(users_activation="tanh", items_activation="sigmoid")
    model, o = problem.model, problem.observations
    theta = np.random.default_rng(2).normal(size=model.size)
    scores = dense_scores(problem, theta)[o.user, o.item] + o.offset
    for low, high in ((-np.inf, np.inf), (-0.5, 0.25)):
        sums = problem.passes(lanes, item_parts).run(Errors(low, high), model, [model.unravel(theta)])[0]
        e = np.clip(scores, low, high) - o.rating
        expected = [o.weight.sum(), o.weight @ np.abs(e), o.weight @ e**2]
        np.testing.assert_allclose(array_of(sums, "errors"), expected, rtol=1e-12)


def test_flat_slopes_are_weighed_by_their_ratings() -> None:
    problem = small_problem("dense", users_activation="relu", items_activation="tanh")
    model, o = problem.model, problem.observations
    parameters = model.unravel(np.zeros(model.size).copy())
    parameters.users[:, 0] = -np.abs(problem.users[0]).max()
    users = [np.abs(problem.users[0]), problem.users[1]]
    sums = replace(problem, users=users).passes(2, 2).run(Averages(), model, [parameters])[0]
    # The first unit is below 0 for every user, the second at 0 exactly: both are dead; at 0 tanh has slope 1.
    np.testing.assert_allclose(array_of(sums, "users_flat"), [o.weight.sum()] * 2, rtol=1e-13)
    np.testing.assert_array_equal(array_of(sums, "items_flat"), [0.0, 0.0])


def test_offsets_of_users_and_items_add_up_to_the_pair_s() -> None:
    problem = small_problem(users_activation="tanh", items_activation="relu")
    model, o = problem.model, problem.observations
    random = np.random.default_rng(6)
    users, items = random.normal(size=6), random.normal(size=5)
    parameters = model.unravel(random.normal(size=model.size))
    moved = replace(problem, observations=replace(o, offset=o.offset + users[o.user] + items[o.item]))
    got = LocalOracle(with_part_offsets(problem.records(), users, items)).run(LossGradient(), model, [parameters])[0]
    wanted = moved.passes().run(LossGradient(), model, [parameters])[0]
    np.testing.assert_allclose(array_of(got, "loss"), array_of(wanted, "loss"), rtol=1e-12)
    for name in ("users", "items"):
        width = model.width(SideName(name))
        np.testing.assert_allclose(rows_of(got, name, width), rows_of(wanted, name, width), rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("statistic", STATISTICS)
def test_a_lane_without_a_rating_adds_zero(statistic: type[LossGradient]) -> None:
    problem = small_problem("mixed")
    model = problem.model
    parameters = model.unravel(np.random.default_rng(2).normal(size=model.size))
    # Six lanes are one user each; the last user has no rating, so that lane has no block.
    records = problem.records(lanes=6)
    rated = [r for r in records if r.lane < 5]
    assert len(rated) == len(records) - 1
    with_lane, without = (LocalOracle(r).run(statistic(), model, [parameters])[0] for r in (records, rated))
    for name, value in without.items():
        if isinstance(value, Rows):
            np.testing.assert_array_equal(rows_of(with_lane, name, 20), rows_of(without, name, 20))
        else:
            np.testing.assert_array_equal(array_of(with_lane, name), value)


def contributions(number: int) -> list[Sums]:
    """Sums whose total depends on the order of the additions."""
    values = np.random.default_rng(number).normal(size=number) * 10.0 ** np.random.default_rng(1).integers(
        -8, 9, number
    )
    return [{"a": np.array([v]), "b": Rows(np.array([i % 3]), np.array([[v]]))} for i, v in enumerate(values)]


def test_rows_and_arrays_do_not_add() -> None:
    rows, array = Rows(np.array([0]), np.ones((1, 1))), np.ones(1)
    for left, right in ((rows, array), (array, rows)):
        with pytest.raises(TypeError, match="either rows or an array"):
            merge({"a": left}, {"a": right})


def test_merging_leaves_its_arguments_alone() -> None:
    left, right = contributions(2)
    before = array_of(left, "a").copy(), array_of(right, "a").copy()
    merge(left, right)
    np.testing.assert_array_equal([array_of(left, "a"), array_of(right, "a")], before)


def test_a_column_of_zeros_is_masked() -> None:
    problem = small_problem("dense")
    zeroed = problem.users[0].copy()
    zeroed[:, 1] = 0.0
    bare = replace(problem, users=[zeroed, problem.users[1]])
    goal = bare.objective(bare.passes())
    rows = bare.model.unravel(goal.mask).users
    assert rows[:3].tolist() == [[True] * 3, [False] * 3, [True] * 3]
