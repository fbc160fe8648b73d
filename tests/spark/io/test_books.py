"""Books of what came in: each row is used or in quarantine, and what does not add up is no result."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import pytest
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from nimc_spark.errors import DataError
from nimc_spark.io.books import Books, keep_books
from nimc_spark.io.quarantine import REASON, Classified
from nimc_spark.io.tables import Lake


def classified(spark: SparkSession, *reasons: str | None) -> Classified:
    """A row for each reason, numbered from 0; of those that have none the numbers are used."""
    rows = spark.createDataFrame(list(enumerate(reasons)), f"id INT, {REASON} STRING")
    rejected = rows.where(F.col(REASON).isNotNull()).select(F.col("id").cast("string").alias("row"), REASON)
    return Classified(
        rows, rows.where(F.col(REASON).isNull()).select("id"), rejected.withColumnRenamed(REASON, "reason")
    )


def kept(lake: Lake, **tables: Classified) -> Books:
    wheres = {name: f"{name} (file)" for name in tables}
    return keep_books(lake, tables, wheres, "run", date(2025, 1, 6), prefix="filters.", may_be_empty=["deny_1"])


@pytest.fixture
def lake(spark: SparkSession, tmp_path: Path) -> Lake:
    return Lake(spark, str(tmp_path), "parquet")


def test_rows_are_used_or_in_quarantine(lake: Lake) -> None:
    spark = lake.spark
    books = kept(lake, allow_1=classified(spark, None, "odd", None, "even"), deny_1=classified(spark))
    assert books.counts == {
        **{"allow_1_in": 4, "allow_1_used": 2, "allow_1_quarantined": 2},
        **{"deny_1_in": 0, "deny_1_used": 0, "deny_1_quarantined": 0},
    }
    assert books.reasons == {"allow_1": {"odd": 1, "even": 1}, "deny_1": {}}
    rows = [(row["table"], row["row"], row["reason"]) for row in lake.read("quarantine").orderBy("row").collect()]
    assert rows == [("filters.allow_1", "1", "odd"), ("filters.allow_1", "3", "even")]


def test_a_table_without_a_row_that_can_be_used_is_refused(lake: Lake) -> None:
    with pytest.raises(DataError, match=r"^allow_1 \(file\): none of 3 rows can be used: odd: 2; even: 1$"):
        kept(lake, allow_1=classified(lake.spark, "odd", "even", "odd"))
    assert lake.read("quarantine").count() == 3
    with pytest.raises(DataError, match=r"^allow_1 \(file\): is empty: it has no row$"):
        kept(lake, allow_1=classified(lake.spark))


def test_a_source_that_changes_between_counting_and_writing_is_no_result(lake: Lake) -> None:
    counted, written = classified(lake.spark, None, "odd", "odd"), classified(lake.spark, None, "odd")
    changed = Classified(counted.rows, counted.used, written.rejected)
    with pytest.raises(DataError, match=r"^table quarantine: 1 rows written, 2 counted: the source changed meanwhile$"):
        kept(lake, allow_1=changed)
