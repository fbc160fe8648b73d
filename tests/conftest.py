"""Fixtures of all tests. The session is made when the first test asks for it, so that `tests/unit` starts no JVM."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from jobs._settings import local_jars

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

TEST_SETTINGS = {
    "spark.master": "local[2]",
    "spark.ui.enabled": "false",
    "spark.sql.adaptive.enabled": "false",
    "spark.sql.shuffle.partitions": "1",
    "spark.default.parallelism": "2",
    "spark.databricks.delta.snapshotPartitions": "1",
    # Code for a query that runs once takes longer to generate than it saves, and nobody looks at the plans: a small fit
    # took 0.75 of the time with these three. Jobs that tests submit run without them.
    "spark.sql.codegen.wholeStage": "false",
    "spark.sql.ui.explainMode": "simple",
    "spark.sql.maxPlanStringLength": "100",
    # Tests run short queries, each once: the optimizing JIT costs more than it gives back. Without it the JVM keeps 48
    # MB of compiled code, which generated classes fill within a minute: then nothing is compiled any more.
    "spark.driver.extraJavaOptions": "-XX:TieredStopAtLevel=1 -XX:ReservedCodeCacheSize=512m -XX:+UseParallelGC",
}


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Function]) -> None:
    """The first module that needs the night of `tests/jobs` begins, the others that do come last: one process makes it
    for a minute, and meanwhile the other one has tests that do without."""
    needing = list(dict.fromkeys(item.path for item in items if "night" in item.fixturenames))
    items.sort(key=lambda item: 0 if item.path in needing[:1] else 1 + (item.path in needing))


@pytest.fixture(scope="session")
def spark(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SparkSession]:
    """One local session with Delta, shared by all tests."""
    from jobs._session import open_session

    if not local_jars():
        pytest.fail("no Delta jars in .jars/: run `make setup` once", pytrace=False)
    os.environ["PYSPARK_PYTHON"] = sys.executable
    warehouse = tmp_path_factory.mktemp("warehouse")
    session = open_session("nimc-tests", {**TEST_SETTINGS, "spark.sql.warehouse.dir": str(warehouse)})
    yield session
    session.stop()
