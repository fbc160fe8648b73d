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
AUTO = "lbfgs"
SOLVER_NAMES = ("auto", *SOLVERS)


def solver(name: str, progress: Progress) -> Solver[Any]:
    """The solver called `name`; ``"auto"`` picks by the problem. Raises UsageError for another name."""
    key = AUTO if name == "auto" else name
    if key not in SOLVERS:
        raise UsageError(f"solver {name!r} is not known; allowed: {', '.join(SOLVER_NAMES)}")
    return SOLVERS[key](progress)
