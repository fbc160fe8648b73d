"""Properties of jobs: what their tasks see, and that it ends with them."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa
import pytest
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from nimc_spark.engine.context import batches_by_rows, described

_LIMIT, _TEXT = "spark.sql.execution.arrow.maxBytesPerBatch", "spark.job.description"


def _sizes(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        yield pa.RecordBatch.from_pydict({"rows": pa.array([batch.num_rows], pa.int64())})


def test_batches_end_by_rows_inside_and_by_bytes_outside(spark: SparkSession) -> None:
    large = spark.range(0, 70, 1, 1).select(F.repeat(F.lit("x"), 1 << 20).alias("megabyte"))
    sizes = large.mapInArrow(_sizes, "rows long")
    with batches_by_rows(spark):
        assert [row.rows for row in sizes.collect()] == [70]
    assert len(sizes.collect()) > 1


def test_properties_end_with_their_block_also_by_an_error(spark: SparkSession) -> None:
    found = spark.sparkContext.getLocalProperty
    before = found(_LIMIT), found(_TEXT)
    with described(spark, "outer"), batches_by_rows(spark):
        with described(spark, "inner"):
            assert found(_TEXT) == "inner"
        with pytest.raises(ValueError, match="boom"), described(spark, "inner"):
            raise ValueError("boom")
        assert (found(_LIMIT), found(_TEXT)) == ("2147483647", "outer")
    assert (found(_LIMIT), found(_TEXT)) == before
