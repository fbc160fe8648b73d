"""Two scorers at once: for one date one of them wins and the other says so, for two dates both do."""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from pathlib import Path
from threading import Barrier

import pytest
from pyspark.sql import SparkSession

from jobs import score
from jobs._config import load_config
from jobs._job import LOGGER, Context, exit_code
from nimc_spark.errors import ConflictError
from nimc_spark.io.tables import Lake
from tests.jobs.conftest import Night
from tests.jobs.tiny import K, Workplace

MONDAY, TUESDAY = date(2025, 2, 3), date(2025, 2, 4)


class Together(logging.Handler):
    """Holds each of two jobs where it says that it is about to write, until the other has come as far."""

    def __init__(self) -> None:
        super().__init__()
        self.barrier = Barrier(2, timeout=300)

    def createLock(self) -> None:
        """None: the one that waits must not keep the other out."""
        self.lock = None

    def emit(self, record: logging.LogRecord) -> None:
        if record.getMessage() == "score: write":
            self.barrier.wait()


@pytest.fixture
def place(night: Night, tmp_path: Path) -> Workplace:
    return night.copied(tmp_path)


def both(place: Workplace, spark: SparkSession, *dates: date) -> list[BaseException | None]:
    """How the scorers ended, whose writes began at one time."""
    path = place.arguments({})[1]

    def run(day: date) -> BaseException | None:
        context = Context("score", load_config(path), day)
        try:
            with context.kept:
                score.body(context)
        except Exception as error:
            return error
        return None

    handler = Together()
    level = LOGGER.level
    LOGGER.addHandler(handler)
    LOGGER.setLevel(logging.INFO)
    try:
        with ThreadPoolExecutor(2) as threads:
            return list(threads.map(run, dates))
    finally:
        LOGGER.removeHandler(handler)
        LOGGER.setLevel(level)


@pytest.mark.soak
def test_for_one_date_one_wins_and_the_other_says_so(place: Workplace, spark: SparkSession) -> None:
    ended = both(place, spark, MONDAY, MONDAY)
    assert ended.count(None) == 1
    (lost,) = (error for error in ended if error is not None)
    assert isinstance(lost, ConflictError)
    assert exit_code(lost) == 1
    assert str(lost).endswith("another writer committed first; this write changed nothing, run it again")
    lists = Lake(spark, str(place.lake)).read("recommendations").where("run_date = '2025-02-03'")
    assert lists.select("run_id").distinct().count() == 1
    assert lists.groupBy("user_id").count().where(f"count > {K}").isEmpty()


@pytest.mark.soak
def test_for_two_dates_both_succeed(place: Workplace, spark: SparkSession) -> None:
    assert both(place, spark, MONDAY, TUESDAY) == [None, None]
    lists = Lake(spark, str(place.lake)).read("recommendations")
    assert lists.select("run_date").distinct().count() == 3
