"""The few lists that people are shown."""

from __future__ import annotations

from pathlib import Path

from pyspark.sql import SparkSession

from jobs._config import parse_config
from jobs._samples import samples
from tests.jobs.tiny import tiny


def test_where_lists_are_short_there_are_still_no_more_users(spark: SparkSession, tmp_path: Path) -> None:
    rows = [(user, rank, 7, 0.5, None) for user in (4, 2, 3, 1) for rank in range(1, user + 1)]
    lists = spark.createDataFrame(rows, "user_id int, rank int, item_id int, score double, reasons string")
    found = samples(parse_config(tiny(tmp_path).config), lists, None)
    assert [(own["user_id"], len(own["items"])) for own in found] == [(1, 1), (2, 2), (3, 3)]
