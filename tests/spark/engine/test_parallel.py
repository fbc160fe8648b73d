"""A function over a list as Spark tasks."""

from __future__ import annotations

import pytest
from pyspark.errors import PythonException
from pyspark.sql import SparkSession

from nimc_spark.engine.parallel import map_tasks


def squared(number: int) -> int:
    if number < 0:
        raise ValueError(f"{number} is negative")
    return number * number


def test_results_come_in_the_order_of_the_arguments(spark: SparkSession) -> None:
    assert map_tasks(spark, squared, [3, 1, 2, 1]) == [9, 1, 4, 1]
    assert map_tasks(spark, squared, []) == []


def test_a_failing_task_says_why(spark: SparkSession) -> None:
    with pytest.raises(PythonException, match="-1 is negative"):
        map_tasks(spark, squared, [1, -1])
