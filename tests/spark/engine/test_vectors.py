"""Vectors and lists → arrays: dense, sparse, null and empty rows, slices, and what Spark really sends."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import pyarrow as pa
from pyspark.ml.linalg import Vectors
from pyspark.sql import SparkSession
from pyspark.sql.types import StructType

from nimc_spark.engine.vectors import Csr, csr_of_vectors, matrix_of_lists, without_null_lists

VECTOR = pa.struct(
    [
        ("type", pa.int8()),
        ("size", pa.int32()),
        ("indices", pa.list_(pa.int32())),
        ("values", pa.list_(pa.float64())),
    ]
)
DENSE = {"type": 1, "size": None, "indices": None, "values": [1.0, 0.0, -2.5]}
SPARSE = {"type": 0, "size": 3, "indices": [0, 2], "values": [0.0, 4.0]}
EMPTY = {"type": 0, "size": 3, "indices": [], "values": []}
ROWS = {"dense": [1.0, 0.0, -2.5], "sparse": [0.0, 0.0, 4.0], "zero": [0.0, 0.0, 0.0]}


def full(csr: Csr, width: int) -> list[list[float]]:
    matrix = np.zeros((csr.rows, width))
    matrix[np.repeat(np.arange(csr.rows), np.diff(csr.indptr)), csr.indices] = csr.data
    return matrix.tolist()


def test_dense_sparse_null_and_empty_rows() -> None:
    column = pa.array([DENSE, None, SPARSE, EMPTY, DENSE], VECTOR)
    csr = csr_of_vectors(column)
    wanted = [ROWS["dense"], ROWS["zero"], ROWS["sparse"], ROWS["zero"], ROWS["dense"]]
    assert full(csr, 3) == wanted
    assert csr.indptr.tolist() == [0, 2, 2, 3, 3, 5]
    for first in range(5):
        assert full(csr_of_vectors(column.slice(first, 2)), 3) == wanted[first : first + 2]


def test_no_row_and_only_nulls() -> None:
    assert csr_of_vectors(pa.array([], VECTOR)).rows == 0
    nulls = csr_of_vectors(pa.array([None, None], VECTOR))
    assert (nulls.rows, len(nulls.data)) == (2, 0)


def test_lists_of_one_width_and_nulls() -> None:
    column = pa.array([None, [1.0, 2.0], None, [3.0, 4.0]], pa.list_(pa.float64()))
    wanted = [[0.0, 0.0], [1.0, 2.0], [0.0, 0.0], [3.0, 4.0]]
    assert matrix_of_lists(column, 2).tolist() == wanted
    for first in range(4):
        assert matrix_of_lists(column.slice(first, 1), 2).tolist() == wanted[first : first + 1]
    empty = pa.array([[], [1.0, 2.0], [], [3.0, 4.0]], pa.list_(pa.float64()))
    assert matrix_of_lists(empty, 2).tolist() == wanted


def _entries(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        csr = csr_of_vectors(batch.column("features"))
        rows = np.repeat(batch.column("id").to_numpy(), np.diff(csr.indptr)).astype(np.int32)
        yield pa.RecordBatch.from_arrays([pa.array(v) for v in (rows, csr.indices, csr.data)], ["row", "c", "v"])


def test_what_spark_sends(spark: SparkSession) -> None:
    rows = [(0, Vectors.dense(1.0, 0.0, -2.5)), (1, None), (2, Vectors.sparse(3, {2: 4.0})), (3, Vectors.sparse(3, {}))]
    entries = (
        spark.createDataFrame(rows, ["id", "features"]).coalesce(1).mapInArrow(_entries, "row int, c int, v double")
    )
    assert [tuple(row) for row in entries.collect()] == [(0, 0, 1.0), (0, 2, -2.5), (2, 2, 4.0)]


def _nulls(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        vectors = batch.column("features").flatten()
        lists = [batch.column("l"), batch.column("structs"), *(own for own in vectors if pa.types.is_list(own.type))]
        yield pa.RecordBatch.from_pydict({"nulls": pa.array([sum(own.null_count for own in lists)], pa.int64())})


def test_no_null_list_reaches_python_and_the_numbers_stay(spark: SparkSession) -> None:
    rows = [
        (0, Vectors.dense(1.0, 0.0, -2.5), None, [(1, 2.0)]),
        (1, None, [1.0], None),
        (2, Vectors.sparse(3, {2: 4.0}), None, None),
    ]
    ddl = "id long, features array<double>, l array<double>, structs array<struct<i: int, v: double>>"
    kind = spark.createDataFrame([(row[1],) for row in rows], ["features"]).schema["features"]
    schema = StructType([kind if field.name == "features" else field for field in StructType.fromDDL(ddl)])
    df = spark.createDataFrame(rows, schema)
    given, sent = df.coalesce(1), without_null_lists(df.coalesce(1))
    assert [row.nulls for row in given.mapInArrow(_nulls, "nulls long").collect()] == [7]
    assert [row.nulls for row in sent.mapInArrow(_nulls, "nulls long").collect()] == [0]
    entries = "row int, c int, v double"
    assert sent.mapInArrow(_entries, entries).collect() == given.mapInArrow(_entries, entries).collect()
