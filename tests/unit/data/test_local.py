"""Records of arrays: cuts, total order of ratings, and problems as small as they come."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.sparse import csr_array

from nimc_spark.data import threads
from nimc_spark.data.local import Observations
from nimc_spark.data.passes import ITEM_LANE, Kind
from nimc_spark.data.threads import one_blas_thread
from nimc_spark.kernels.features import Part
from nimc_spark.kernels.model import Model, SideName
from nimc_spark.kernels.objective import GroupPenalty
from tests.unit.problems import Problem, bits, dense_value_and_gradient, small_problem

PENALTIES = {"attributes": GroupPenalty(0.2, 0.1), "id": GroupPenalty(0.5, 0.3)}


def test_users_and_items_are_cut_into_neighbours() -> None:
    problem = small_problem("mixed")
    records = problem.records(lanes=2, item_parts=2)
    assert [(r.lane, r.kind, r.item_part) for r in records] == [
        (ITEM_LANE, Kind.ITEM_PART, 0),
        (ITEM_LANE, Kind.ITEM_PART, 1),
        (0, Kind.USER_PART, 0),
        (0, Kind.BLOCK, 0),
        (0, Kind.BLOCK, 1),
        (1, Kind.USER_PART, 0),
        (1, Kind.BLOCK, 0),
        (1, Kind.BLOCK, 1),
    ]
    second = records[5].payload
    assert isinstance(second, Part)
    np.testing.assert_array_equal(second.groups[0].values, problem.users[0][3:])
    np.testing.assert_array_equal(second.groups[1].columns, [3 + 3, 3 + 4, 3 + 5])
    assert sum(r.payload.size for r in records if r.kind == Kind.BLOCK) == problem.count


def test_ratings_are_sorted_totally() -> None:
    problem = small_problem()
    random = np.random.default_rng(0)
    # One pair four times and another twice, told apart by rating, weight or offset alone.
    tied = problem.observations.take(np.array([0, 5, 0, 0, 5, 0]))
    rating, weight = np.array([4.0, 3, 4, 4, 2, 5]), np.array([1.0, 2, 3, 1, 2, 1])
    tied = replace(tied, rating=rating, weight=weight, offset=np.array([0.1, 0.2, 0.1, 0.3, 0.2, 0.1]))
    wanted = bits(replace(problem, observations=tied).records(2, 2))
    for _ in range(5):
        shuffled = replace(problem, observations=tied.take(random.permutation(6)))
        assert bits(shuffled.records(2, 2)) == wanted


def tiny(users: int, items: int, pairs: list[tuple[int, int]], rank: int) -> Problem:
    random = np.random.default_rng(users + items)
    sides = [[random.normal(size=(n, 2)), csr_array(np.eye(n))] for n in (users, items)]
    user, item = (np.array(column) for column in zip(*pairs, strict=True))
    observations = Observations(user, item, random.normal(size=len(pairs)))
    model = Model(rank, 2 + users, 2 + items, "tanh", "sigmoid", dtype="float64")
    return Problem(model, sides[0], sides[1], observations, PENALTIES, 0.5)


@pytest.mark.parametrize(
    "problem",
    [
        tiny(1, 4, [(0, 0), (0, 2), (0, 3)], 2),
        tiny(4, 1, [(0, 0), (2, 0), (3, 0)], 2),
        tiny(3, 3, [(1, 2)], 2),
        tiny(1, 1, [(0, 0)], 1),
        tiny(1, 1, [(0, 0)] * 3, 5),
        tiny(6, 2, [(0, 0), (5, 1)], 2),
        tiny(4, 3, [(0, 0), (1, 2), (3, 1), (3, 2)], 9),
    ],
    ids=["one user", "one item", "one rating", "one pair", "repeated pair", "users without ratings", "rank > items"],
)
def test_small_as_they_come(problem: Problem) -> None:
    theta = np.random.default_rng(1).normal(size=problem.model.size)
    passes = problem.passes(lanes=2, item_parts=2)
    goal = problem.objective(passes)
    theta[~goal.mask] = 0.0
    value, gradient, _ = passes.bind(goal).evaluate([theta])[0]
    wanted, wanted_gradient = dense_value_and_gradient(problem, theta)
    assert value == pytest.approx(wanted, rel=1e-13)
    np.testing.assert_allclose(gradient, wanted_gradient, rtol=1e-11, atol=1e-14)


def test_a_user_without_ratings_has_no_say() -> None:
    problem = small_problem()
    side = SideName.USERS.value
    other = problem.users[0].copy()
    other[-1] = 100.0
    changed = replace(problem, **{side: [other, problem.users[1]]})
    theta = np.random.default_rng(1).normal(size=problem.model.size)
    values = []
    for version in (problem, changed):
        passes = version.passes()
        values.append(passes.bind(version.objective(passes)).evaluate([theta])[0])
    assert values[0].value == pytest.approx(values[1].value, rel=1e-14)
    np.testing.assert_allclose(values[0].gradient, values[1].gradient, rtol=1e-12, atol=1e-15)


def test_blas_runs_on_one_thread_inside_and_as_before_outside() -> None:
    from threadpoolctl import threadpool_info

    def threads() -> list[int]:
        return [pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"]

    before = threads()
    with one_blas_thread():
        assert set(threads()) <= {1}
    assert threads() == before


@pytest.mark.parametrize(("quota", "most"), [("max 100000\n", 10**6), ("100000 100000\n", 1), ("50000 100000\n", 1)])
def test_a_quota_of_processors_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quota: str, most: int
) -> None:
    (tmp_path / "cpu.max").write_text(quota)
    monkeypatch.setattr(threads, "_QUOTA", tmp_path / "cpu.max")
    limited = threads.processors()
    monkeypatch.setattr(threads, "_QUOTA", tmp_path / "none")
    assert limited == min(threads.processors(), most)
