"""Before work goes to a cluster: do its executors have what the driver has?"""

from __future__ import annotations

import logging
import sys

from pyspark.sql import SparkSession

from jobs._facts import PACKAGES, Facts, facts_of
from nimc_spark.engine.context import task_slots
from nimc_spark.errors import SetupError

_MOST_TASKS = 64
_HELP = (
    "give the executors the driver's environment: install requirements.lock on every machine, or ship its packages as "
    "docs/operations.md shows"
)


def check_executors(spark: SparkSession) -> None:
    """Runs a small task in each slot, and compares what it finds there with the driver.

    Raises SetupError that names the hosts, what they lack, and what to do.
    """
    slots = min(task_slots(spark), _MOST_TASKS)
    # Tasks of rows and columns would need Arrow to say that there is no Arrow.
    found = spark.sparkContext.parallelize(range(slots), slots).map(facts_of).collect()
    faults = sorted({fault for facts in found for fault in _faults(facts)})
    if faults:
        raise SetupError(f"{'; '.join(faults)}: {_HELP}")
    logging.getLogger("nimc").info("preflight: %d tasks have the driver's Python and packages", slots)


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
