"""Allow and deny tables, in force by date, and candidates of a request; what is wrong with them is said."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from jobs import predict, score
from nimc_spark.io.tables import Lake
from tests.jobs.conftest import Night
from tests.jobs.tiny import ITEMS, RUN_DATE, UNRATED_ITEM, USER_SCHEMA, K, Workplace

TOMORROW = "2025-01-07"
ITEM_DAYS = "iid LONG, since DATE, until DATE"
EVERYTHING = {*range(ITEMS), UNRATED_ITEM}
PAIRS = "uid STRING, iid LONG"


@pytest.fixture
def place(night: Night, tmp_path: Path) -> Workplace:
    return night.copied(tmp_path)


def lists(
    spark: SparkSession, place: Workplace, table: str = "recommendations", run_date: str = RUN_DATE
) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    rows = Lake(spark, str(place.lake)).read(table).where(F.col("run_date") == run_date)
    for row in rows.orderBy("user_id", "rank").collect():
        found.setdefault(row["user_id"], []).append(row["item_id"])
    return found


def seen_items(spark: SparkSession, place: Workplace) -> dict[str, set[int]]:
    found: dict[str, set[int]] = {}
    for row in Lake(spark, str(place.lake)).read("ratings").collect():
        found.setdefault(row["user_id"], set()).add(row["item_id"])
    return found


def test_filters_hold_by_date_and_nothing_else_changes(place: Workplace, spark: SparkSession) -> None:
    """Also not the lists of the date before."""
    before = lists(spark, place)
    deny = "iid,since,until\n1,,\n2,2025-01-07,\n3,2025-01-08,\n4,,2025-01-07\n5,,2025-01-08\n777,,\n,,\nx,,\n"
    pairs = "iid,uid\n6,u01\n7,u01\n8,u02\n9,nobody\n"
    filters = {
        "deny": [
            {**place.csv("deny.csv", deny, ITEM_DAYS), "since": "since", "until": "until"},
            place.csv("pairs.csv", pairs, PAIRS),
        ]
    }
    line = place.run(score.main, "--run-date", TOMORROW, filters=filters).done()
    assert {key: line["counts"][f"deny_1_{key}"] for key in ("in", "used", "quarantined", "in_force")} == {
        **{"in": 8, "used": 6, "quarantined": 2, "in_force": 4}
    }
    after = lists(spark, place, run_date=TOMORROW)
    assert lists(spark, place) == before
    assert set(after) == set(before)
    seen = seen_items(spark, place)
    of_user = {"u01": {6, 7}, "u02": {8}}
    for user, items in before.items():
        denied = {1, 2, 5} | of_user.get(user, set())
        kept = [item for item in items if item not in denied]
        # What stays keeps its order and is filled up as far as there are items; test_topk.py holds what comes next.
        assert after[user][: len(kept)] == kept
        assert not denied & set(after[user])
        assert len(after[user]) == min(K, len(EVERYTHING - denied - seen.get(user, set())))
    rejected = Lake(spark, str(place.lake)).read("quarantine").where("table = 'filters.deny_1'").collect()
    assert Counter(row["reason"] for row in rejected) == {"null item_id": 1, "unparseable row": 1}


@pytest.mark.soak
def test_an_allow_table_is_all_there_is(place: Workplace, spark: SparkSession) -> None:
    allow = {**place.csv("allow.csv", "iid,since,until\n1,,\n2,,\n3,,2025-01-01\n", ITEM_DAYS), "until": "until"}
    candidates = place.csv("own.csv", "uid,iid\nu01,1\nu01,12\nu02,12\n", PAIRS)
    wanted = {"k": 2, "exclude_seen": False}
    line = place.run(
        score.main, filters={"allow": [allow, candidates]}, score=wanted, gates={"users_without_list": None}
    ).done()
    found = lists(spark, place)
    assert found["u01"] == [1]
    assert "u02" not in found
    assert {frozenset(items) for user, items in found.items() if user != "u01"} == {frozenset({1, 2})}
    assert (line["counts"]["users_with_short_lists"], line["counts"]["recommendations_missing"]) == (2, 3)


@pytest.mark.soak
def test_a_request_brings_candidates(place: Workplace, spark: SparkSession) -> None:
    users = place.csv("new.csv", "uid,age,gender\nnew1,25,F\nnew2,30,M\n", USER_SCHEMA)
    own = place.csv("own.csv", "uid,iid\nnew1,3\nnew1,9\nnew1,3\nnew1,4711\n", PAIRS)
    line = place.run(predict.main, predict={"users": users, "candidates": own, "k": 4}).done()
    found = lists(spark, place, "predictions")
    assert set(found["new1"]) == {3, 9}
    assert len(found["new2"]) == 4
    assert line["counts"]["candidates_used"] == 4
    message = place.run(predict.main, predict={"pairs": own, "candidates": own}).refused(2)
    assert "set predict.users" in message


@pytest.mark.soak
@pytest.mark.parametrize(
    ("kind", "content", "schema", "days", "code", "message"),
    [
        ("allow", "iid\n", "iid LONG", {}, 3, "filters.allow_1"),
        ("allow", "iid\nx\n", "iid LONG", {}, 3, "none of 1 rows can be used: unparseable row: 1"),
        ("deny", "iid\nx\n", "iid LONG", {}, 3, "none of 1 rows can be used: unparseable row: 1"),
        ("deny", "film\n1\n", "film LONG", {}, 3, "missing column iid"),
        ("deny", "iid,day\n1,7\n", "iid LONG, day INT", {"since": "day"}, 3, "column day is int; allowed: date"),
        ("deny", "iid\n1\n", "iid LONG", {"until": "day"}, 3, "missing column day"),
        ("deny", "UID,iid\nu01,1\n", "UID STRING, iid LONG", {}, 3, "column UID: columns.user is 'uid'"),
    ],
)
def test_what_is_wrong_is_said(
    place: Workplace, kind: str, content: str, schema: str, days: dict[str, Any], code: int, message: str
) -> None:
    source = {**place.csv("wrong.csv", content, schema), **days}
    commits = place.commits()
    assert message in place.run(score.main, filters={kind: [source]}).refused(code)
    written = {name.split("/")[0] for name in place.commits() - commits}
    assert written == ({"quarantine"} if "can be used" in message else set())


@pytest.mark.soak
def test_a_table_that_denies_nothing_today_may_be_empty(place: Workplace, spark: SparkSession) -> None:
    before = lists(spark, place)
    line = place.run(score.main, filters={"deny": [place.csv("none.csv", "iid\n", "iid LONG")]}).done()
    assert lists(spark, place) == before
    assert line["counts"]["deny_1_in"] == 0
    twice = [place.csv("own.csv", "uid,iid\nu01,1\n", PAIRS)] * 2
    assert "candidates of users come from one table" in place.run(score.main, filters={"allow": twice}).refused(2)
