"""A pass: lanes, item parts and chunks change rounding only; parameter sets and order of arrival change nothing."""

from __future__ import annotations

import numpy as np
import pytest

from nimc_spark.data.local import LocalOracle
from nimc_spark.data.passes import ITEM_LANE, BlockId, Kind, LaneSums, Record, Request, joined, lane_sums, merged, root, user_piece
from nimc_spark.kernels.features import Rows
from nimc_spark.kernels.ratings import RatingBlock
from nimc_spark.kernels.statistics import LossGradient, Sums
from tests.unit.problems import STATISTICS, Problem, array_of, bits, rows_of, small_problem

Statistics = pytest.mark.parametrize("statistic", STATISTICS)


def points(problem: Problem, number: int = 1) -> list:
    random = np.random.default_rng(9)
    return [problem.model.unravel(random.normal(size=problem.model.size)) for _ in range(number)]


def requests(sets: list) -> list[Request]:
    return [Request(LossGradient(), one) for one in sets]


def full(problem: Problem, sums: Sums) -> dict[str, np.ndarray]:
    """Every sum as an array, whatever rows it touched."""
    widths = {"users": problem.model.users_width, "items": problem.model.items_width}
    return {n: array_of(sums, n) if isinstance(v, np.ndarray) else rows_of(sums, n, widths[n]) for n, v in sums.items()}


def agree(problem: Problem, left: Sums, right: Sums) -> None:
    for (name, a), b in zip(full(problem, left).items(), full(problem, right).values(), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-12 * max(np.abs(b).max(), 1e-300), err_msg=name)


@Statistics
@pytest.mark.parametrize("encoding", ["dense", "sparse", "mixed"])
@pytest.mark.parametrize(("lanes", "item_parts"), [(1, 2), (3, 1), (2, 3), (6, 5), (8, 7)])
def test_lanes_and_item_parts_change_rounding_only(
    statistic: type[LossGradient], encoding: str, lanes: int, item_parts: int
) -> None:
    """Eight lanes and seven item parts are more than there are users and items: some are empty."""
    problem = small_problem(encoding, users_activation="sigmoid", items_activation="tanh")
    sets = points(problem)
    one = problem.passes().run(statistic(), problem.model, sets)[0]
    many = problem.passes(lanes, item_parts).run(statistic(), problem.model, sets)[0]
    agree(problem, many, one)


def test_chunks_of_a_cell_change_rounding_only() -> None:
    problem = small_problem()
    item_part, user_part, block = problem.records()
    sets = points(problem)
    chunks = [item_part, user_part]
    for number, cut in enumerate((slice(0, 5), slice(5, 14))):
        rows = block.payload.users()[cut]
        pointer = np.searchsorted(rows, np.arange(user_part.payload.rows + 1)).astype(np.int32)
        b = block.payload
        payload = RatingBlock(pointer, b.item[cut], b.rating[cut], b.weight[cut], b.offset[cut])
        chunks.append(Record(0, Kind.BLOCK, 0, number, payload))
    whole, cut_up = (LocalOracle(r).run(LossGradient(), problem.model, sets)[0] for r in (problem.records(), chunks))
    agree(problem, cut_up, whole)


@Statistics
def test_several_parameter_sets_are_as_many_separate_passes(statistic: type[LossGradient]) -> None:
    problem = small_problem(users_activation="tanh", items_activation="relu")
    oracle, sets = problem.passes(3, 2), points(problem, 4)
    together = oracle.run(statistic(), problem.model, sets)
    apart = [oracle.run(statistic(), problem.model, [one])[0] for one in sets]
    assert bits(together) == bits(apart)


def test_an_evaluation_of_several_points_is_as_many_evaluations() -> None:
    problem = small_problem(users_activation="tanh")
    passes = problem.passes(3, 2)
    bound = passes.bind(problem.objective(passes))
    thetas = list(np.random.default_rng(1).normal(size=(3, problem.model.size)))
    assert bits(bound.evaluate(thetas)) == bits([bound.evaluate([theta])[0] for theta in thetas])


def test_order_of_records_does_not_matter() -> None:
    problem = small_problem()
    records, sets = problem.records(3, 2), points(problem, 2)
    shuffled = [records[i] for i in np.random.default_rng(0).permutation(len(records))]
    passes = [LocalOracle(r).run(LossGradient(), problem.model, sets) for r in (records, shuffled)]
    assert bits(passes[0]) == bits(passes[1])


@Statistics
@pytest.mark.parametrize("lanes", [1, 2, 5])
def test_threads_change_nothing(statistic: type[LossGradient], lanes: int) -> None:
    problem = small_problem("mixed", users_activation="tanh")
    records, sets = problem.records(lanes, 2), points(problem, 3)
    wanted, *others = (LocalOracle(records, t).run(statistic(), problem.model, sets) for t in (1, 2, 3, 8))
    assert all(bits(found) == bits(wanted) for found in others)


def lanes_of(number: int, index: int = 0) -> list[LaneSums]:
    """Lanes whose sum depends on the order of the additions."""
    random = np.random.default_rng(number + index)
    values = random.normal(size=number) * 10.0 ** random.integers(-8, 9, number)
    sums = [{"a": np.array([v]), "b": Rows(np.array([i % 3]), np.array([[v]]))} for i, v in enumerate(values)]
    return [LaneSums(lane, index, (user_piece(lane),), own) for lane, own in enumerate(sums)]


def tree(values: list[float]) -> float:
    """The sum of halves, the left one as large as a power of two may be."""
    if len(values) == 1:
        return values[0]
    half = 1 << (len(values) - 1).bit_length() - 1
    return tree(values[:half]) + tree(values[half:])


@pytest.mark.parametrize("number", [1, 2, 3, 5, 8, 11, 64, 65, 130])
def test_lanes_are_merged_in_a_fixed_tree_by_whoever_holds_them(number: int) -> None:
    found = lanes_of(number)
    (total,) = merged(found, 1)
    assert array_of(total, "a")[0] == tree([array_of(own.sums, "a")[0] for own in found])
    np.testing.assert_allclose(rows_of(total, "b", 3).sum(), array_of(total, "a")[0], rtol=0, atol=1e-6)
    random = np.random.default_rng(0)
    for tasks in (1, 2, 3, 7):
        # Runs of neighbours as tasks have them, and lanes dealt out anyhow.
        for task_of in (np.arange(number) * tasks // number, random.integers(0, tasks, number)):
            held = [joined([own for own, t in zip(found, task_of, strict=True) if t == task]) for task in range(tasks)]
            nodes = [node for task in held for node in task]
            assert bits(merged([nodes[i] for i in random.permutation(len(nodes))], 1)) == bits([total])
            assert sorted(piece for node in nodes for piece in node.pieces) == [user_piece(n) for n in range(number)]
    # A second stage that merges runs of 64 has the same tree.
    runs = [root(found[first : first + 64]) for first in range(0, number, 64)]
    assert bits(merged(runs, 1)) == bits([total])


def test_a_task_sends_few_nodes() -> None:
    assert [(n.lane, n.level) for n in joined(lanes_of(11))] == [(0, 3), (8, 1), (10, 0)]
    assert [(n.lane, n.level) for n in joined(lanes_of(20)[7:19])] == [(7, 0), (8, 3), (16, 1), (18, 0)]


def test_a_lane_that_came_twice_is_seen_in_the_pieces() -> None:
    found = root(sorted([*lanes_of(5), lanes_of(5)[2]], key=lambda own: own.lane))
    assert sorted(found.pieces) == sorted(user_piece(n) for n in (0, 1, 2, 2, 3, 4))


@pytest.mark.parametrize("lanes", [3, 130])
def test_order_of_arrival_does_not_matter(lanes: int) -> None:
    random = np.random.default_rng(lanes)
    results = [*lanes_of(lanes), *lanes_of(lanes, 1)]
    wanted = bits(merged(results, 2))
    for _ in range(5):
        assert bits(merged([results[i] for i in random.permutation(len(results))], 2)) == wanted


def test_lanes_come_one_by_one_with_the_pieces_they_saw() -> None:
    problem = small_problem()
    found = list(lane_sums(problem.records(2, 2), problem.model, requests(points(problem, 2))))
    assert [(r.lane, r.request) for r in found] == [(0, 0), (0, 1), (1, 0), (1, 1)]
    assert found[0].pieces == (user_piece(0), BlockId(0, 0, 0), BlockId(0, 1, 0))
    assert found[3].pieces == (user_piece(1), BlockId(1, 0, 0), BlockId(1, 1, 0))
    # A lane alone is the sum that the data of its users gives.
    parts = [array_of(r.sums, "loss")[0] for r in found if r.request == 1]
    whole = problem.passes().run(LossGradient(), problem.model, points(problem, 2))[1]
    assert sum(parts) == pytest.approx(array_of(whole, "loss")[0], rel=1e-13)


def test_a_task_may_hold_any_whole_lanes() -> None:
    problem = small_problem()
    records, sets = problem.records(3, 2), points(problem)
    items = [r for r in records if r.lane == ITEM_LANE]
    tasks = [items + [r for r in records if r.lane in lanes] for lanes in ((1,), (0, 2))]
    results = [r for task in tasks for r in lane_sums(task, problem.model, requests(sets))]
    assert bits(merged(results, 1)) == bits(LocalOracle(records).run(LossGradient(), problem.model, sets))


def test_a_lane_without_its_user_part_is_named() -> None:
    problem = small_problem()
    records = [r for r in problem.records(2, 1) if (r.lane, r.kind) != (1, Kind.USER_PART)]
    with pytest.raises(ValueError, match="lane 1 came without its user part"):
        LocalOracle(records).run(LossGradient(), problem.model, points(problem))


def test_float32_passes_agree_with_float64_to_float32_rounding() -> None:
    exact, rough = (small_problem("mixed", users_activation="tanh", dtype=d) for d in ("float64", "float32"))
    sets = points(exact)
    wanted = full(exact, exact.passes(2, 2).run(LossGradient(), exact.model, sets)[0])
    got = full(rough, rough.passes(2, 2).run(LossGradient(), rough.model, sets)[0])
    for name, value in wanted.items():
        assert got[name].dtype == np.float64
        np.testing.assert_allclose(got[name], value, rtol=0, atol=1e-5 * np.abs(value).max())
