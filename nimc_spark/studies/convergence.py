"""How fast solvers reach the truth: Theorem 3.3 near it, and passes to an error from random starts."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from pyspark.sql import DataFrame, SparkSession

from nimc_spark.kernels.model import Parameters, SideName, Vector
from nimc_spark.ml import NIMC
from nimc_spark.ml.summary import TrainingSummary
from nimc_spark.reports.page import Cell, Lines, Page, Part, Table
from nimc_spark.solvers.adam import Adam
from nimc_spark.solvers.gd import Gd
from nimc_spark.solvers.gncg import Gncg
from nimc_spark.solvers.lanczos import extreme_eigenvalues
from nimc_spark.solvers.lbfgs import Lbfgs
from nimc_spark.solvers.lm import Lm
from nimc_spark.solvers.progress import Progress
from nimc_spark.studies.study import Lab
from nimc_spark.studies.synthetic import Matrix, Planted, Setting

NEVER = Progress(0.0, 1e-15)
TARGETS = (1e-3, 1e-8)
# Setting, and what a prototype needed for both targets: gd, Adam, L-BFGS, Newton-CG, Levenberg-Marquardt.
TABLE = {
    ("sigmoid", 100, 10, 5, 2.0, 1000): "940/3030, 650/1330, 64/144, 129/217, 10/11",
    ("tanh", 100, 10, 5, 5.0, 1000): "3115/13200, 1120/2580, 96/249, 181/338, 18/20",
    ("relu", 200, 10, 5, 2.0, 4000): "175/395, 185/400, 33/59, 107/145, 11/12",
    ("sigmoid", 200, 30, 10, 2.0, 6000): "4650/>10⁴, 715/1390, 154/308, 199/388, 23/25",
    ("tanh", 200, 30, 10, 2.0, 6000): "690/2750, 190/420, 61/130, 111/192, 13/14",
    ("relu", 200, 30, 10, 2.0, 6000): "1005/2050, 250/470, 87/144, 269/339, 24/25",
}
LIMITS = {"gd": 15000, "adam": 6000, "lbfgs": 1000, "gncg": 1000, "lm": 120}


class Race(NamedTuple):
    """A solver on a problem, from a random start (s U, V / s)."""

    setting: Setting
    solver: str
    stretch: float = 1.0


def convergence(lab: Lab) -> Page:
    """The local rate against the theorem's, and the race of the solvers."""
    races: list[Part] = [RACE, _race(lab), BALANCE, _balance(lab)]
    return Page("convergence", "Convergence", [INTRO, *_local(lab), *races, ON_SPARK, _on_spark(lab)])


def _local(lab: Lab) -> list[Part]:
    steps = 60 if lab.quick else 400
    settings = [Setting(name, 400, 10, 5, 1.0, 8000, lab.seed) for name in ("sigmoid", "tanh")]
    rows: list[list[Cell]] = []
    series: dict[str, tuple[list[float], list[float]]] = {}
    descents = lab.map(local_descent, [(s, steps) for s in settings])
    for setting, (least, largest, errors) in zip(settings, descents, strict=True):
        ratios = np.array(errors[1:]) / np.array(errors[:-1])
        # After the first steps only the slowest direction is left.
        rows.append([setting.activation, least, largest, 1 - least / largest, float(np.median(ratios[steps // 2 :]))])
        series[setting.activation] = ([float(t) for t in range(steps + 1)], errors)
    columns = ["φ", "M_l", "M_u", "bound 1 − M_l/M_u", "measured, median of the second half"]
    note = "Contraction of ‖θ − θ*‖ a step, step 1/M_u, fresh users, items and pairs each step."
    lines = Lines("local", "step", "‖θ − θ*‖ / ‖θ*‖", series, log_y=True)
    return [Table("rates", columns, rows, note), lines]


def local_descent(task: tuple[Setting, int]) -> tuple[float, float, list[float]]:
    """λ_min, λ_max at the truth, and relative distances to it over the steps of gradient descent on fresh samples."""
    setting, steps = task
    planted = Planted(setting)
    truth = planted.truth
    ends = extreme_eigenvalues(planted.oracle(), truth, np.ones(len(truth), dtype=bool), setting.seed)
    random = np.random.default_rng(setting.seed)
    theta = truth + 0.02 * np.linalg.norm(truth) * _unit(random.normal(size=len(truth)))
    errors = [float(np.linalg.norm(theta - truth) / np.linalg.norm(truth))]
    for _ in range(steps):
        fresh = planted.resampled(random)
        theta = theta - fresh.evaluate([theta])[0].gradient / ends.largest
        errors.append(float(np.linalg.norm(theta - truth) / np.linalg.norm(truth)))
    return ends.least, ends.largest, errors


def _unit(v: Vector) -> Vector:
    unit: Vector = v / np.linalg.norm(v)
    return unit


def _race(lab: Lab) -> Table:
    trials = 2 if lab.quick else 5
    solvers = _solvers(lab)
    keys = list(TABLE)[: 3 if lab.quick else None]
    races = [Race(Setting(*key, lab.seed + t), solver) for key in keys for solver in solvers for t in range(trials)]
    found = np.array(lab.map(passes_to_targets, races), dtype=np.float64).reshape(len(keys), len(solvers), trials, 2)
    rows: list[list[Cell]] = []
    for key, of_key in zip(keys, found, strict=True):
        name, n, d, k, kappa, pairs = key
        setting = f"{name} k{k} d{d} n{n} κ{kappa:g} |Ω|{pairs}"
        rows.append([setting, *(_passes(of_solver) for of_solver in of_key), TABLE[key]])
    columns = ["setting", *solvers, "prototype: gd, Adam, L-BFGS, Newton-CG, LM"]
    note = f"Median passes of {trials} problems to a relative error of 1e-3 / 1e-8 on fresh pairs."
    return Table("race", columns, rows, note)


def _solvers(lab: Lab) -> tuple[str, ...]:
    return ("lbfgs", "gncg", "lm") if lab.quick else tuple(LIMITS)


def _balance(lab: Lab) -> Table:
    trials, stretches = 2 if lab.quick else 5, (1.0, 3.0, 10.0)
    solvers = _solvers(lab)
    key = ("relu", 200, 10, 5, 2.0, 4000)
    races = [
        Race(Setting(*key, lab.seed + t), solver, stretch)
        for stretch in stretches
        for solver in solvers
        for t in range(trials)
    ]
    found = np.array(lab.map(passes_to_targets, races), dtype=np.float64).reshape(len(stretches), len(solvers), -1, 2)
    rows: list[list[Cell]] = [
        [stretch, *(_passes(of_solver) for of_solver in of_stretch)]
        for stretch, of_stretch in zip(stretches, found, strict=True)
    ]
    return Table("balance", ["s", *solvers], rows, f"Median passes of {trials} problems, as above.")


def _passes(found: np.ndarray) -> str:
    medians = np.median(found, axis=0)
    return "/".join("> limit" if np.isinf(m) else f"{m:.0f}" for m in medians)


def passes_to_targets(race: Race) -> tuple[float, ...]:
    """Passes from a random start until the error on fresh pairs is below each target; infinity where it is not."""
    planted = Planted(race.setting)
    # The papers' own variables for the papers' own methods: step 1/M_u of gd, M_u at the truth.
    scaled = planted.scaled()
    solver = _solver(race.solver, planted)
    drawn = planted.model.unravel(planted.starts(1)[0])
    start = planted.model.ravel(Parameters(drawn.users * race.stretch, drawn.items / race.stretch))
    state = solver.start(scaled.to_scaled(start))
    reached = dict.fromkeys(TARGETS, np.inf)
    for number in range(1, LIMITS[race.solver] + 1):
        state = solver.step(state, scaled.answer(state.queries))
        error = planted.error(scaled.from_scaled(state.best.x))
        for target in TARGETS:
            if error <= target:
                reached[target] = min(reached[target], number)
        if state.stopped is not None or np.isfinite(reached[TARGETS[-1]]):
            break
    return tuple(reached.values())


def _solver(name: str, planted: Planted) -> Any:
    if name == "gd":
        free = np.ones(planted.model.size, dtype=bool)
        ends = extreme_eigenvalues(planted.scaled(), planted.scaled().to_scaled(planted.truth), free)
        return Gd(NEVER, step_size=1 / ends.largest, constant=True)
    return {"adam": Adam, "lbfgs": Lbfgs, "gncg": Gncg, "lm": Lm}[name](NEVER)


def _on_spark(lab: Lab) -> Table:
    """The first setting of the race as a user would train it: `NIMC` on DataFrames, four random starts."""
    name, n, d, k, kappa, pairs = next(iter(TABLE))
    rows: list[list[Cell]] = []
    for solver, limit in {"lm": 40, "lbfgs": 300}.items():
        for number in range(1 if lab.quick else 3):
            planted = Planted(Setting(name, n, d, k, kappa, pairs, lab.seed + number))
            summary, error = trained_on_spark(lab.spark, planted, solver, limit)
            rows.append([solver, lab.seed + number, limit, summary.passes, summary.reason, error])
    columns = ["solver", "seed", "limit of passes", "passes", "stopped", "relative error on fresh pairs"]
    return Table("spark", columns, rows, f"{name}, k {k}, d {d}, n {n}, |Ω| {pairs}, κ {kappa:g}.")


def trained_on_spark(spark: SparkSession, planted: Planted, solver: str, limit: int) -> tuple[TrainingSummary, float]:
    """What `NIMC` says of its training on the planted problem, and its relative error on fresh users × items."""
    nimc = NIMC(
        **{"rank": planted.setting.k, "activation": planted.setting.activation, "solver": solver, "maxIter": limit},
        **{"linear": False, "baseline": [], "regParam": 0.0, "clip": False, "dtype": "float64"},
        **{"starts": 4, "initSpread": 1.0, "tol": 0.0, "seed": planted.setting.seed},
    )
    o = planted.observations
    ratings = spark.createDataFrame(pd.DataFrame({"user": o.user, "item": o.item, "rating": o.rating}))
    users, items = (_vectors(spark, name, m) for name, m in (("user", planted.X), ("item", planted.Y)))
    model = nimc.setUsers(users).setItems(items).fit(ratings)
    theta = np.concatenate([model.trained.sides[side].declared.ravel() for side in SideName])
    return model.summary, planted.error(theta)


def _vectors(spark: SparkSession, name: str, rows: Matrix) -> DataFrame:
    return spark.createDataFrame(
        [(i, row.tolist()) for i, row in enumerate(rows)], f"{name} long, features array<double>"
    )


INTRO = """Gradient descent near the truth with a fresh sample each step, as in Theorem 3.3: the logarithm of the
error falls along a line, within the theorem's bound (in the form 1 − M_l/M_u of its proof, corrected)."""
ON_SPARK = """## The same on Spark

The first of these problems through `NIMC(...).fit` on DataFrames: the best of four random starts by training loss."""
BALANCE = """## ReLU and unbalanced starts

Scaling u_i by s and v_i by 1/s changes no score, but from a random start (s U, V / s) first-order methods need many
times the passes, or fail. Random starts are balanced as they are drawn: the pre-activations of both sides have the same
spread, and gradient steps keep |u_i|² − |v_i|² nearly as it is, so columns are not balanced again on the way. `gncg`
and `lm` do not mind."""
RACE = """## From a random start

Each pass is one loss and gradient, one Hessian or Gauss-Newton product, or one loss, gradient and JᵀJ."""
