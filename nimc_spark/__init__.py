"""Nonlinear inductive matrix completion on Apache Spark: A(x, y) = φ(Uᵀx)ᵀ φ(Vᵀy)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nimc_spark.ml import NIMC, NIMCModel

__version__ = "0.1.0"
__all__ = ["NIMC", "NIMCModel", "__version__"]


def __getattr__(name: str) -> Any:
    # Loaded when asked for: a task that needs one kernel must not import the Spark ML API.
    if name in ("NIMC", "NIMCModel"):
        from nimc_spark import ml

        return getattr(ml, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
