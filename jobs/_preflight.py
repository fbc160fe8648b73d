"""Before work goes to a cluster: do its executors have what the driver has?"""

from __future__ import annotations

import importlib
import logging
import platform
import socket
import sys
import tempfile
from collections.abc import Mapping

from pyspark.sql import SparkSession

from nimc_spark import __version__
from nimc_spark.engine.context import task_slots
from nimc_spark.engine.parallel import map_tasks
from nimc_spark.errors import SetupError

# Those whose results or formats a task shares with the driver.
PACKAGES = ("pyspark", "numpy", "scipy", "numba", "pyarrow", "pydantic", "threadpoolctl")
_MOST_TASKS = 64
_HELP = (
    "give the executors the driver's environment: install requirements.lock on every machine, or ship its packages as "
    "docs/operations.md shows"
)
Facts = Mapping[str, str]


def check_executors(spark: SparkSession) -> None:
    """Runs a small task in each slot, and compares what it finds there with the driver.

    Raises SetupError that names the hosts, what they lack, and what to do.
    """
    slots = min(task_slots(spark), _MOST_TASKS)
    faults = sorted({fault for facts in map_tasks(spark, facts_of, range(slots)) for fault in _faults(facts)})
    if faults:
        raise SetupError(f"{'; '.join(faults)}: {_HELP}")
    logging.getLogger("nimc").info("preflight: %d tasks have the driver's Python and packages", slots)


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


def _faults(facts: Facts) -> list[str]:
    """What differs from the driver's own; of Python the first two numbers count."""
    own = facts_of(0)
    wrong = [
        f"{name} is {facts[name]} on {facts['host']}, {own[name]} on the driver"
        for name in (*PACKAGES, "nimc_spark")
        if facts[name] != own[name]
    ]
    if facts["python"].split(".")[:2] != [str(number) for number in sys.version_info[:2]]:
        wrong.append(f"Python is {facts['python']} on {facts['host']}, {own['python']} on the driver")
    if facts["scratch"] != "writable":
        wrong.append(f"the scratch folder on {facts['host']} cannot be written: {facts['scratch']}")
    return wrong
