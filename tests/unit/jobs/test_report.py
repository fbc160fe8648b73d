"""The page of a run has what its result line has, of a night and of a failure."""

from __future__ import annotations

from typing import Any

from jobs._report import run_page
from nimc_spark.reports.page import Lines, Table, html_page

FACTS = {"run date": "2025-01-06", "run": "abc"}
ERRORS = {"rmse": 1.0, "rmse_se": 0.1, "mae": 0.8}
NIGHT: dict[str, Any] = {
    "job": "night",
    "status": "done",
    "exit_code": 0,
    "seconds": 61.2,
    "counts": {"ratings_in": 9, "ratings_used": 7, "ratings_quarantined": 2, "users_scored": 3},
    "quarantine_reasons": {"ratings": {"null user_id": 2}, "users": {}},
    "metrics": {"new_user/known_item": {"n": 4, "model": {**ERRORS, "ndcg@5": 0.5, "users": 2, "coverage": 0.1}}},
    "calibration": [{"n": 4, "prediction": 3.0, "rating": 3.5}],
    "gates": [{"gate": "sameness", "value": 0.9, "limit": 0.5, "least": False, "holds": False}],
    "samples": [{"user_id": 7, "items": [{"item_id": 1, "title": "Ran", "score": 4.5}]}],
    "stages": {"score": 1.5},
    "paths": {"recommendations": "lake/recommendations"},
    "warnings": ["few ratings"],
}


def tables(line: dict[str, Any], losses: dict[str, list[float]]) -> dict[str, Any]:
    return {part.name: part for part in run_page(line, FACTS, losses).parts if isinstance(part, Table | Lines)}


def test_a_night_has_all_sections() -> None:
    found = tables(NIGHT, {"main": [3.0, 2.0]})
    assert found["books"].rows == [["ratings", 9, 7, 2]]
    assert found["reasons"].rows == [["ratings", "null user_id", 2]]
    assert found["training"].series == {"main": ([1, 2], [3.0, 2.0])}
    assert found["errors"].rows == [["new_user/known_item", 4, "model", 1.0, 1.0 - 0.196, 1.0 + 0.196, 0.8]]
    assert found["lists"].columns == ["cell", "users", "predictor", "ndcg@5", "coverage"]
    assert found["lists"].rows == [["new_user/known_item", 2, "model", 0.5, 0.1]]
    assert found["calibration"].series["held-out ratings"] == ([3.0], [3.5])
    assert found["gates"].rows == [["sameness", 0.9, "at most 0.5", "refused"]]
    assert found["samples"].rows == [["7", 1, "Ran", 4.5]]
    assert found["times"].rows == [["score", 1.5]]
    page = run_page(NIGHT, FACTS, {})
    assert page.parts[:2] == ["## Warnings", "few ratings"]
    assert page.title == "night for 2025-01-06"
    assert "few ratings" in html_page(page)


def test_a_failure_begins_with_its_error() -> None:
    line = {
        "job": "train",
        "status": "failed",
        "exit_code": 3,
        "seconds": 1.0,
        "counts": {},
        "metrics": {},
        "paths": {},
    }
    page = run_page({**line, "error": "no ratings"}, FACTS, {})
    assert page.parts == ["## What went wrong", "no ratings"]
    assert page.facts["status"] == "failed, exit code 3"
