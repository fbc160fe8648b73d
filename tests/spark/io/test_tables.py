"""The lake in both formats: commits, versions, partial replacement, contracts, the registry and the record of runs."""

from __future__ import annotations

import errno
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime
from pathlib import Path

import pytest
from py4j.protocol import Py4JJavaError
from pyspark.errors import PythonException
from pyspark.sql import DataFrame, SparkSession

from nimc_spark.engine.reasons import REASONS_TYPE
from nimc_spark.errors import DataError, SetupError, UsageError
from nimc_spark.io.contracts import ddl
from nimc_spark.io.failures import translated
from nimc_spark.io.registry import Registry
from nimc_spark.io.runs import Run, record_run
from nimc_spark.io.snapshots import current_snapshot, publish_snapshot, snapshot_rows
from nimc_spark.io.tables import Lake, Written, ensure_writable

MONDAY, TUESDAY = date(2025, 1, 6), date(2025, 1, 7)


@pytest.fixture(params=["delta", "parquet"])
def lake(request: pytest.FixtureRequest, spark: SparkSession, tmp_path: Path) -> Lake:
    return Lake(spark, str(tmp_path / "it's a `lake`"), request.param)


def rejected(lake: Lake, day: date, *rows: tuple[str, str]) -> DataFrame:
    return lake.spark.createDataFrame([(day, table, "run", "{}", why) for table, why in rows], ddl("quarantine"))


def reasons(lake: Lake, version: int | None = None) -> list[tuple[date, str, str]]:
    return sorted((r["run_date"], r["table"], r["reason"]) for r in lake.read("quarantine", version).collect())


def test_replacing_a_part_leaves_the_rest_and_old_versions(lake: Lake) -> None:
    assert lake.version("quarantine") is None
    lake.write("quarantine", rejected(lake, MONDAY, ("ratings", "a"), ("o'b\\", "b")))
    where = {"run_date": TUESDAY, "table": ["ratings", "users"]}
    first = lake.write("quarantine", rejected(lake, TUESDAY, ("ratings", "c"), ("users", "d")), replace_where=where)
    again = lake.write("quarantine", rejected(lake, TUESDAY, ("users", "e")), replace_where=where)
    assert (first, again) == (Written(1, 2), Written(2, 1))
    assert reasons(lake) == [(MONDAY, "o'b\\", "b"), (MONDAY, "ratings", "a"), (TUESDAY, "users", "e")]
    assert len(reasons(lake, 1)) == 4
    lake.write("quarantine", rejected(lake, MONDAY), replace_where={"table": "o'b\\"})
    assert reasons(lake) == [(MONDAY, "ratings", "a"), (TUESDAY, "users", "e")]
    assert lake.write("quarantine", rejected(lake, MONDAY), replace_where={"table": "x' OR '1' = '1"}).rows == 0
    assert len(reasons(lake)) == 2


@pytest.mark.parametrize(
    "before", [pytest.param("nothing", marks=pytest.mark.soak), "a table", "a folder without a commit"]
)
def test_a_column_of_times_without_a_zone_may_come_later(lake: Lake, before: str) -> None:
    if before == "a table":
        lake.write("users", lake.spark.sql("SELECT 1 AS user_id"))
    elif before != "nothing":
        Path(lake.path("users"), "_delta_log").mkdir(parents=True)
    for _ in range(2):
        lake.write("users", lake.spark.sql("SELECT 1 AS user_id, array(timestamp_ntz '2025-01-06 01:02:03') AS seen"))
        assert lake.read("users").collect() == [(1, [datetime(2025, 1, 6, 1, 2, 3)])]


def test_a_table_of_an_earlier_version_gets_the_columns_that_it_lacks(lake: Lake) -> None:
    columns = "run_date date, user_id int, rank int, item_id int, score double, score_source string"
    old = lake.spark.createDataFrame(
        [(MONDAY, 1, 1, 2, 3.0, "model", 1, "run")], f"{columns}, model_version int, run_id string"
    )
    path = lake.path("recommendations")
    if lake.format == "delta":
        old.write.format("delta").partitionBy("run_date").save(path)
    else:
        old.write.parquet(f"{path}/0")
    reason = [("items", "genre=Drama", 0.5)]
    new = lake.spark.createDataFrame(
        [(TUESDAY, 1, 1, 2, 3.0, "model", reason, 2, "run")],
        f"{columns}, reasons {REASONS_TYPE}, model_version int, run_id string",
    )
    lake.write("recommendations", new, replace_where={"run_date": TUESDAY})
    found = {row["run_date"]: row["reasons"] for row in lake.read("recommendations").collect()}
    assert found[MONDAY] is None
    assert [tuple(own) for own in found[TUESDAY]] == reason


def test_overwriting_takes_new_columns_of_any_name(lake: Lake) -> None:
    lake.write("users", lake.spark.createDataFrame([(1, 30)], "user_id int, age int"))
    odd = lake.spark.createDataFrame([("x", 1.5, 2)], "user_id string, `a.b c` double, `d``e` int")
    lake.write("users", odd)
    assert [tuple(row) for row in lake.read("users").collect()] == [("x", 1.5, 2)]
    assert lake.read("users").columns == ["user_id", "a.b c", "d`e"]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ("user_id int, item_id int", "table ratings: rating is missing; columns: user_id, item_id, rating"),
        ("user_id int, item_id int, rating float", "rating is float, must be double"),
        ("user_id double, item_id int, rating double", "user_id is double, must be an id"),
        ("user_id int, item_id int, rating double, x int", "x is not a column of this table"),
    ],
)
def test_a_schema_outside_the_contract_is_refused(lake: Lake, columns: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        lake.write("ratings", lake.spark.createDataFrame([], columns))
    assert lake.version("ratings") is None


def test_rows_outside_of_what_is_replaced_are_refused(lake: Lake) -> None:
    lake.write("quarantine", rejected(lake, MONDAY, ("ratings", "a")))
    with pytest.raises(DataError, match="outside"):
        lake.write("quarantine", rejected(lake, MONDAY, ("users", "b")), replace_where={"run_date": TUESDAY})
    assert reasons(lake) == [(MONDAY, "ratings", "a")]


def test_a_missing_table_or_version_is_named(lake: Lake) -> None:
    with pytest.raises(DataError, match=r"table users: there is none at .*users; run the job that writes it first"):
        lake.read("users")
    lake.write("users", lake.spark.createDataFrame([(1,)], "user_id int"))
    with pytest.raises(DataError, match="table users: version 7 cannot be read; the newest is 0"):
        lake.read("users", 7)


def test_a_run_is_recorded_with_its_numbers(lake: Lake) -> None:
    started = datetime(2025, 1, 6, 3, 4, 5, tzinfo=UTC)
    run = Run(
        "id", MONDAY, "train", started, 1.5, "failed", 5, "c", "0", {"users": 3}, {"in": 4}, "{}", {"fit": 1.0}, "x"
    )
    record_run(lake, run)
    record_run(lake, run)
    rows = lake.read("runs").collect()
    assert len(rows) == 2
    assert rows[0]["table_versions"] == {"users": 3}
    assert rows[0]["counts"] == {"in": 4}
    assert (rows[0]["exit_code"], rows[0]["seconds"], rows[0]["run_date"], rows[0]["error"]) == (5, 1.5, MONDAY, "x")


@pytest.mark.parametrize(
    "damage",
    ["NULL AS created", "NULL AS metrics", "'{' AS lineage", "'x' AS version", "NULL AS path", "'[]' AS metrics"],
)
def test_a_damaged_row_of_the_registry_is_said(spark: SparkSession, tmp_path: Path, damage: str) -> None:
    lake = Lake(spark, str(tmp_path), "parquet")
    registry = Registry(lake, "m")
    registry.register(registry.new_path())
    column = damage.rpartition(" ")[2]
    damaged = lake.read("models").drop(column).selectExpr("*", damage)
    damaged.write.parquet(f"{lake.path('models')}/1")
    with pytest.raises(DataError, match=r"registry: the row of version .* is damaged"):
        registry.resolve()


def test_a_snapshot_without_versions_is_said(spark: SparkSession, tmp_path: Path) -> None:
    lake = Lake(spark, str(tmp_path), "parquet")
    publish_snapshot(lake, {"ratings": 3}, "run", MONDAY)
    assert current_snapshot(lake) == {"ratings": 3}
    lake.read("snapshots").drop("table_versions").write.parquet(f"{lake.path('snapshots')}/1")
    with pytest.raises(DataError, match="run prepare again"):
        current_snapshot(lake)
    assert snapshot_rows(lake) == {}


def test_a_full_disk_is_said(spark: SparkSession) -> None:
    jvm = spark.sparkContext._jvm
    inner = jvm.java.io.IOException("No space left on device")
    failure = Py4JJavaError("saving", jvm.java.lang.RuntimeException("job aborted", inner))
    in_task = PythonException("Traceback:\n  File x\nOSError: [Errno 28] No space left on device\n")
    for error in (failure, in_task, OSError(errno.ENOSPC, "No space left on device")):
        known = translated(error, "table t")
        assert isinstance(known, SetupError)
        assert str(known).startswith("table t: a disk is full: ")
        assert "Traceback" not in str(known)


def test_a_file_system_that_spark_does_not_have_is_said(spark: SparkSession) -> None:
    for path in ("nofs://bucket/x", "s3a://bucket/x"):
        with pytest.raises(Exception, match="FileSystem") as caught:
            spark.read.parquet(path)
        known = translated(caught.value)
        assert isinstance(known, SetupError)
        assert "misspelt, or its jar is not on the class path" in str(known)


def test_the_registry_resolves_versions_and_aliases(lake: Lake) -> None:
    registry = Registry(lake, "m")
    with pytest.raises(DataError, match=r"model m: not in .*; there: none; run train first"):
        registry.resolve()
    first = registry.register(registry.new_path(), metrics={"rmse": 0.9}, lineage={"seed": 7})
    second = registry.register(registry.new_path())
    other = Registry(lake, "other")
    assert (first.version, second.version, other.register(other.new_path()).version) == (1, 2, 1)
    assert registry.resolve().version == 2
    registry.give("production", first)
    assert registry.resolve().version == 1
    assert registry.resolve("candidate").version == 2
    assert registry.resolve(2).path == second.path != first.path
    assert str(Path(second.path).parent) == lake.path("model_files/m")
    assert registry.entries()[0].metrics == {"rmse": 0.9}
    assert registry.resolve().metrics == {"rmse": 0.9}
    with pytest.raises(
        DataError, match=r"model m 5: not in .*; there: 1 \(candidate\), 1 \(production\), 2 \(candidate\)"
    ):
        registry.resolve(5)


@pytest.mark.soak
def test_two_at_once_never_get_one_version_number(lake: Lake) -> None:
    Registry(lake, "m").register(Registry(lake, "m").new_path())

    def register(number: int) -> int:
        registry = Registry(lake, "m")
        return registry.register(registry.new_path(), lineage={"number": number}).version

    with ThreadPoolExecutor(3) as together:
        versions = list(together.map(register, range(3)))
    assert sorted(versions) == [2, 3, 4]
    found = {entry.version: entry.lineage for entry in Registry(lake, "m").entries()[1:]}
    assert found == {version: {"number": number} for number, version in enumerate(versions)}


def test_of_two_appends_for_one_key_the_second_adds_nothing(lake: Lake) -> None:
    row = lake.spark.createDataFrame([(MONDAY, "id", datetime(2025, 1, 6), {"users": 1})], ddl("snapshots"))
    assert lake.append("snapshots", row, unless={"run_id": "id"})
    assert not lake.append("snapshots", row, unless={"run_id": "id"})
    assert lake.read("snapshots").count() == 1
    assert lake.append("snapshots", row)


@pytest.mark.parametrize("path", ["/etc", "model_files/../..", "../x", "", "model_files/other/1", "model_files/m/1/2"])
def test_a_registry_path_that_leaves_its_folder_is_not_followed(spark: SparkSession, tmp_path: Path, path: str) -> None:
    refuse_path(spark, tmp_path, path)


def test_a_registry_path_that_is_a_link_elsewhere_is_not_followed(spark: SparkSession, tmp_path: Path) -> None:
    (tmp_path / "model_files" / "m").mkdir(parents=True)
    (tmp_path / "model_files" / "m" / "1").symlink_to("/etc")
    refuse_path(spark, tmp_path, "model_files/m/1")


def refuse_path(spark: SparkSession, root: Path, path: str) -> None:
    lake = Lake(spark, str(root), "parquet")
    row = ("m", 1, "candidate", path, "{}", "{}", datetime(2025, 1, 6, tzinfo=UTC))
    lake.write("models", spark.createDataFrame([row], ddl("models")))
    with pytest.raises(DataError, match="leaves the folder"):
        Registry(lake, "m").resolve()


def test_a_folder_that_cannot_be_written_is_told_before_work(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SetupError, match="cannot be written: Not a directory"):
        ensure_writable(str(tmp_path / "file" / "lake"))
    ensure_writable(str(tmp_path / "new" / "lake"))
    assert list((tmp_path / "new" / "lake").iterdir()) == []


def test_parquet_needs_a_local_folder(spark: SparkSession) -> None:
    with pytest.raises(UsageError, match="format parquet needs a local folder"):
        Lake(spark, "s3://bucket/lake", "parquet")
