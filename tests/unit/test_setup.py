"""The launcher's command line, jars, demo data: everything of set-up that needs neither network nor JVM."""

from __future__ import annotations

import hashlib
import itertools
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from jobs import _submit
from jobs._settings import DELTA_VERSION, ROOT, is_local, local_jars, read_settings
from nimc_spark.errors import SetupError, UsageError
from scripts import demo, demo_data, fetch_jars

EXTENSIONS = "spark.sql.extensions=io.delta.sql.DeltaSparkSessionExtension"


@pytest.fixture
def spark_home(tmp_path: Path) -> Path:
    """A Spark installation as far as the launcher looks at it."""
    home = tmp_path / "spark"
    (home / "bin").mkdir(parents=True)
    (home / "bin" / "spark-submit").touch()
    (home / "jars").mkdir()
    (home / "conf").mkdir()
    return home


@pytest.fixture
def jars(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    made = [Path("/p/delta-spark_4.2_2.13-4.4.0.jar"), Path("/p/delta-storage-4.4.0.jar")]
    monkeypatch.setattr(_submit, "local_jars", lambda: made)
    return made


def build(spark_home: Path, *argv: str, **environment: str) -> list[str]:
    return _submit.command(argv, {"SPARK_HOME": str(spark_home), **environment})


def last_value(line: list[str], option: str) -> str | None:
    values = [value for name, value in itertools.pairwise(line) if name == option]
    return values[-1] if values else None


def test_command_for_local_spark(spark_home: Path, jars: list[Path]) -> None:
    line = build(spark_home, "prepare", "--config", "c.yaml", "--set", "a.b=1")
    assert line[0] == str(spark_home / "bin" / "spark-submit")
    assert line[-5:] == [str(ROOT / "jobs" / "prepare.py"), "--config", "c.yaml", "--set", "a.b=1"]
    assert EXTENSIONS in line
    assert last_value(line, "--jars") == f"{jars[0]},{jars[1]}"
    assert "spark.sql.shuffle.partitions=8" in line
    assert "--py-files" not in line


@pytest.mark.parametrize("where", ["JAVA_TOOL_OPTIONS", "SPARK_SUBMIT_OPTS", "spark-defaults.conf"])
def test_a_collector_of_the_users_takes_the_place_of_ours(spark_home: Path, jars: list[Path], where: str) -> None:
    ours = "spark.driver.extraJavaOptions=-XX:TieredStopAtLevel=1 -XX:ReservedCodeCacheSize=256m"
    assert f"{ours} -XX:+UseParallelGC" in build(spark_home, "prepare", JAVA_TOOL_OPTIONS="-Xss16m")
    environment = {where: "-Da=b -XX:+UseG1GC"}
    if where == "spark-defaults.conf":
        environment = {}
        (spark_home / "conf" / where).write_text("spark.driver.defaultJavaOptions -XX:+UseG1GC\n")
    assert ours in build(spark_home, "prepare", **environment)


@pytest.mark.parametrize("path", sorted((ROOT / "conf" / "presets").glob("*.conf")), ids=lambda path: path.stem)
def test_the_presets_are_settings_of_spark(path: Path, spark_home: Path, jars: list[Path]) -> None:
    settings = read_settings(path)
    assert all(key.startswith("spark.") for key in settings)
    line = build(spark_home, "--properties-file", str(path), "--", "prepare")
    given = [word.partition("=")[0] for option, word in itertools.pairwise(line) if option == "--conf"]
    assert not set(given) & set(settings)
    assert ("--py-files" in line) == ("spark.master" in settings)


def test_users_options_and_defaults_win(spark_home: Path, jars: list[Path]) -> None:
    (spark_home / "conf" / "spark-defaults.conf").write_text(
        "spark.executorEnv.OMP_NUM_THREADS 4\nspark.jars /u/x.jar\nspark.secret s3cr3t\n"
    )
    options = ["--conf", "spark.ui.showConsoleProgress=true", "--driver-memory", "9g"]
    line = build(spark_home, *options, "--", "prepare")
    assert not any("OMP_NUM_THREADS" in word or "s3cr3t" in word for word in line)
    assert "spark.ui.showConsoleProgress=false" not in line
    assert last_value(line, "--jars") == f"/u/x.jar,{jars[0]},{jars[1]}"
    start = line.index("--driver-memory")
    assert line[start - 2 : start + 2] == options


def test_users_jars_are_kept(spark_home: Path, jars: list[Path]) -> None:
    line = build(spark_home, "--jars=/u/x.jar", "--", "prepare")
    assert last_value(line, "--jars") == f"/u/x.jar,{jars[0]},{jars[1]}"


@pytest.mark.parametrize(
    "option", [["--packages", "io.delta:delta-spark_4.2_2.13:4.4.0"], ["--jars", "/u/delta-spark_2.jar"]]
)
def test_delta_of_the_user_is_not_doubled(spark_home: Path, jars: list[Path], option: list[str]) -> None:
    line = build(spark_home, *option, "--", "prepare")
    assert not any(str(jars[0]) in word for word in line)
    assert EXTENSIONS in line


def test_delta_of_the_platform_is_used(spark_home: Path, jars: list[Path]) -> None:
    (spark_home / "jars" / "delta-spark_4.2_2.13-4.4.0.jar").touch()
    line = build(spark_home, "prepare")
    assert "--jars" not in line
    assert EXTENSIONS in line


def test_without_delta_spark_is_not_told_of_it(spark_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_submit, "local_jars", list)
    line = build(spark_home, "prepare")
    assert "--jars" not in line
    assert EXTENSIONS not in line


@pytest.mark.parametrize("how", ["option", "conf", "defaults", "environment"])
def test_a_cluster_gets_the_library(
    spark_home: Path, jars: list[Path], monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    monkeypatch.setattr(_submit, "pack", lambda: Path("/b/lib.zip"))
    if how == "defaults":
        (spark_home / "conf" / "spark-defaults.conf").write_text("spark.master spark://h:1\n")
    options = {
        "option": ["--master", "spark://h:1", "--py-files", "a.py", "--"],
        "conf": ["-c", "spark.master=yarn", "--"],
    }
    environment = {"MASTER": "spark://h:1"} if how == "environment" else {}
    line = build(spark_home, *options.get(how, []), "prepare", **environment)
    assert "spark.sql.shuffle.partitions=32" in line
    assert not any("TieredStopAtLevel" in word for word in line)
    assert last_value(line, "--py-files") == ("a.py,/b/lib.zip" if how == "option" else "/b/lib.zip")


def test_the_python_of_executors_is_not_that_of_the_driver(spark_home: Path, jars: list[Path]) -> None:
    theirs, own = "spark.pyspark.python=./environment/bin/python", f"spark.pyspark.driver.python={sys.executable}"
    assert own in build(spark_home, "--conf", theirs, "--", "night")
    assert own not in build(spark_home, "night")
    on_cluster = ["--deploy-mode", "cluster"], ["--conf", "spark.submit.deployMode=cluster"]
    for options in (*on_cluster, ["--conf", "spark.pyspark.driver.python=python3"]):
        assert own not in build(spark_home, "--conf", theirs, *options, "--", "night")


@pytest.mark.parametrize(
    ("master", "local"),
    [("local", True), ("local[*]", True), ("local[2,3]", True), ("local-cluster[2,1,1024]", False), ("yarn", False)],
)
def test_what_is_local(master: str, local: bool) -> None:
    assert is_local(master) is local


def test_zip_is_named_by_its_content(tmp_path: Path) -> None:
    for name in ("nimc_spark/a.py", "jobs/b.py", "nimc_spark/__pycache__/a.pyc"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("1")
    first = _submit.pack(tmp_path)
    os.utime(tmp_path / "jobs" / "b.py", (0, 0))
    assert _submit.pack(tmp_path) == first
    assert zipfile.ZipFile(first).namelist() == ["jobs/b.py", "nimc_spark/a.py"]
    (tmp_path / "jobs" / "b.py").write_text("2")
    second = _submit.pack(tmp_path)
    assert second != first
    assert zipfile.ZipFile(second).read("jobs/b.py") == b"2"
    assert sorted(path.suffix for path in (tmp_path / "build").iterdir()) == [".zip", ".zip"]


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["nigth"], "unknown job 'nigth'; jobs are .*prepare"),
        (["_job"], "unknown job '_job'"),
        (["--master", "yarn"], "end with `--`"),
        (["--master", "yarn", "--"], "no job named"),
    ],
)
def test_wrong_arguments(argv: list[str], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        _submit.split_arguments(argv)


def test_spark_home_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="has no bin/spark-submit"):
        _submit.find_spark_home({"SPARK_HOME": str(tmp_path)})


@pytest.mark.parametrize(
    ("arguments", "java_home", "exit_code", "words"),
    [
        ([], None, 2, "usage: ./spark-submit.sh"),
        (["nigth", "--config", "c.yaml"], None, 2, "error: unknown job 'nigth'"),
        (["prepare", "--config", "c.yaml"], "/nowhere", 6, "error: no java found in JAVA_HOME=/nowhere: install"),
    ],
)
def test_script_ends_with_one_line(arguments: list[str], java_home: str | None, exit_code: int, words: str) -> None:
    environment = {**os.environ, **({"JAVA_HOME": java_home} if java_home else {})}
    answer = subprocess.run(
        [ROOT / "spark-submit.sh", *arguments], env=environment, capture_output=True, text=True, check=False
    )
    assert answer.returncode == exit_code
    assert answer.stderr.startswith(words)
    assert answer.stdout == ""
    assert "Traceback" not in answer.stderr


def test_jars_that_are_there_are_those_recorded() -> None:
    recorded = fetch_jars.read_checksums()
    assert len(recorded) == 5
    assert all(name.endswith(f"-{DELTA_VERSION}.jar") for name in recorded)
    assert [path.name for path in local_jars()] == sorted(recorded)


def test_faults_of_jars_are_named(tmp_path: Path) -> None:
    (tmp_path / "a.jar").write_bytes(b"a")
    (tmp_path / "b.jar").write_bytes(b"b")
    right = hashlib.sha256(b"a").hexdigest()
    assert fetch_jars.faults(tmp_path, {"a.jar": right, "b.jar": right, "c.jar": right}) == [
        "c.jar is missing",
        "b.jar has another checksum",
    ]
    assert fetch_jars.faults(tmp_path, {"a.jar": right}) == ["b.jar was not expected"]


@pytest.mark.parametrize("layout", ["grouplens", "recbole"])
def test_demo_data_is_recognized(tmp_path: Path, layout: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in demo_data.LAYOUTS[layout]:
        (tmp_path / name).touch()
    monkeypatch.setenv("NIMC_ML100K", str(tmp_path))
    data = demo_data.find()
    assert data == (layout, tmp_path)
    assert data.files["users"] == tmp_path / demo_data.LAYOUTS[layout][1]
    assert demo.config_arguments(data)[1] == demo.CONFIGS[layout]


def test_demo_data_that_is_incomplete(tmp_path: Path) -> None:
    (tmp_path / "u.data").touch()
    with pytest.raises(UsageError, match=r"holds no MovieLens-100k: expected u\.data, u\.user, u\.item"):
        demo_data.find(str(tmp_path))


def test_summary_of_the_demo() -> None:
    samples = [{"user_id": 7, "items": [{"title": "Fargo", "score": 4.56}, {"title": "Heat", "score": 4.123}]}]
    night = {
        "counts": {"ratings_in": 100000, "ratings_used": 99990, "ratings_quarantined": 10},
        "metrics": {
            "new_user/known_item": {
                "n": 20000,
                "model": {"rmse": 1.0189, "ndcg@10": 0.1},
                "item_mean": {"rmse": 1.0219},
                "popularity": {"ndcg@10": 0.375},
            }
        },
        "paths": {"recommendations": "lake/recommendations"},
        "samples": samples,
    }
    lines = list(demo.summary(night, {"counts": {}, "paths": {"predictions": "lake/predictions"}}))
    assert lines == [
        "Rows",
        "  ratings   100,000 in     99,990 used       10 quarantined",
        "RMSE on held-out ratings",
        "  new_user/known_item     20,000 ratings   model 1.0189   item mean 1.0219",
        "NDCG of lists (this model predicts ratings; for lists there is `objective: ranking`: docs/accuracy.md)",
        "  new_user/known_item    model 0.1000   popularity 0.3750",
        "Recommendations, three users",
        "  user 7: Fargo (4.56), Heat (4.12)",
        "Written",
        "  recommendations  lake/recommendations",
        "  predictions      lake/predictions",
    ]
