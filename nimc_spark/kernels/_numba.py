"""One door to numba, so that every loop has a plain fallback where numba is absent."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

try:
    if os.environ.get("NIMC_NUMBA", "1") == "0":
        raise ImportError("numba is switched off by NIMC_NUMBA=0")
    import numba

    HAVE_NUMBA = True
except ImportError:
    HAVE_NUMBA = False

# Full `fastmath` would fold isfinite to True; these four let a sum be vectorized and nothing else.
REASSOCIATE = frozenset({"reassoc", "contract", "nsz", "arcp"})


def jit(*, fastmath: frozenset[str] | bool = False) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """`numba.njit` with on-disk cache and without the GIL, or the function itself where numba is absent."""

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        if not HAVE_NUMBA:
            return function
        flags = set(fastmath) if isinstance(fastmath, frozenset) else fastmath
        try:
            compiled: Callable[..., Any] = numba.njit(cache=True, nogil=True, fastmath=flags)(function)
        except RuntimeError:
            # No folder for the cache can be written, as in some containers: compiled anew in each process.
            compiled = numba.njit(nogil=True, fastmath=flags)(function)
        return compiled

    return decorate
