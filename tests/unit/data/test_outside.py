"""Items evaluated outside of the blocks: the sums of an evaluation in the blocks, to rounding."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from nimc_spark.data.local import LocalOracle, records_of_arrays
from nimc_spark.data.outside import OutsideItems, entries, transposed, with_row_numbers
from nimc_spark.data.passes import Kind, Record, Request
from nimc_spark.errors import UsageError
from nimc_spark.kernels.curvature import GaussNewton, Product, RowBlocks
from nimc_spark.kernels.features import Entries, Part
from nimc_spark.kernels.moments import SideMoments
from nimc_spark.kernels.statistics import Averages, Errors, FeatureCounts, LossGradient, Statistic
from tests.unit.problems import ITEMS, Problem, bits, rows_of, small_problem, unlabelled

LANES = 2


def lanes_of_items(problem: Problem) -> list[Record]:
    """Y as lanes: item j in lane j mod LANES."""
    rows = [np.arange(lane, ITEMS, LANES) for lane in range(LANES)]
    parts = []
    for mine in rows:
        records = records_of_arrays(
            problem.users, [m[mine] for m in problem.items], problem.observations, problem.model.dtype
        )
        part = next(r.payload for r in records if r.kind == Kind.ITEM_PART)
        assert isinstance(part, Part)
        parts.append(with_row_numbers(part, mine))
    return [Record(lane, Kind.USER_PART, 0, 0, part) for lane, part in enumerate(parts)]


def lanes_of_features(items: list[Record]) -> list[Record]:
    """Yᵀ as lanes: feature r in lane r mod LANES."""
    found = [entries(r.payload) for r in items if isinstance(r.payload, Part)]
    every = Entries(*(np.concatenate(arrays) for arrays in zip(*found, strict=True)))
    parts = [transposed(Entries(*(a[every.column % LANES == lane] for a in every))) for lane in range(LANES)]
    return [Record(lane, Kind.USER_PART, 0, 0, part) for lane, part in enumerate(parts)]


def outside(problem: Problem, lanes: int = 3, item_parts: int = 2) -> OutsideItems:
    """The problem with its items' features outside of the blocks."""
    items = lanes_of_items(problem)
    blocks = replace(problem, items=[np.eye(ITEMS)]).records(lanes, item_parts)
    return OutsideItems(LocalOracle(blocks), LocalOracle(items), LocalOracle(lanes_of_features(items)), ITEMS)


def point(problem: Problem, seed: int = 9) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=problem.model.size)


def statistics(problem: Problem, beta: float) -> list[Statistic]:
    direction = problem.model.unravel(point(problem, 3))
    return [
        LossGradient(beta),
        Product(direction, True, beta),
        Product(direction, False, beta),
        FeatureCounts(),
        Averages(),
        Errors(0.0, 1.0),
    ]


@pytest.mark.parametrize("encoding", ["dense", "sparse", "mixed"])
@pytest.mark.parametrize("linear", [True, False])
@pytest.mark.parametrize("beta", [0.0, 0.3])
@pytest.mark.parametrize("activations", [("identity", "identity"), ("sigmoid", "tanh"), ("quadratic", "softplus(2)")])
def test_sums_are_those_of_an_evaluation_in_the_blocks(
    encoding: str, linear: bool, beta: float, activations: tuple[str, str]
) -> None:
    users, items = activations
    problem = small_problem(encoding, users_activation=users, items_activation=items, linear=linear)
    problem = unlabelled(problem, beta) if beta else problem
    at = problem.model.unravel(point(problem))
    requests = [Request(statistic, at) for statistic in statistics(problem, beta)]
    found = outside(problem).answer(problem.model, requests)
    wanted = problem.passes(3, 2).answer(problem.model, requests)
    widths = {"users": problem.model.users_width, "items": problem.model.items_width}
    for request, mine, theirs in zip(requests, found, wanted, strict=True):
        assert list(mine) == list(theirs)
        for name, value in theirs.items():
            if isinstance(value, tuple):
                a, b = (rows_of(sums, name, widths[name]) for sums in (mine, theirs))
            else:
                a, b = mine[name], value
            scale = 1e-12 * max(np.abs(b).max(), 1e-300)
            np.testing.assert_allclose(a, b, rtol=0, atol=scale, err_msg=f"{request.statistic} {name}")


def test_several_parameters_in_a_pass_are_as_many_passes() -> None:
    problem = small_problem(users_activation="tanh")
    sets = [problem.model.unravel(point(problem, seed)) for seed in range(3)]
    requests = [Request(s, at) for at in sets for s in statistics(problem, 0.0)]
    oracle = outside(problem)
    apart = [oracle.answer(problem.model, [request])[0] for request in requests]
    assert bits(oracle.answer(problem.model, requests)) == bits(apart)


def test_features_that_are_not_finite_are_counted() -> None:
    problem = small_problem("dense")
    problem.items[0][2, 1] = np.nan
    nothing = problem.model.unravel(np.zeros(problem.model.size))
    sums = outside(problem).run(FeatureCounts(), problem.model, [nothing])[0]
    assert sums["non_finite"][0] > 0


@pytest.mark.parametrize("statistic", [GaussNewton(), RowBlocks(), SideMoments()])
def test_statistics_of_the_features_themselves_are_refused(statistic: Statistic) -> None:
    problem = small_problem()
    with pytest.raises(UsageError, match=f"{type(statistic).__name__} needs the items' features in the blocks"):
        outside(problem).run(statistic, problem.model, [problem.model.unravel(point(problem))])


def test_the_transposed_of_the_transposed_is_the_part() -> None:
    problem = small_problem("sparse")
    part = lanes_of_items(problem)[0].payload
    assert isinstance(part, Part)
    once = entries(transposed(entries(part)))
    again = entries(transposed(Entries(once.row, once.column, once.value)))
    first = sorted(zip(*(a.tolist() for a in entries(part)), strict=True))
    assert sorted(zip(*(a.tolist() for a in again), strict=True)) == first
