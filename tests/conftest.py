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
    # Tests run short queries, each once: the optimizing JIT costs more than it gives back. Without it the JVM keeps 48
    # MB of compiled code, which generated classes fill within a minute: then nothing is compiled any more.
    "spark.driver.extraJavaOptions": "-XX:TieredStopAtLevel=1 -XX:ReservedCodeCacheSize=512m",
}


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
