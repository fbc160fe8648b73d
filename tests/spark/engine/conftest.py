"""The problem of `oracle_problem.py` with its blocks, made once for each module that asks for it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from pyspark.sql import SparkSession

from nimc_spark.engine.blocks import BlockSet
from tests.spark.engine.oracle_problem import RatingProblem, rating_problem


@pytest.fixture(scope="module")
def problem(spark: SparkSession) -> RatingProblem:
    return rating_problem(spark)


@pytest.fixture(scope="module")
def blocks(problem: RatingProblem) -> Iterator[BlockSet]:
    built = problem.blocks()
    yield built
    built.close()
