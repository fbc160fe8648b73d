"""Settings, versions and Java, as far as they can be checked without a JVM."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from jobs._settings import (
    CONF,
    ROOT,
    check_java,
    check_versions,
    default_settings,
    find_java,
    launch_environment,
    read_settings,
)
from nimc_spark.errors import SetupError


def fake_java(folder: Path, answer: str, exit_code: int = 0) -> str:
    java = folder / "bin" / "java"
    java.parent.mkdir(parents=True)
    java.write_text(f"#!/bin/sh\necho '{answer}' >&2\nexit {exit_code}\n")
    java.chmod(0o755)
    return str(java)


def test_settings_are_read_as_spark_reads_them(tmp_path: Path) -> None:
    path = tmp_path / "some.conf"
    path.write_text("# comment\n\nspark.a   1\nspark.b=x y\nspark.c = -Da=b\n")
    assert read_settings(path) == {"spark.a": "1", "spark.b": "x y", "spark.c": "-Da=b"}


def test_setting_without_value_is_named_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "some.conf"
    path.write_text("spark.a 1\nspark.b\n")
    with pytest.raises(SetupError, match=r"line 2: 'spark\.b' is no setting"):
        read_settings(path)


def test_settings_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match=r"none\.conf: No such file"):
        read_settings(tmp_path / "none.conf")


def test_delta_settings_only_where_delta_is() -> None:
    plain, delta = default_settings(delta=False, local=False), default_settings(delta=True, local=False)
    assert plain["spark.sql.session.timeZone"] == "UTC"
    assert plain["spark.executorEnv.OMP_NUM_THREADS"] == "1"
    assert set(delta) - set(plain) == {
        "spark.sql.extensions",
        "spark.sql.catalog.spark_catalog",
        "spark.databricks.delta.snapshotPartitions",
    }


@pytest.mark.parametrize("version", ["4.2.0", "4.2.7"])
def test_the_tested_pair_passes(version: str) -> None:
    check_versions(version, "4.4.0")


@pytest.mark.parametrize(
    ("spark", "delta", "words"),
    [
        ("4.1.1", "4.4.0", r"Spark 4\.1\.1 with Delta 4\.4\.0, but Spark 4\.2\.x.*pip install 'pyspark~=4\.2\.0'"),
        ("4.2.0", "4.4.1", r"Delta 4\.4\.1 does not fit Spark 4\.2\.0.*delta-spark==4\.4\.0"),
        ("4.2.0", None, r"no Delta on its class path.*make setup.*io\.delta:delta-spark_4\.2_2\.13:4\.4\.0"),
        ("4.20.0", "4.4.0", r"Spark 4\.20\.0"),
    ],
)
def test_another_pair_is_refused_with_what_to_install(spark: str, delta: str | None, words: str) -> None:
    with pytest.raises(SetupError, match=words) as caught:
        check_versions(spark, delta)
    assert caught.value.exit_code == 6


def test_java_home_goes_before_path(tmp_path: Path) -> None:
    java = fake_java(tmp_path, "")
    assert find_java({"JAVA_HOME": str(tmp_path), "PATH": ""}) == java
    assert find_java({"PATH": str(tmp_path / "bin")}) == java


def test_no_java() -> None:
    with pytest.raises(SetupError, match="no java found in PATH: install a full Java 17 or newer"):
        find_java({"PATH": ""})
    with pytest.raises(SetupError, match="no java found in JAVA_HOME=/nowhere"):
        find_java({"JAVA_HOME": "/nowhere", "PATH": "/usr/bin"})


@pytest.mark.parametrize("version", ["17.0.15", "21", "25.0.1"])
def test_java_new_enough(tmp_path: Path, version: str) -> None:
    check_java(fake_java(tmp_path, f'openjdk version "{version}" 2025-04-15'))


@pytest.mark.parametrize(
    ("answer", "exit_code", "words"),
    [
        ('openjdk version "11.0.2" 2019-01-15', 0, "is Java 11: install"),
        ("Error: module not found: jdk.incubator.vector", 1, r"cannot run Spark \(Error: module not found"),
        ("Unrecognized option: --add-modules=jdk.incubator.vector", 1, "cannot run Spark"),
    ],
)
def test_java_that_will_not_do(tmp_path: Path, answer: str, exit_code: int, words: str) -> None:
    with pytest.raises(SetupError, match=words):
        check_java(fake_java(tmp_path, answer, exit_code))


def test_environment_of_the_caller_stays() -> None:
    given = {"SPARK_DRIVER_MEMORY": "1g", "SPARK_SUBMIT_OPTS": "-Da=b", "PYTHONPATH": "/mine", "HOME": "/h"}
    made = launch_environment(given)
    assert made["SPARK_DRIVER_MEMORY"] == "1g"
    assert made["HOME"] == "/h"
    assert made["PYTHONPATH"] == f"{ROOT}:/mine"
    assert made["SPARK_SUBMIT_OPTS"] == f"-Dlog4j.configurationFile={(CONF / 'log4j2.properties').as_uri()} -Da=b"
    assert launch_environment({})["PYSPARK_PYTHON"] == sys.executable


def test_setup_and_launcher_need_no_installed_package() -> None:
    code = "import jobs._submit, scripts.check_host, scripts.demo_data, nimc_spark.errors"
    answer = subprocess.run([sys.executable, "-S", "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert answer.stderr == ""
