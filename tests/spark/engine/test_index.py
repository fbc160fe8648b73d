"""Index of ids: places depend on the ids alone, whatever their type and partitioning; ids match by value."""

from __future__ import annotations

from decimal import Decimal

import pytest
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from nimc_spark.engine.index import align_id, id_type, index_ids
from nimc_spark.errors import DataError


@pytest.mark.parametrize("partitions", [1, 3, 8])
def test_positions_count_the_ids_of_a_part_in_order(spark: SparkSession, partitions: int) -> None:
    ids = spark.range(200).select((F.col("id") * 37 % 211).alias("the id")).repartition(partitions)
    rows = index_ids(ids, "the id", 4).collect()
    assert {row.id for row in rows} == {i * 37 % 211 for i in range(200)}
    parts: dict[int, list[tuple[int, int]]] = {}
    for row in rows:
        parts.setdefault(row.part, []).append((row.id, row.position))
    assert sorted(parts) == [0, 1, 2, 3]
    for members in parts.values():
        assert [position for _, position in sorted(members)] == list(range(len(members)))
        assert len(members) > 30


def test_an_id_keeps_its_part_in_every_type(spark: SparkSession) -> None:
    ids = spark.range(50)
    by_type = [
        {int(row.id): row.part for row in index_ids(ids.select(F.col("id").cast(kind)), "id", 7).collect()}
        for kind in ("int", "long", "string")
    ]
    assert by_type[0] == by_type[1] == by_type[2]


@pytest.mark.parametrize(
    ("source", "target", "values", "aligned"),
    [
        ("int", "int", [7, None], [7, None]),
        ("string", "int", ["7", "07", "abc", "1.5", None], [7, None, None, None, None]),
        ("double", "int", [7.0, 1.5, 1e300, float("nan")], [7, None, None, None]),
        ("long", "int", [7, 2**40], [7, None]),
        ("long", "string", [7, -1], ["7", "-1"]),
        ("double", "string", [7.0, -1.0, 1.5, 1e300, float("nan")], ["7", "-1", "1.5", "1.0E300", "NaN"]),
        ("decimal(9,2)", "string", [Decimal("7.00"), Decimal("7.50")], ["7", "7.50"]),
        ("string", "double", ["7", "7.0", "1.5", "abc", None], [7.0, None, 1.5, None, None]),
    ],
)
def test_align_id(spark: SparkSession, source: str, target: str, values: list, aligned: list) -> None:
    df = spark.createDataFrame([(value,) for value in values], f"id {source}")
    kind = spark.createDataFrame([], f"id {target}").schema["id"].dataType
    rows = df.select(align_id(F.col("id"), df.schema["id"].dataType, kind).alias("id")).collect()
    assert [row.id for row in rows] == aligned


@pytest.mark.parametrize(
    ("source", "target"), [("date", "int"), ("bigint", "timestamp"), ("binary", "date"), ("binary", "int")]
)
def test_types_of_which_nothing_converts_are_refused(spark: SparkSession, source: str, target: str) -> None:
    df = spark.createDataFrame([], f"one {source}, other {target}")
    with pytest.raises(DataError, match=f"ids are {source} in one table and {target} in another"):
        align_id(F.col("one"), id_type(df, "one"), id_type(df, "other"))


@pytest.mark.parametrize("kind", ["array<int>", "map<string,int>", "struct<a:int>", "variant"])
def test_what_is_no_id_is_refused(spark: SparkSession, kind: str) -> None:
    df = spark.createDataFrame([], f"id {kind}")
    with pytest.raises(DataError, match="ids are single values"):
        id_type(df, "id")
