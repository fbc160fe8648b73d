"""A small problem with every kind of feature, and its rating blocks, for the tests of blocks and passes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pyspark.ml.linalg import Vectors
from pyspark.sql import DataFrame, SparkSession

from nimc_spark.data.local import LocalOracle
from nimc_spark.engine.blocks import BlockSet, GridLimits, SideData, build_blocks
from nimc_spark.engine.profile import profile_ratings
from nimc_spark.engine.spark_oracle import decode_record
from nimc_spark.kernels.model import Model, Parameters, SideName

USERS, ITEMS, COUNT = 14, 9, 70
DENSE_WIDTH, SPARSE_WIDTH = 3, 8
# Several lanes, several item parts, and cells of more than one chunk.
LIMITS = GridLimits(ratings_per_lane=15, ratings_per_chunk=5, rows_per_part=4)


@dataclass(frozen=True)
class RatingProblem:
    """Ratings with repeats, weights and offsets; users have dense vectors, items sparse ones; both have ids too.

    User 0 and item 0 have no attribute row; one user and one item of the tables have no rating.
    """

    ratings: DataFrame
    rows: list[tuple[int, str, float, float, float]]
    sides: Mapping[SideName, SideData]
    user_vectors: Mapping[int, np.ndarray]
    item_vectors: Mapping[str, np.ndarray]

    def blocks(self, dtype: str = "float64", partitions: int = 2, limits: GridLimits = LIMITS) -> BlockSet:
        ratings = self.ratings.repartition(partitions)
        return build_blocks(ratings, profile_ratings(ratings), self.sides, dtype, limits)


def rating_problem(spark: SparkSession) -> RatingProblem:
    random = np.random.default_rng(7)
    user, item = random.integers(0, USERS, COUNT), random.integers(0, ITEMS, COUNT)
    user[:USERS], item[:ITEMS] = np.arange(USERS), np.arange(ITEMS)
    user[-3:], item[-3:] = 1, 1
    rating = random.normal(3, 1, COUNT)
    rating[-2:] = rating[-3]
    weight, offset = random.uniform(0.5, 2, COUNT), random.normal(0, 0.3, COUNT)
    rows = [
        (int(u), f"item {i}", float(r), float(w), float(o))
        for u, i, r, w, o in zip(user, item, rating, weight, offset, strict=True)
    ]
    dense = {u: random.normal(size=DENSE_WIDTH) for u in range(1, USERS + 1)}
    sparse = {f"item {i}": random.normal(size=SPARSE_WIDTH) * (random.random(SPARSE_WIDTH) < 0.2) for i in range(1, 10)}
    users = spark.createDataFrame([(u, Vectors.dense(x.tolist())) for u, x in dense.items()], ["id", "features"])
    entries = {i: {int(c): float(y[c]) for c in np.flatnonzero(y)} for i, y in sparse.items()}
    items = spark.createDataFrame(
        [(i, Vectors.sparse(SPARSE_WIDTH, y)) for i, y in entries.items()], ["id", "features"]
    )
    biases = spark.createDataFrame([(u, 0.25 * u) for u in range(0, USERS, 2)], "id long, offset double")
    sides = {
        SideName.USERS: SideData(users, DENSE_WIDTH, True, biases, 3.0),
        SideName.ITEMS: SideData(items, SPARSE_WIDTH, True),
    }
    ratings = spark.createDataFrame(rows, "user long, item string, rating double, weight double, offset double")
    return RatingProblem(ratings.coalesce(1), rows, sides, dense, sparse)


def model_of(blocks: BlockSet, dtype: str) -> Model:
    users, items = (blocks.sides[side].count for side in SideName)
    return Model(3, DENSE_WIDTH + users, SPARSE_WIDTH + items, "tanh", "sigmoid", True, dtype)


def random_parameters(model: Model, seed: int) -> Parameters:
    return model.unravel(np.random.default_rng(seed).normal(0, 0.5, model.size))


def local_oracle(blocks: BlockSet) -> LocalOracle:
    """The same records in this process."""
    return LocalOracle(decode_record(*row) for row in blocks.records.whole.collect())


def persisted(spark: SparkSession) -> int:
    """How many DataFrames Spark holds."""
    count: int = spark.sparkContext._jsc.getPersistentRDDs().size()
    return count


def folder_of(spark: SparkSession, blocks: BlockSet) -> Path:
    """Where tasks of a local master leave the files of the blocks."""
    environment = spark.sparkContext._jvm.org.apache.spark.SparkEnv.get()
    scratch: str = environment.blockManager().diskBlockManager().localDirsString()[0]
    return Path(scratch, "nimc", blocks.records.dataset)
