"""Generated problems, the same bits from the same seed, on disk as Parquet and as the `BlockSet` that passes read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pyspark.ml.functions import array_to_vector
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from nimc_spark.data.passes import Record
from nimc_spark.engine.blocks import BlockSet, GridLimits, SideData, build_blocks
from nimc_spark.engine.profile import profile_ratings
from nimc_spark.engine.spark_oracle import decode_record
from nimc_spark.kernels.model import Model, Parameters, SideName

_ROWS_PER_FILE = 1_000_000
_SPREAD = 0.3


@dataclass(frozen=True)
class Setting:
    """|Ω|, users, items, dense attributes of each side (0: ids alone), rank k."""

    ratings: int
    users: int
    items: int
    users_width: int
    items_width: int
    rank: int

    @property
    def model(self) -> Model:
        return Model(self.rank, self.users_width or self.users, self.items_width or self.items)


# Users, items, attributes and rank of MovieLens-1M, at 1e6 ratings.
S = Setting(1_000_000, 6040, 3883, 29, 38, 50)
# Of a catalogue and its users, attributes alone.
M = Setting(10_000_000, 100_000, 20_000, 64, 64, 32)


def write(setting: Setting, folder: Path, seed: int = 1) -> None:
    """Parquet files ratings/, users/ and items/: standard normal attributes, ratings 1 … 5, pairs drawn at random."""
    generator = np.random.default_rng(seed)
    for side, rows, width in (
        ("users", setting.users, setting.users_width),
        ("items", setting.items, setting.items_width),
    ):
        if width:
            values = generator.standard_normal((rows, width), np.float32)
            _write(folder / side, 0, {"id": pa.array(np.arange(rows)), "values": pa.array(list(values))})
    for number, first in enumerate(range(0, setting.ratings, _ROWS_PER_FILE)):
        count = min(_ROWS_PER_FILE, setting.ratings - first)
        columns = {
            "user": generator.integers(setting.users, size=count),
            "item": generator.integers(setting.items, size=count),
            "rating": generator.integers(1, 6, size=count).astype(np.float64),
        }
        _write(folder / "ratings", number, {name: pa.array(values) for name, values in columns.items()})


def _write(folder: Path, number: int, columns: dict[str, pa.Array]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), folder / f"{number:05d}.parquet")


def blocks(spark: SparkSession, setting: Setting, folder: Path, limits: GridLimits) -> BlockSet:
    """The records of the files that `write` made, in float32."""
    ratings = spark.read.parquet(str(folder / "ratings"))
    sides = {
        SideName.USERS: _side(spark, folder / "users", setting.users_width),
        SideName.ITEMS: _side(spark, folder / "items", setting.items_width),
    }
    return build_blocks(ratings, profile_ratings(ratings), sides, setting.model.dtype, limits)


def _side(spark: SparkSession, folder: Path, width: int) -> SideData:
    if not width:
        return SideData(uses_id=True)
    features: DataFrame = spark.read.parquet(str(folder))
    return SideData(features.select("id", array_to_vector(F.col("values")).alias("features")), width)


def start(model: Model, seed: int = 2) -> Parameters:
    """Random parameters, as a pass in the midst of training has them."""
    return model.unravel(_SPREAD * np.random.default_rng(seed).standard_normal(model.size))


def partitions(block_set: BlockSet) -> list[list[Record]]:
    """The decoded records of each partition, in the order in which its task reads them."""
    held: dict[int, list[Record]] = {}
    table = block_set.records.whole.withColumn("partition", F.spark_partition_id()).toArrow()
    for row in table.to_pylist():
        number = row.pop("partition")
        held.setdefault(number, []).append(decode_record(**row))
    return [held[number] for number in sorted(held)]


def every_record(block_set: BlockSet) -> list[Record]:
    """The decoded records, each once, however many partitions have a copy."""
    return list({r[:4]: r for records in partitions(block_set) for r in records}.values())
