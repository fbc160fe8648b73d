"""What Spark takes to cut rows into the batches that it sends to Python (decision 023).

null / empty        100,000 rows with a list, null in all or empty in all, on their way into `mapInArrow`
bytes / rows        5,000,000 rows of five numbers in batches that end by their bytes or by rows alone
"""

from __future__ import annotations

from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from benchmarks.passes import empty_job
from benchmarks.report import Row, in_turns, row
from nimc_spark.engine.context import batches_by_rows, held

_LISTS, _ROWS = 100_000, 5_000_000


def run(spark: SparkSession) -> list[Row]:
    """A row of each ratio."""
    lists = {
        name: spark.range(0, _LISTS, 1, 2).withColumn("list", value.cast("array<double>"))
        for name, value in (("empty", F.array()), ("null", F.lit(None)))
    }
    numbers = spark.range(0, _ROWS, 1, 2).select(*(F.col("id").cast("int").alias(name) for name in "abcde"))
    with held(numbers) as rows:
        rows.count()

        def by_rows() -> None:
            with batches_by_rows(spark):
                empty_job(rows)()

        times = in_turns(
            {
                **{name: empty_job(own) for name, own in lists.items()},
                "bytes": empty_job(rows),
                "rows": by_rows,
            },
            rounds=5,
            calls=1,
            warm_up=1,
        )
    found = []
    for slow, fast in (("null", "empty"), ("bytes", "rows")):
        ratios = [a.clock / b.clock for a, b in zip(times[slow], times[fast], strict=True)]
        found.append(row(f"{slow} / {fast}", ratios, ".1f"))
        found += [row(f"{name}, ms", [1e3 * r.clock for r in times[name]], ".0f") for name in (slow, fast)]
    return found
