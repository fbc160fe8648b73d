"""SparkOracle against LocalOracle, bit for bit; and what a pass must refuse."""

from __future__ import annotations

from dataclasses import replace

import pyarrow as pa
import pytest
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from nimc_spark.data.oracle import PassOracle
from nimc_spark.data.passes import Kind, Request
from nimc_spark.engine.blocks import BlockSet, GridLimits, Records, SideData, build_blocks
from nimc_spark.engine.profile import profile_ratings
from nimc_spark.engine.spark_oracle import FILES_SETTING, MERGE_FAN, SparkOracle
from nimc_spark.errors import SetupError
from nimc_spark.kernels.curvature import GaussNewton, Product, RowBlocks
from nimc_spark.kernels.model import Model, SideName
from nimc_spark.kernels.products import RatingGram, RatingProduct
from nimc_spark.kernels.statistics import Averages, FeatureCounts, LossGradient, Statistic
from tests.spark.engine.oracle_problem import RatingProblem, folder_of, local_oracle, model_of, random_parameters
from tests.unit.problems import bits

IDS_ALONE = {SideName.USERS: SideData(uses_id=True, constant=3.0), SideName.ITEMS: SideData(uses_id=True)}


def every_statistic(model: Model) -> list[Statistic]:
    """Each statistic of the library, with and without a complement where it can have one."""
    direction = random_parameters(model, 3)
    return [
        FeatureCounts(),
        Averages(),
        RatingProduct(),
        RatingGram(),
        *(
            statistic
            for beta in (0.0, 0.3)
            for statistic in (
                LossGradient(beta),
                Product(direction, True, beta),
                Product(direction, False, beta),
                GaussNewton(True, True, beta),
                RowBlocks(beta),
            )
        ),
    ]


def sums_of(oracle: PassOracle, model: Model) -> list[object]:
    """Bits of every statistic at two sets of parameters, all in one pass."""
    sets = [random_parameters(model, seed) for seed in (1, 2)]
    requests = [Request(statistic, parameters) for statistic in every_statistic(model) for parameters in sets]
    return [bits(sums) for sums in oracle.answer(model, requests)]


@pytest.mark.parametrize(
    ("dtype", "inputs"), [("float32", (1, 8)), pytest.param("float64", (3,), marks=pytest.mark.soak)]
)
def test_the_same_bits_as_one_process_however_the_ratings_are_partitioned(
    spark: SparkSession, problem: RatingProblem, dtype: str, inputs: tuple[int, ...]
) -> None:
    wanted = None
    for partitions in inputs:
        blocks = problem.blocks(dtype, partitions)
        assert len(blocks.lanes) > 2
        assert len({b.item_part for b in blocks.blocks}) > 1
        assert len({b.chunk for b in blocks.blocks}) > 1
        model = model_of(blocks, dtype)
        wanted = wanted or sums_of(local_oracle(blocks), model)
        assert sums_of(SparkOracle(spark, blocks), model) == wanted
        blocks.close()


def placed_on(records: DataFrame, slots: int) -> DataFrame:
    """The records as a cluster with another number of task slots would hold them."""
    lane, item_parts = F.col("lane"), F.col("kind") == int(Kind.ITEM_PART)
    everywhere = F.array(*(F.lit(slot) for slot in range(slots)))
    slot = F.explode(F.when(item_parts, everywhere).otherwise(F.array((lane % slots).cast("int"))))
    distinct = records.dropDuplicates(["lane", "kind", "item_part", "chunk"])
    placed = distinct.withColumn("slot", slot).repartitionById(slots, "slot")
    return placed.sortWithinPartitions("lane", "kind", "item_part", "chunk").drop("slot")


@pytest.mark.parametrize("slots", [3, *(pytest.param(n, marks=pytest.mark.soak) for n in (1, 7))])
def test_where_lanes_are_placed_does_not_matter(spark: SparkSession, blocks: BlockSet, slots: int) -> None:
    model = model_of(blocks, "float64")
    whole = placed_on(blocks.records.whole, slots)
    placed = replace(blocks, records=Records(whole, whole.drop("payload")))
    oracle, wanted = SparkOracle(spark, placed), sums_of(local_oracle(blocks), model)
    # By records, then by names.
    assert [sums_of(oracle, model) for _ in range(2)] == [wanted] * 2
    placed.records.remove_files()


class Arrivals:
    """Every Arrow table that reached the driver; the real `toArrow` is called."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, frame: DataFrame) -> None:
        self.tables: list[pa.Table] = []
        original = type(frame).toArrow

        def recording(received: DataFrame) -> pa.Table:
            self.tables.append(original(received))
            return self.tables[-1]

        monkeypatch.setattr(type(frame), "toArrow", recording)


def ids_alone(ratings: DataFrame, per_lane: int) -> BlockSet:
    return build_blocks(ratings, profile_ratings(ratings), IDS_ALONE, "float64", GridLimits(ratings_per_lane=per_lane))


def test_above_64_lanes_executors_merge_first(spark: SparkSession, monkeypatch: pytest.MonkeyPatch) -> None:
    user, item = F.col("id") % 250, (F.col("id") * 7 % 13).cast("int")
    ratings = spark.range(300).select(user.alias("user"), item.alias("item"), (F.col("id") % 5 + 0.1).alias("rating"))
    blocks = ids_alone(ratings, 1)
    assert len(blocks.lanes) > 2 * MERGE_FAN
    model = Model(2, 250, 13, dtype="float64")
    parameters = [random_parameters(model, seed) for seed in (1, 2)]
    wanted = local_oracle(blocks).run(LossGradient(), model, parameters)
    arrived = Arrivals(monkeypatch, blocks.records.whole)
    oracle = SparkOracle(spark, blocks)

    def passes() -> int:
        """How many results of a pass reached the driver, which was right."""
        arrived.tables.clear()
        assert bits(oracle.run(LossGradient(), model, parameters)) == bits(wanted)
        return sum(table.num_rows for table in arrived.tables)

    few = 2 * (max(blocks.lanes) // MERGE_FAN + MERGE_FAN.bit_length())
    assert passes() <= few
    assert passes() <= few
    (file,) = folder_of(spark, blocks).glob("7.1.*")
    file.unlink()
    # Lanes of one task are asked for again, the others are kept.
    assert passes() <= 2 * few
    assert (oracle.misses, file.exists()) == (1, True)
    blocks.close()
    assert not file.exists()


def test_files_can_be_switched_off(spark: SparkSession, blocks: BlockSet) -> None:
    model = model_of(blocks, "float64")
    folder = folder_of(spark, blocks)
    spark.conf.set(FILES_SETTING, "false")
    try:
        oracle = SparkOracle(spark, blocks)
    finally:
        spark.conf.unset(FILES_SETTING)
    assert [sums_of(oracle, model) for _ in range(2)] == [sums_of(local_oracle(blocks), model)] * 2
    assert not folder.exists()


def test_what_reaches_the_driver_does_not_grow_with_the_ratings(
    spark: SparkSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    rating = (F.col("id") % 5 + 0.1).alias("rating")
    sizes = []
    arrived = None
    for n in (100, 400):
        ratings = spark.range(n).select((F.col("id") % 20).alias("user"), (F.col("id") % 7).alias("item"), rating)
        blocks = ids_alone(ratings, n // 4)
        arrived = arrived or Arrivals(monkeypatch, blocks.records.whole)
        model = Model(2, 20, 7, dtype="float64")
        SparkOracle(spark, blocks).run(LossGradient(), model, [random_parameters(model, 1)])
        sizes.append((len(blocks.lanes), sorted(len(v) for v in arrived.tables[-1]["sums"].to_pylist())))
        blocks.close()
    assert sizes[0] == sizes[1]


def times(records: DataFrame, condition: Column, count: int) -> DataFrame:
    """Records that meet the condition `count` times in their place, all others once."""
    copies = F.when(condition, F.array_repeat(F.lit(1), count)).otherwise(F.array(F.lit(1)))
    return records.withColumn("copy", F.explode(copies)).drop("copy")


def test_a_lost_or_doubled_block_or_lane_is_no_result(spark: SparkSession, blocks: BlockSet) -> None:
    model = model_of(blocks, "float64")
    parameters = [random_parameters(model, 1)]
    a = sorted(blocks.blocks)[1]
    keys = zip(("lane", "item_part", "chunk"), a, strict=True)
    block = (F.col("kind") == int(Kind.BLOCK)) & F.array(*(F.col(n) == v for n, v in keys)).eqNullSafe(
        F.array(F.lit(True), F.lit(True), F.lit(True))
    )
    total = len(blocks.pieces)
    one_lane = blocks.records.whole.where(F.col("lane").isin(-1, a.lane))
    doctored = {
        total - 1: times(blocks.records.whole, block, 0),
        total + 1: times(blocks.records.whole, block, 2),
        total + sum(b.lane == a.lane for b in blocks.pieces): blocks.records.whole.union(
            one_lane.coalesce(1).sortWithinPartitions("lane", "kind", "item_part", "chunk")
        ),
    }
    for found, records in doctored.items():
        oracle = SparkOracle(spark, replace(blocks, records=Records(records, blocks.records.names)))
        with pytest.raises(SetupError, match=f"a pass returned {found} of {total} user parts and rating blocks"):
            oracle.run(FeatureCounts(), model, parameters)
