from __future__ import annotations

import math
import random
from typing import TYPE_CHECKING

import pytest
from pyspark.sql import functions as F

from nimc_spark.engine.sums import exact_sum

if TYPE_CHECKING:
    from pyspark.sql import SparkSession


def test_the_bits_do_not_depend_on_partitions_or_order(spark: SparkSession) -> None:
    draw = random.Random(5)
    values = [draw.gauss(0, 1) * 10.0 ** draw.randint(-6, 3) for _ in range(2000)]
    scale = max(map(abs, values))
    sums = set()
    for parts in (1, 2, 7):
        draw.shuffle(values)
        df = spark.createDataFrame([(x,) for x in values], "x double").repartition(parts)
        sums.add(df.select(exact_sum(F.col("x"), scale)).collect()[0][0])
    assert len(sums) == 1
    assert sums.pop() == pytest.approx(math.fsum(values), abs=2000 * 2.0**-59 * scale)


def test_ratings_in_half_stars_are_summed_without_rounding(spark: SparkSession) -> None:
    df = spark.range(0, 1001).select((F.col("id") % 11 / 2).alias("r"))
    assert df.select(exact_sum(F.col("r"), 5.0)).collect()[0][0] == sum(k % 11 / 2 for k in range(1001))


def test_nulls_are_left_out_and_nothing_sums_to_null(spark: SparkSession) -> None:
    df = spark.createDataFrame([(1, 0.5), (1, None), (2, None), (3, 0.0)], "g int, x double")
    found = df.groupBy("g").agg(exact_sum(F.col("x"), 0.5)).sort("g").collect()
    assert [tuple(row) for row in found] == [(1, 0.5), (2, None), (3, 0.0)]
    assert df.where("g = 3").select(exact_sum(F.col("x"), 0.0)).collect()[0][0] == 0.0
