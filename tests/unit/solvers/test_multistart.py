"""Several starts in the same passes: as many passes as the slowest, the same bits as alone, the best one kept."""

from __future__ import annotations

import json

import numpy as np
import pytest

from nimc_spark.solvers import SOLVERS, solver
from nimc_spark.solvers.multistart import Course, Outcome, PassRecord, Race, Watch, best_outcome, minimize
from nimc_spark.solvers.oracle import ScaledOracle
from nimc_spark.solvers.plain import from_plain, to_plain
from nimc_spark.solvers.progress import Progress
from nimc_spark.solvers.solver import Iterate
from nimc_spark.solvers.stopping import StopReason
from tests.unit.solvers.functions import Counted, rosenbrock

PROGRESS = Progress(tolerance=1e-10, gradient_tolerance=1e-8)
STARTS = [np.array([-1.2, 1.0]), np.array([1.0, 1.0]), np.array([0.9, 0.8]), np.array([2.0, -1.0])]


@pytest.mark.parametrize("name", list(SOLVERS))
def test_starts_share_passes_and_equal_separate_runs_bitwise(name: str) -> None:
    together, method = Counted(rosenbrock), solver(name, PROGRESS)
    outcomes = minimize(together, method, STARTS, 60)
    lengths = []
    for start, outcome in zip(STARTS, outcomes, strict=True):
        alone = Counted(rosenbrock)
        single = minimize(alone, method, [start], 60)[0]
        lengths.append(len(alone.calls))
        assert single.reason is outcome.reason
        assert single.iterate.x.tobytes() == outcome.iterate.x.tobytes()
        assert single.iterate.value == outcome.iterate.value
    assert lengths[1] == 1
    assert together.calls == [sum(n > number for n in lengths) for number in range(max(lengths))]


def test_passes_are_reported_with_the_best_loss_of_each_start() -> None:
    records: list[PassRecord] = []
    outcomes = minimize(Counted(rosenbrock), solver("lbfgs", PROGRESS), STARTS, 12, records.append)
    assert [record.number for record in records] == list(range(1, 13))
    losses = np.array([record.losses for record in records])
    np.testing.assert_allclose(losses[0], [rosenbrock(x)[0] for x in STARTS], rtol=1e-15)
    assert np.diff(losses, axis=0).max() <= 0
    assert losses[-1].tolist() == [outcome.iterate.value for outcome in outcomes]


def test_problems_over_one_data_set_share_passes_until_they_leave() -> None:
    data, method = Counted(rosenbrock), solver("lbfgs", PROGRESS)
    scales = [np.array([1.0, 1.0]), np.array([0.5, 2.0]), np.array([2.0, 1.0])]
    views = [ScaledOracle(data, scale) for scale in scales]
    race = Race([(view, view.to_scaled(STARTS[0])) for view in views], method)
    race.advance(6)
    race.leave(1)
    race.advance(100)
    assert data.calls[:7] == [3] * 6 + [2]
    assert race.passes == len(data.calls)
    alone = [
        minimize(view, method, [view.to_scaled(STARTS[0])], passes)[0]
        for view, passes in zip(views, (106, 6, 106), strict=True)
    ]
    for found, single in zip(race.outcomes(), alone, strict=True):
        assert found.reason is single.reason
        assert found.iterate.x.tobytes() == single.iterate.x.tobytes()


class Keeping(Watch):
    """Keeps every course as plain data, and ends or fails as it is told."""

    def __init__(self, begun: Course | None = None, stop: int | None = None) -> None:
        self.begun, self.stop = begun, stop
        self.kept: list[Course] = []
        self.left: Course | None = None

    def begin(self, course: Course) -> Course:
        return self.begun or course

    def after(self, course: Course) -> StopReason | None:
        arrays: list[np.ndarray] = []
        text = json.dumps(to_plain(course.states, arrays))
        copies = [array.copy(order="K") for array in arrays]
        self.kept.append(Course(from_plain(json.loads(text), copies), course.losses))
        return StopReason.MAX_SECONDS if len(course.losses) == self.stop else None

    def interrupted(self, course: Course) -> None:
        self.left = course


@pytest.mark.parametrize("name", list(SOLVERS))
def test_a_course_goes_on_from_any_pass_with_the_same_bits(name: str) -> None:
    method, whole = solver(name, PROGRESS), Keeping()
    records: list[PassRecord] = []
    expected = minimize(Counted(rosenbrock), method, STARTS, 25, records.append, whole)
    for course in whole.kept:
        again: list[PassRecord] = []
        found = minimize(Counted(rosenbrock), method, STARTS, 25, again.append, Keeping(course))
        assert [(o.reason, o.iterate.x.tobytes(), o.iterate.value) for o in found] == [
            (o.reason, o.iterate.x.tobytes(), o.iterate.value) for o in expected
        ]
        assert again == records


def test_a_watch_ends_a_minimization_and_hears_of_a_failure() -> None:
    method = solver("lbfgs", PROGRESS)
    outcomes = minimize(Counted(rosenbrock), method, STARTS, 60, watch=Keeping(stop=3))
    assert [o.reason for o in outcomes] == [
        StopReason.MAX_SECONDS,
        StopReason.GRADIENT,
        StopReason.MAX_SECONDS,
        StopReason.MAX_SECONDS,
    ]

    def fail(record: PassRecord) -> None:
        if record.number == 5:
            raise KeyboardInterrupt

    watch = Keeping()
    with pytest.raises(KeyboardInterrupt):
        minimize(Counted(rosenbrock), method, STARTS, 60, fail, watch)
    assert watch.left is not None
    assert len(watch.left.losses) == 5


def test_a_state_of_unknown_parts_has_no_plain_form() -> None:
    with pytest.raises(TypeError, match="a solver's state holds a set"):
        to_plain({1}, [])


def outcome(value: float, reason: StopReason) -> Outcome:
    return Outcome(Iterate(np.zeros(1), value, np.zeros(1)), reason)


def test_the_smallest_loss_among_the_starts_that_did_not_fail_is_kept() -> None:
    failed = outcome(float("nan"), StopReason.NON_FINITE)
    good, better = outcome(2.0, StopReason.GRADIENT), outcome(1.0, StopReason.MAX_PASSES)
    assert best_outcome([failed, good, better]) is better
    assert best_outcome([better, good, failed]) is better
    assert best_outcome([failed, good]) is good
    assert best_outcome([failed, failed]).reason is StopReason.NON_FINITE
    assert best_outcome([good, outcome(2.0, StopReason.STALLED)]) is good


def test_the_best_start_is_told_from_others_with_arrays_of_its_shape() -> None:
    outcomes = [outcome(2.0, StopReason.STALLED), outcome(1.0, StopReason.STALLED), outcome(1.5, StopReason.STALLED)]
    assert outcomes.index(best_outcome(outcomes)) == 1


def test_one_failed_start_does_not_stop_the_others() -> None:
    def function(x: np.ndarray) -> tuple[float, np.ndarray]:
        return (float("inf"), x) if x[0] > 5 else rosenbrock(x)

    outcomes = minimize(Counted(function), solver("lbfgs", PROGRESS), [np.array([9.0, 0.0]), STARTS[0]], 100)
    assert [o.reason for o in outcomes] == [StopReason.NON_FINITE, StopReason.GRADIENT]
    np.testing.assert_allclose(best_outcome(outcomes).iterate.x, [1.0, 1.0], atol=1e-7)
