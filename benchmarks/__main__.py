"""`python -m benchmarks [SUITE] ...`: what is measured, by name; by default the quick ones, with FULL=1 all."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable

from pyspark.sql import SparkSession

from benchmarks import (
    accuracy_u1,
    batches,
    complement,
    curvature,
    defaults,
    histories,
    iteration,
    new_users,
    nightly,
    passes,
    race,
    scale,
    small,
    tiles,
    topk,
)
from benchmarks.report import Row, publish
from jobs._session import open_session
from nimc_spark.errors import NimcError

_SUITES: dict[str, tuple[str, Callable[[SparkSession], list[Row]]]] = {
    "passes": ("What a pass costs", passes.run),
    "scale": ("Growth with the number of ratings", scale.run),
    "curvature": ("Second-order passes", curvature.run),
    "iteration": ("A pass against an iteration of others", iteration.run),
    "nightly": ("A night's lists, from Delta tables to one", nightly.run),
    "batches": ("Rows on their way to Python", batches.run),
    "race": ("Ids alone against ALS, MovieLens-1M", race.run),
    "complement": ("What a complement adds to a pass", complement.run),
    "histories": ("Item histories in the blocks and outside of them", histories.run),
    "small": ("Small data on the driver and as Spark jobs", small.run),
    "tiles": ("Item parts for the cache", tiles.run),
    "topk": ("The best items of everybody", topk.run),
    "defaults": ("Why the defaults are what they are", defaults.run),
    "new_users": ("New users through the jobs, MovieLens-100k", new_users.run),
    "u1": ("Ids alone against ALS, MovieLens-100k u1", accuracy_u1.run),
}

# Twenty minutes together.
_QUICK = ("passes", "scale", "curvature", "small", "topk", "nightly")

# Over jobs/_conf: the optimizing JIT, since here queries run many times; stacks for the long lineages of ALS; and room
# for 1e7 histories in every partition.
_SETTINGS = {"spark.ui.enabled": "false", "spark.driver.memory": "8g", "spark.driver.extraJavaOptions": "-Xss16m"}


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description="Measured times, as ratios within one run"
    )
    default = list(_SUITES) if os.environ.get("FULL") == "1" else list(_QUICK)
    parser.add_argument("suites", nargs="*", metavar="SUITE", help=f"of {', '.join(_SUITES)}")
    chosen = parser.parse_args().suites or default
    unknown = sorted(set(chosen) - set(_SUITES))
    if unknown:
        parser.error(f"unknown suite {', '.join(unknown)}; there are: {', '.join(_SUITES)}")
    spark = open_session("nimc-benchmarks", _SETTINGS, delta=False)
    spark.sparkContext.setLogLevel("ERROR")
    try:
        for name in chosen:
            title, run = _SUITES[name]
            publish(name, title, run(spark))
    finally:
        spark.stop()


if __name__ == "__main__":
    try:
        main()
    except NimcError as error:
        sys.exit(f"error: {error}")
