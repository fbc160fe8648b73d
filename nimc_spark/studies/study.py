"""What a study is: a function that fills a page, given how thorough to be and a way to run many small problems."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from pyspark.sql import SparkSession

from nimc_spark.engine.parallel import map_tasks
from nimc_spark.reports.page import Page


@dataclass(frozen=True)
class Lab:
    """`quick` takes minutes, else the whole setting; `data` is the folder of real data sets, if there is one."""

    spark: SparkSession
    quick: bool
    seed: int
    data: Path | None = None

    def map(self, function: Callable[[Any], Any], arguments: Sequence[Any]) -> list[Any]:
        """The function over the arguments, as Spark tasks."""
        return map_tasks(self.spark, function, arguments)


class Study(Protocol):
    def __call__(self, lab: Lab) -> Page: ...
