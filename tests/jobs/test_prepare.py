"""The prepare job through its `main`: what it accepts, what it rejects and why, exit codes, and the result line."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml
from pyspark.ml.linalg import Vectors
from pyspark.sql import SparkSession

from jobs.prepare import main
from nimc_spark.io.tables import Lake

RATINGS = """uid,iid,stars,at
1,10,5,100
1,11,3,101
2,10,4,102
"""
USERS = "uid,age\n1,30\n2,\n"


class Case:
    """A folder with raw files and the config that reads them."""

    def __init__(self, folder: Path, spark: SparkSession, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder, self.spark, self._capsys = folder, spark, capsys
        self.config: dict[str, Any] = {
            "lake": str(folder / "lake"),
            "format": "parquet",
            "sources": {"ratings": self.csv("ratings.csv", RATINGS, "uid INT, iid INT, stars DOUBLE, at LONG")},
            "columns": {"user": "uid", "item": "iid", "rating": "stars", "time": "at"},
            "rating_range": [1, 5],
        }

    def csv(self, name: str, text: str, schema: str, **options: Any) -> dict[str, Any]:
        (self.folder / name).write_text(text)
        return {"path": str(self.folder / name), "schema": schema, "options": {"header": True, **options}}

    def users(self, text: str = USERS, schema: str = "uid INT, age DOUBLE") -> None:
        self.config["sources"]["users"] = self.csv("users.csv", text, schema)

    def ratings(self, text: str, schema: str = "uid INT, iid INT, stars DOUBLE, at LONG", **options: Any) -> None:
        self.config["sources"]["ratings"] = self.csv("ratings.csv", text, schema, **options)

    def run(self, *arguments: str) -> tuple[int, dict[str, Any], str]:
        """Exit code, the result line, standard error."""
        path = self.folder / "config.yaml"
        path.write_text(yaml.safe_dump(self.config))
        code = main(["--config", str(path), "--run-date", "2025-01-06", *arguments])
        out, err = self._capsys.readouterr()
        return code, json.loads(out.splitlines()[-1]), err

    def done(self) -> dict[str, Any]:
        code, line, err = self.run()
        assert (code, line["status"]) == (0, "done"), err
        for table in line["quarantine_reasons"]:
            counts = line["counts"]
            assert counts[f"{table}_in"] == counts[f"{table}_used"] + counts[f"{table}_quarantined"]
        return line

    def refused(self, expected: int = 3) -> str:
        code, line, err = self.run()
        assert (code, line["status"], line["exit_code"]) == (expected, "failed", expected), err
        assert "Traceback" not in err
        assert f"error: {line['error']}" in err
        return str(line["error"])

    def table(self, name: str) -> list[tuple[Any, ...]]:
        lake = Lake(self.spark, self.config["lake"], self.config["format"])
        return sorted(tuple(row) for row in lake.read(name).collect())

    def quarantine(self) -> list[tuple[str, dict[str, Any], str]]:
        lake = Lake(self.spark, self.config["lake"], self.config["format"])
        return [(row["table"], json.loads(row["row"]), row["reason"]) for row in lake.read("quarantine").collect()]


@pytest.fixture
def case(tmp_path: Path, spark: SparkSession, capsys: pytest.CaptureFixture[str]) -> Case:
    return Case(tmp_path, spark, capsys)


def test_clean_tables_and_a_rerun(case: Case) -> None:
    case.users()
    line = case.done()
    assert line["counts"] == {
        "users_in": 2,
        "users_used": 2,
        "users_quarantined": 0,
        "ratings_in": 3,
        "ratings_used": 3,
        "ratings_quarantined": 0,
    }
    assert case.table("ratings") == [(1, 10, 5.0, 100), (1, 11, 3.0, 101), (2, 10, 4.0, 102)]
    assert [row[0] for row in case.table("users")] == [1, 2]
    assert case.done()["counts"] == line["counts"]
    lake = Lake(case.spark, case.config["lake"], "parquet")
    assert lake.version("ratings") == 1
    runs = lake.read("runs").orderBy("started").collect()
    assert [(r["job"], r["status"], r["exit_code"]) for r in runs] == [("prepare", "done", 0)] * 2
    assert runs[1]["table_versions"]["ratings"] == 1
    assert runs[1]["counts"]["ratings_used"] == 3
    assert set(runs[1]["stages"]) == {"prepare", "prepare.gates"}


def test_a_file_that_lost_rows_leaves_the_tables_as_they_were(case: Case) -> None:
    case.users()
    assert "gates" not in case.done()  # nothing to compare with
    before, snapshots = case.table("ratings"), case.table("snapshots")
    case.ratings("".join(RATINGS.splitlines(keepends=True)[:2]) + "1,11,9,101\n")
    gate, lost, *_ = case.refused(4).split("; ")
    assert gate == "gate rows_fall of ratings: 0.666667 is above 0.2 by 0.467"
    assert lost == f"ratings had 3 rows, now 1 of 2 can be used ({case.folder}/ratings.csv)"
    assert (case.table("ratings"), case.table("snapshots")) == (before, snapshots)
    assert [row["stars"] for _, row, _ in case.quarantine()] == [9.0]  # what was wrong with the file stays readable
    lake = Lake(case.spark, case.config["lake"], "parquet")
    (run,) = lake.read("runs").where("exit_code = 4").collect()
    assert (run["job"], run["counts"]["ratings_in"], run["counts"]["ratings_used"]) == ("prepare", 2, 1)


@pytest.mark.soak
def test_a_file_that_lost_rows_can_be_accepted_once(case: Case) -> None:
    case.users()
    case.done()
    case.ratings("".join(RATINGS.splitlines(keepends=True)[:2]))
    code, line, err = case.run("--set=gates.rows_fall=null")
    assert (code, line["counts"]["ratings_used"]) == (0, 1), err
    assert len(case.table("ratings")) == 1
    # More than before, and fewer sources, are no fall.
    case.ratings(RATINGS)
    del case.config["sources"]["users"]
    assert [(g["gate"], g["value"]) for g in case.done()["gates"]] == [("rows_fall of ratings", -2.0)]


def test_a_table_that_is_gone_is_made_again(case: Case) -> None:
    case.done()
    shutil.rmtree(Path(case.config["lake"]) / "ratings")
    line = case.done()
    assert line["counts"]["ratings_used"] == 3
    assert [(g["gate"], g["value"]) for g in line["gates"]] == [("rows_fall of ratings", None)]
    (file,) = (Path(case.config["lake"]) / "ratings").glob("**/*.parquet")
    file.write_bytes(b"PAR1 damaged")
    assert case.done()["counts"]["ratings_used"] == 3


def test_numbers_whose_squares_overflow_are_quarantined(case: Case) -> None:
    case.config |= {"rating_range": None, "columns": case.config["columns"] | {"weight": "w"}}
    rows = "".join(f"1,{i},3,1,1\n" for i in range(10, 30))
    case.ratings(
        f"uid,iid,stars,at,w\n{rows}2,10,2e18,1,1\n2,11,3,1,2e18\n", "uid INT, iid INT, stars DOUBLE, at LONG, w DOUBLE"
    )
    assert case.done()["quarantine_reasons"]["ratings"] == {"rating beyond ±1e+18": 1, "weight above 1e+18": 1}


def test_each_bad_rating_is_kept_with_its_reason(case: Case) -> None:
    bad = ",10,3,1\n3,,3,1\n3,10,,1\n3,11,NaN,1\n3,12,Infinity,1\n3,13,5.5,1\n3,14,0,1\n3,15,3,\n"
    bad += "x,16,3,1\n3,17,3\n3,18,3,1,9\n"
    case.ratings(RATINGS + bad)
    line = case.done()
    assert (line["counts"]["ratings_used"], line["counts"]["ratings_quarantined"]) == (3, 11)
    assert line["quarantine_reasons"]["ratings"] == {
        "null user_id": 1,
        "null item_id": 1,
        "null rating": 1,
        "non-finite rating": 2,
        "rating outside [1, 5]": 2,
        "null time": 1,
        "unparseable row": 3,
    }
    rows = case.quarantine()
    assert Counter(reason for _, _, reason in rows) == line["quarantine_reasons"]["ratings"]
    assert ("ratings", {"uid": 3, "iid": 13, "stars": 5.5, "at": 1}, "rating outside [1, 5]") in rows
    assert ("ratings", {"unparsed": "3,17,3"}, "unparseable row") in rows
    case.ratings(RATINGS)
    case.done()
    assert case.quarantine() == []


@pytest.mark.parametrize(
    ("policy", "kept", "reasons"),
    [
        (
            "last",
            [(1, 10, 4.0, 300), (2, 10, 1.0, 7)],
            {
                "superseded by a later rating": 2,
                "superseded by another rating of the same time": 1,
                "exact duplicate of a rating": 1,
            },
        ),
        ("mean", [(1, 10, 3.2, 300), (2, 10, 1.0, 7)], {"merged into the mean of duplicate ratings": 4}),
        ("reject", [(2, 10, 1.0, 7)], {"duplicate rating of a user and item": 5}),
    ],
)
def test_duplicate_ratings_by_policy(
    case: Case, policy: str, kept: list[tuple[Any, ...]], reasons: dict[str, int]
) -> None:
    rows = ("5,100", "4,300", "1,300", "4,300", "2,200", "9,400")
    case.ratings("uid,iid,stars,at\n" + "".join(f"1,10,{row}\n" for row in rows) + "2,10,1,7\n")
    case.config["duplicates"] = policy
    line = case.done()
    assert case.table("ratings") == kept
    assert line["quarantine_reasons"]["ratings"] == reasons | {"rating outside [1, 5]": 1}


def test_weights_make_the_mean(case: Case) -> None:
    case.ratings(
        "uid,iid,stars,w\n1,10,5,1\n1,10,1,3\n1,11,3,-1\n2,10,2,0.5\n", "uid INT, iid INT, stars INT, w DOUBLE"
    )
    case.config["columns"] = {"user": "uid", "item": "iid", "rating": "stars", "weight": "w"}
    case.config["duplicates"] = "mean"
    assert case.done()["quarantine_reasons"]["ratings"]["weight is not a number from 0"] == 1
    assert case.table("ratings") == [(1, 10, 2.0, 4.0), (2, 10, 2.0, 0.5)]


def test_attribute_rows_that_cannot_be_used(case: Case) -> None:
    case.users("uid,age\n1,30\n2,5\n2,5\n3,7\n3,8\n4,NaN\n,9\n")
    case.config["features"] = {"users": [{"kind": "numeric", "column": "age"}]}
    case.config["allow_cold"] = False
    case.ratings(RATINGS + "3,10,2,1\n9,10,2,1\n")
    line = case.done()
    assert case.table("users") == [(1, 30.0), (2, 5.0)]
    assert line["quarantine_reasons"] == {
        "users": {
            "duplicate user_id, same row": 1,
            "duplicate user_id, rows differ": 2,
            "non-finite age": 1,
            "null user_id": 1,
        },
        "ratings": {"user_id has no attribute row": 2},
    }
    assert [row[0] for row in case.table("ratings")] == [1, 1, 2]


def test_vectors_of_another_length_are_rejected(case: Case) -> None:
    path = str(case.folder / "items")
    rows = [(10, [1.0, 2.0], 1), (11, [1.0], 2), (12, None, 3), (13, [1.0, float("nan")], 4), (14, [3.0, 4.0], 5)]
    case.spark.createDataFrame(rows, "`i d` int, `v.x` array<double>, year int").write.parquet(path)
    case.config["sources"]["items"] = {"path": path, "format": "parquet"}
    case.config["columns"]["item"] = "i d"
    case.config["features"] = {"items": [{"kind": "passthrough", "column": "v.x"}]}
    case.ratings(RATINGS.replace("iid", "i d"), "uid INT, `i d` INT, stars DOUBLE, at LONG")
    assert case.done()["quarantine_reasons"]["items"] == {
        "length of v.x is not 2": 1,
        "null v.x": 1,
        "non-finite v.x": 1,
    }
    assert case.table("items") == [(10, [1.0, 2.0], 1), (14, [3.0, 4.0], 5)]


def test_spark_vectors_json_and_string_ids(case: Case) -> None:
    path = str(case.folder / "users")
    vectors = [("a", Vectors.dense(1.0, 2.0)), ("b", Vectors.sparse(2, {1: float("inf")})), ("c", Vectors.dense(1.0))]
    case.spark.createDataFrame([*vectors, ("d", Vectors.dense(0.0, 1.0))], ["uid", "features"]).write.parquet(path)
    case.config["sources"]["users"] = {"path": path, "format": "parquet"}
    case.config["features"] = {"users": [{"kind": "passthrough", "column": "features"}]}
    (case.folder / "r.json").write_text('{"uid": "a", "iid": 5000000000, "stars": 4}\n{"uid": "a", "iid": \n')
    case.config["sources"]["ratings"] = {
        "path": str(case.folder / "r.json"),
        "format": "json",
        "schema": "uid STRING, iid LONG, stars DOUBLE",
    }
    del case.config["columns"]["time"]
    line = case.done()
    assert line["quarantine_reasons"]["users"] == {"non-finite features": 1, "length of features is not 2": 1}
    assert line["quarantine_reasons"]["ratings"] == {"unparseable row": 1}
    assert case.table("ratings") == [("a", 5000000000, 4.0)]


@pytest.mark.soak
def test_a_header_is_matched_by_name_or_skipped(case: Case) -> None:
    case.ratings("at;stars;extra;iid;uid\n100;5;x;10;1\n", sep=";")
    case.done()
    assert case.table("ratings") == [(1, 10, 5.0, 100)]
    # Names that end with their places are names.
    case.ratings("at,x1,_c2,stars,uid,iid\n100,7,7,5,1,10\n")
    case.done()
    assert case.table("ratings") == [(1, 10, 5.0, 100)]
    case.ratings("a:token,b:token,c:float,d:float\n1,10,4,100\n", enforceSchema=True)
    case.done()
    assert case.table("ratings") == [(1, 10, 4.0, 100)]


@pytest.mark.parametrize(
    ("ratings", "schema", "message"),
    [
        ("uid,iid,Stars,at\n1,10,5,100\n", None, "missing column stars; present: uid, iid, Stars, at"),
        (RATINGS, "uid INT, iid INT", "missing column stars, at; present: uid, iid"),
        ("", None, "is empty: not even a header"),
        ("uid,iid,stars,at\n", None, "is empty: it has no row"),
        (
            "uid,iid,stars,at\n1,10,7,1\n,2,3,1\n",
            None,
            "none of 2 rows can be used: rating outside [1, 5]: 1; null user_id: 1",
        ),
        (
            "uid,iid,stars,at\n1,10,5,100,x\n2,10,5,100,x\n",
            None,
            "none of 2 rows can be used: unparseable row: 2; does the schema have a type for each column of the file",
        ),
        (RATINGS, "uid DOUBLE, iid INT, stars DOUBLE, at LONG", "column uid is double; allowed: tinyint"),
        (RATINGS, "uid INT, iid INT, stars STRING, at LONG", "column stars is string; allowed: tinyint"),
        (RATINGS, "uid INTT, iid INT", "INTT"),
        (",uid,iid,stars,at\n0,1,10,5,100\n", None, "column 1 has no name in the header: name it, or leave it out"),
        ("uid,iid,stars,at,\n1,10,5,100,\n", None, "column 5 has no name in the header"),
        ("uid,iid,stars,age,at,Age\n1,10,5,1,100,2\n", None, "column age is in the header twice"),
    ],
)
def test_ratings_that_cannot_be_used_at_all(case: Case, ratings: str, schema: str | None, message: str) -> None:
    case.ratings(ratings, schema or "uid INT, iid INT, stars DOUBLE, at LONG")
    error = case.refused()
    assert error.startswith(f"ratings ({case.folder}/ratings.csv): ")
    assert message in error
    assert not (case.folder / "lake" / "ratings").exists()


def test_rows_of_which_none_can_be_used_are_in_quarantine_all_the_same(case: Case) -> None:
    case.ratings("uid,iid,stars,at\n1,10,7,1\n,2,3,1\n", "uid INT, iid INT, stars DOUBLE, at LONG")
    case.refused()
    assert sorted(reason for _, _, reason in case.quarantine()) == ["null user_id", "rating outside [1, 5]"]


def test_a_missing_file_is_named_and_recorded(case: Case) -> None:
    case.config["sources"]["ratings"]["path"] = str(case.folder / "none.csv")
    assert case.refused() == f"ratings ({case.folder}/none.csv): no such path: file:{case.folder}/none.csv"
    ((_, _, job, *_, error),) = case.table("runs")
    assert (job, error.partition(":")[0]) == ("prepare", f"ratings ({case.folder}/none.csv)")


def test_a_damaged_file_and_a_declared_type_that_differs(case: Case) -> None:
    case.config["sources"]["users"] = {"path": str(case.folder / "u.parquet"), "format": "parquet"}
    (case.folder / "u.parquet").write_text("this is not parquet")
    assert case.refused().startswith(f"users ({case.folder}/u.parquet): cannot read")
    path = str(case.folder / "users")
    case.spark.createDataFrame([(1, "x")], "uid int, age string").write.parquet(path)
    case.config["sources"]["users"] = {"path": path, "format": "parquet", "schema": "uid INT, age INT"}
    assert (
        case.refused() == f"users ({path}): age is string, declared int: change the schema in the config, or the data"
    )


def test_feature_columns_are_checked(case: Case) -> None:
    case.users()
    case.config["features"] = {"users": [{"kind": "one_hot", "column": "job"}]}
    assert "missing columns ['job'] in the attribute table; present: ['uid', 'age']" in case.refused()
    case.users("uid,age\n1,x\n", "uid INT, age STRING")
    case.config["features"] = {"users": [{"kind": "numeric", "column": "age"}]}
    assert "column 'age' is string; a feature of kind numeric needs a number or a boolean" in case.refused()
    case.users("uid,age\n1,3\n", "uid LONG, age INT")
    assert "uid is int in ratings, bigint in the attribute table" in case.refused()


def test_wrong_config_arguments_and_folders(case: Case) -> None:
    code, line, err = case.run("--set", "lakee=3")
    assert (code, line["exit_code"], line["run_id"]) == (2, 2, None)
    assert 'lakee: unknown key; did you mean "lake"?' in err
    assert case.run("--run-date", "yesterday")[0] == 2
    assert case.run("--nonsense")[0] == 2
    (case.folder / "file").write_text("")
    code, line, err = case.run("--set", f"lake={case.folder}/file/lake")
    assert (code, line["status"]) == (6, "failed")
    assert "cannot be written" in err


def test_a_dry_run_writes_nothing(case: Case) -> None:
    code, line, _ = case.run("--dry-run", "--set", "split.seed=4")
    assert (code, line["status"]) == (0, "dry run")
    assert line["config"]["split"]["seed"] == 4
    assert not (case.folder / "lake").exists()


def test_names_are_data_not_sql(case: Case) -> None:
    name = "stars`) FROM x; DROP TABLE y --"
    case.ratings(RATINGS.replace("stars", name), f"uid INT, iid INT, `{name.replace('`', '``')}` DOUBLE, at LONG")
    case.config["columns"]["rating"] = name
    case.done()
    assert case.table("ratings") == [(1, 10, 5.0, 100), (1, 11, 3.0, 101), (2, 10, 4.0, 102)]
