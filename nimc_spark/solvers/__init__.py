"""Solvers as pure step functions over an `Oracle`; the registry names them.

Adding a solver is one module here and its entry in `SOLVERS`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from nimc_spark.errors import UsageError
from nimc_spark.solvers.adam import Adam
from nimc_spark.solvers.gd import Gd
from nimc_spark.solvers.gncg import Gncg
from nimc_spark.solvers.lbfgs import Lbfgs
from nimc_spark.solvers.lm import Lm
from nimc_spark.solvers.progress import Progress
from nimc_spark.solvers.solver import Solver

SOLVERS: Mapping[str, Callable[[Progress], Solver[Any]]] = {
    "lbfgs": Lbfgs,
    "lm": Lm,
    "gncg": Gncg,
    "gd": Gd,
    "adam": Adam,
}
SOLVER_NAMES = ("auto", *SOLVERS)
# Those that can be told the length of their steps.
STEPPED: Mapping[str, Callable[[Progress, float], Solver[Any]]] = {
    "gd": lambda progress, size: Gd(progress, size, constant=True),
    "adam": Adam,
}
# Their queries want matrices or their blocks, which are made of the items' features beside the ratings.
MATRIX_SOLVERS = ("lm", "gncg")
# Up to this many parameters a pass with the whole Gauss-Newton matrix costs little more than one without (measured:
# 1e6 ratings, p = 500), and lm takes a tenth of the passes.
MOST_AUTO_LM = 500
# The matrix of so many parameters takes 2 GB on the driver and on each task.
MOST_LM = 16_384


def chosen(name: str, parameters: int) -> str:
    """The solver that `name` stands for with so many parameters: "auto" picks lm for few, else lbfgs.

    Raises UsageError for an unknown name, and for lm with more parameters than a matrix can have.
    """
    if name not in SOLVER_NAMES:
        raise UsageError(f"solver {name!r} is not known; allowed: {', '.join(SOLVER_NAMES)}")
    if name == "lm" and parameters > MOST_LM:
        raise UsageError(
            f"solver lm with {parameters} parameters needs a matrix of {parameters**2 * 8 / 2**30:.0f} GB (at most "
            f"{MOST_LM} parameters are allowed): use lbfgs or gncg"
        )
    if name == "auto":
        return "lm" if parameters <= MOST_AUTO_LM else "lbfgs"
    return name


def solver(name: str, progress: Progress, step_size: float | None = None) -> Solver[Any]:
    """The solver called `name`, one of `SOLVERS`; with a `step_size`, in its variables, one of `STEPPED`."""
    return SOLVERS[name](progress) if step_size is None else STEPPED[name](progress, step_size)
