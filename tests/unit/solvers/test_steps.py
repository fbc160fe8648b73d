"""Every solver: known minima, stop reasons, NaN, and that a step is a pure function."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from nimc_spark.errors import UsageError
from nimc_spark.solvers import MOST_AUTO_LM, SOLVER_NAMES, SOLVERS, chosen, solver
from nimc_spark.solvers.adam import Adam
from nimc_spark.solvers.curvature import BlockDiagonal
from nimc_spark.solvers.gd import Gd
from nimc_spark.solvers.lanczos import extreme_eigenvalues
from nimc_spark.solvers.multistart import minimize
from nimc_spark.solvers.oracle import Evaluation
from nimc_spark.solvers.progress import Progress
from nimc_spark.solvers.solver import Iterate
from nimc_spark.solvers.stopping import StopReason
from tests.unit.solvers.functions import HESSIAN, MINIMUM, Counted, fenced, quadratic, rosenbrock

TIGHT = Progress(tolerance=0.0, gradient_tolerance=1e-7)
START = np.array([-2.0, 1.0, 2.0, -1.0])


# Adam goes its own way: it may rise, and ends near a minimum rather than at it.
DESCENDING = [name for name in SOLVERS if name != "adam"]
FIRST_ORDER = ["lbfgs", "gd"]


@pytest.fixture(params=DESCENDING)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_the_minimum_of_a_quadratic(name: str) -> None:
    outcome = minimize(Counted(quadratic), solver(name, TIGHT), [START], 400)[0]
    assert outcome.reason is StopReason.GRADIENT
    np.testing.assert_allclose(outcome.iterate.x, MINIMUM, rtol=0, atol=1e-6)
    assert outcome.iterate.value == pytest.approx(3.0, abs=1e-12)
    np.testing.assert_array_equal(outcome.iterate.gradient, quadratic(outcome.iterate.x)[1])


def test_lbfgs_needs_few_passes_on_a_quadratic() -> None:
    oracle = Counted(quadratic)
    minimize(oracle, solver("lbfgs", TIGHT), [START], 400)
    assert len(oracle.calls) <= 20


def test_lbfgs_on_rosenbrock() -> None:
    oracle = Counted(rosenbrock)
    outcome = minimize(oracle, solver("lbfgs", TIGHT), [np.array([-1.2, 1.0])], 100)[0]
    assert outcome.reason is StopReason.GRADIENT
    np.testing.assert_allclose(outcome.iterate.x, [1.0, 1.0], rtol=0, atol=1e-6)
    assert len(oracle.calls) <= 70


def test_gd_on_rosenbrock_falls_at_every_pass() -> None:
    losses: list[float] = []
    minimize(
        Counted(rosenbrock), solver("gd", TIGHT), [np.array([-1.2, 1.0])], 200, lambda r: losses.append(r.losses[0])
    )
    assert np.diff(losses).max() <= 0
    assert losses[-1] < losses[0] / 5


def test_a_start_at_the_minimum_stops_after_one_pass(name: str) -> None:
    oracle = Counted(quadratic)
    outcome = minimize(oracle, solver(name, TIGHT), [MINIMUM], 10)[0]
    assert (outcome.reason, oracle.calls) == (StopReason.GRADIENT, [1])
    np.testing.assert_array_equal(outcome.iterate.x, MINIMUM)


@pytest.mark.parametrize("bad", ["value", "gradient"])
def test_a_start_that_is_not_finite_fails(name: str, bad: str) -> None:
    def function(x: np.ndarray) -> tuple[float, np.ndarray]:
        return (np.inf, x) if bad == "value" else (1.0, np.full_like(x, np.nan))

    oracle = Counted(function)
    outcome = minimize(oracle, solver(name, TIGHT), [START], 10)[0]
    assert (outcome.reason, oracle.calls) == (StopReason.NON_FINITE, [1])
    assert outcome.reason.failed


@pytest.mark.parametrize("method", FIRST_ORDER)
def test_a_trial_that_is_not_finite_is_stepped_back_from(method: str) -> None:
    seen: list[bool] = []

    def function(x: np.ndarray) -> tuple[float, np.ndarray]:
        value, gradient = fenced(x)
        seen.append(np.isnan(value))
        return value, gradient

    start = MINIMUM + np.array([0.1, -0.1, 0.1, 0.1])
    outcome = minimize(Counted(function), solver(method, TIGHT), [start], 600)[0]
    assert any(seen)
    assert outcome.reason is StopReason.GRADIENT
    np.testing.assert_allclose(outcome.iterate.x, MINIMUM, rtol=0, atol=1e-6)


def test_the_pass_limit_is_not_called_anything_else(name: str) -> None:
    oracle = Counted(quadratic)
    outcome = minimize(oracle, solver(name, TIGHT), [START], 4)[0]
    assert (outcome.reason, oracle.calls) == (StopReason.MAX_PASSES, [1] * 4)
    assert not outcome.reason.failed
    assert outcome.iterate.value < quadratic(START)[0]


def test_a_loss_that_falls_too_little_stalls(name: str) -> None:
    progress = Progress(tolerance=1e-3, gradient_tolerance=0.0)
    outcome = minimize(Counted(quadratic), solver(name, progress), [START], 400)[0]
    assert outcome.reason is StopReason.STALLED
    assert outcome.iterate.value == pytest.approx(3.0, rel=1e-2)


@pytest.mark.parametrize("method", FIRST_ORDER)
def test_a_gradient_that_lies_ends_the_line_search(method: str) -> None:
    outcome = minimize(Counted(lambda x: (float(x @ x), -2 * x)), solver(method, TIGHT), [START], 200)[0]
    assert outcome.reason is StopReason.LINE_SEARCH
    np.testing.assert_array_equal(outcome.iterate.x, START)


def flat(value: Any) -> Any:
    """A state as plain data, arrays as bytes."""
    if isinstance(value, np.ndarray):
        return value.tobytes()
    if isinstance(value, BlockDiagonal):
        return flat(tuple(value.stacks))
    return [flat(v) for v in value] if isinstance(value, tuple) else value


def test_a_step_is_a_pure_function(name: str) -> None:
    method = solver(name, TIGHT)
    state = method.start(np.array([-1.2, 1.0]))
    for _ in range(8):
        answers = Counted(rosenbrock).answer(state.queries)
        before, kept = flat(state), flat(tuple(answers))
        once, twice = method.step(state, answers), method.step(state, answers)
        assert flat(once) == flat(twice)
        assert (flat(state), flat(tuple(answers))) == (before, kept)
        state = once


def test_lbfgs_keeps_at_most_memory_pairs_with_positive_curvature() -> None:
    method = SOLVERS["lbfgs"](TIGHT)
    state = method.start(np.array([-1.2, 1.0]))
    for _ in range(55):
        state = method.step(state, [Evaluation(*rosenbrock(state.trial))])
    assert len(state.pairs) == 20
    assert min(float(s @ y) for s, y in state.pairs) > 0


def test_gd_accepts_a_full_step_of_the_written_length() -> None:
    method = SOLVERS["gd"](TIGHT)
    state = method.step(method.start(START), [Evaluation(*quadratic(START))])
    np.testing.assert_allclose(state.trial, START - HESSIAN @ (START - MINIMUM), rtol=1e-14)


def test_a_constant_step_that_is_too_long_is_named() -> None:
    outcome = minimize(Counted(quadratic), Gd(TIGHT, step_size=1.9 / 2.0, constant=True), [START], 2000)[0]
    assert outcome.reason is StopReason.GRADIENT
    outcome = minimize(Counted(quadratic), Gd(TIGHT, step_size=4 / 2.0, constant=True), [START], 2000)[0]
    assert outcome.reason is StopReason.DIVERGED
    assert outcome.reason.failed
    assert np.isfinite(outcome.iterate.value)


def test_adam_comes_near_the_minimum_and_keeps_its_best_point() -> None:
    outcome = minimize(Counted(quadratic), Adam(TIGHT), [START], 600)[0]
    np.testing.assert_allclose(outcome.iterate.x, MINIMUM, rtol=0, atol=5e-3)
    assert outcome.reason in (StopReason.STALLED, StopReason.MAX_PASSES)
    wild = minimize(Counted(rosenbrock), Adam(TIGHT, step_size=1e200), [np.array([-1.2, 1.0])], 50)[0]
    assert wild.reason is StopReason.DIVERGED
    np.testing.assert_array_equal(wild.iterate.x, [-1.2, 1.0])


@pytest.mark.parametrize(("name", "passes"), [("lm", 40), ("gncg", 80)])
def test_second_order_solvers_on_rosenbrock(name: str, passes: int) -> None:
    oracle = Counted(rosenbrock)
    losses: list[float] = []
    start = [np.array([-1.2, 1.0])]
    outcome = minimize(oracle, solver(name, TIGHT), start, 200, lambda r: losses.append(r.losses[0]))[0]
    assert outcome.reason is StopReason.GRADIENT
    np.testing.assert_allclose(outcome.iterate.x, [1.0, 1.0], rtol=0, atol=1e-6)
    assert len(oracle.calls) <= passes
    assert np.diff(losses).max() <= 0


def test_a_step_of_lm_that_is_not_finite_is_tried_shorter() -> None:
    def function(x: np.ndarray) -> tuple[float, np.ndarray]:
        # Least at 0, and NaN beyond 1: from 0.9 a Newton step lands at −0.26 unless damped; from −0.9 at 0.26.
        if abs(x[0]) > 1:
            return float("nan"), np.array([np.nan])
        return float(np.log(np.cosh(6 * x[0]))), 6 * np.tanh(6 * x)

    oracle = Counted(function)
    outcome = minimize(oracle, solver("lm", TIGHT), [np.array([0.5])], 200)[0]
    assert outcome.reason is StopReason.GRADIENT
    np.testing.assert_allclose(outcome.iterate.x, [0.0], atol=1e-7)
    assert len(oracle.calls) > 8


@pytest.mark.parametrize("most_dense", [0, 500])
def test_extreme_eigenvalues(most_dense: int) -> None:
    oracle = Counted(quadratic)
    found = extreme_eigenvalues(oracle, START, np.ones(4, bool), most_dense=most_dense)
    assert found.products == len(oracle.calls)
    assert (found.products == 1) is (most_dense > 0)
    assert (found.least, found.largest) == (pytest.approx(0.5, rel=1e-5), pytest.approx(2.0, rel=1e-5))
    assert found.converged
    np.testing.assert_allclose(HESSIAN @ found.top, 2.0 * found.top, atol=1e-5)
    np.testing.assert_allclose(HESSIAN @ found.bottom, 0.5 * found.bottom, atol=1e-5)
    free = np.array([True, False, True, False])
    part = extreme_eigenvalues(Counted(quadratic), START, free, most_dense=most_dense)
    wanted = np.linalg.eigvalsh(HESSIAN[np.ix_([0, 2], [0, 2])])
    np.testing.assert_allclose([part.least, part.largest], wanted, rtol=1e-6)
    assert not part.top[~free].any()


@pytest.mark.parametrize("curvature", [0.0, 1.0, -2.0])
def test_lanczos_where_all_curvatures_are_one(curvature: float) -> None:
    def bowl(x: np.ndarray) -> tuple[float, np.ndarray]:
        return 0.5 * curvature * float(x @ x), curvature * x

    found = extreme_eigenvalues(Counted(bowl), np.ones(8), np.ones(8, bool), most_dense=0)
    assert (found.least, found.largest) == (pytest.approx(curvature, abs=1e-9), pytest.approx(curvature, abs=1e-9))
    assert found.converged


def test_lanczos_ends_near_its_limit_of_products() -> None:
    curvatures = np.linspace(0.1, 1.0, 200)

    def bowl(x: np.ndarray) -> tuple[float, np.ndarray]:
        return 0.5 * float(x @ (curvatures * x)), curvatures * x

    for limit, most, settles in ((3, 12, False), (60, 124, False), (2000, 200, True)):
        found = extreme_eigenvalues(Counted(bowl), np.ones(200), np.ones(200, bool), limit=limit, most_dense=0)
        assert (found.products <= most, found.converged) == (True, settles)
        assert 0.1 - 1e-9 < found.least <= found.largest < 1 + 1e-9


def iterate(value: float, gradient: float = 1.0) -> Iterate:
    return Iterate(np.zeros(1), value, np.array([gradient]))


def test_three_small_steps_in_a_row_stall() -> None:
    progress = Progress(tolerance=0.01, gradient_tolerance=1e-3)
    assert progress.judge(iterate(1.0), iterate(0.995), 0) == (1, None)
    assert progress.judge(iterate(1.0), iterate(0.995), 1) == (2, None)
    assert progress.judge(iterate(1.0), iterate(0.995), 2) == (3, StopReason.STALLED)
    assert progress.judge(iterate(1.0), iterate(0.5), 2) == (0, None)
    assert progress.judge(iterate(1.0), iterate(0.5, 1e-3), 2) == (2, StopReason.GRADIENT)
    assert progress.flat(Iterate(np.empty(0), 1.0, np.empty(0)))


def test_names() -> None:
    assert set(SOLVER_NAMES) == {"auto", "lbfgs", "lm", "gncg", "gd", "adam"}
    assert [chosen("auto", p) for p in (MOST_AUTO_LM, MOST_AUTO_LM + 1)] == ["lm", "lbfgs"]
    assert [chosen(name, 10**6) for name in ("lbfgs", "gncg", "gd", "adam")] == ["lbfgs", "gncg", "gd", "adam"]
    with pytest.raises(UsageError) as caught:
        chosen("newton", 10)
    assert str(caught.value) == "solver 'newton' is not known; allowed: auto, lbfgs, lm, gncg, gd, adam"
    with pytest.raises(UsageError, match="solver lm with 100000 parameters needs a matrix of 75 GB"):
        chosen("lm", 100_000)


def test_every_reason_has_its_own_message() -> None:
    assert len({reason.message for reason in StopReason}) == len(StopReason)
    assert [reason for reason in StopReason if reason.failed] == [StopReason.NON_FINITE, StopReason.DIVERGED]
