"""What a process has of Python and packages. Nothing but the standard library is imported: it may have no more."""

from __future__ import annotations

import importlib
import platform
import socket
import tempfile
from collections.abc import Mapping

from nimc_spark import __version__

# Those whose results or formats a task shares with the driver.
PACKAGES = ("pyspark", "numpy", "scipy", "numba", "pyarrow", "pydantic", "threadpoolctl")
Facts = Mapping[str, str]


def facts_of(task: int) -> Facts:
    """What the process that runs this has: Python, packages, and whether the compiler's cache can be written."""
    found = {"host": socket.gethostname(), "python": platform.python_version(), "nimc_spark": __version__}
    for name in PACKAGES:
        try:
            found[name] = importlib.import_module(name).__version__
        except ImportError:
            found[name] = "missing"
    try:
        with tempfile.TemporaryFile():
            found["scratch"] = "writable"
    except OSError as error:
        found["scratch"] = str(error.strerror)
    return found
