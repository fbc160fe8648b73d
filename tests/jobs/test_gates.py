"""Gates: what is refused is not published, says by how much, and leaves everything that readers see as it was."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from jobs import night as night_job
from jobs import promote, score, train
from jobs._config import Gates
from jobs._gates import Check, input_checks, model_checks
from nimc_spark.io.registry import Registry
from nimc_spark.io.tables import Lake
from tests.jobs.conftest import Night
from tests.jobs.tiny import REASONS, RUN_DATE, Outcome, Workplace, ratings

TOMORROW = "2025-01-07"


def aliases(lake: Lake) -> list[tuple[int, str]]:
    return [(entry.version, entry.alias) for entry in Registry(lake, "tiny").entries()]


def refused(place: Workplace, main: object, *arguments: str) -> Outcome:
    before = place.commits()
    outcome = place.run(main, *arguments)  # type: ignore[arg-type]
    outcome.refused(4)
    assert place.commits() == before
    return outcome


@pytest.mark.soak
def test_lists_that_fail_gates_are_not_published(night: Night, spark: SparkSession, tmp_path: Path) -> None:
    place = night.copied(tmp_path)
    limits = ("sameness=0", "catalogue_coverage=1", "overlap=1", "score_drift=0", "short_lists=0")
    sets = [f"--set=gates.{limit}" for limit in limits]
    outcome = refused(place, score.main, "--run-date", TOMORROW, "--set=score.exclude_seen=false", *sets)
    message = outcome.refused(4)
    short, *others, end, _ = message.split("; ")
    assert short.startswith("gate catalogue_coverage: ")
    assert short.split(" is below 1 by ")[1]
    assert [other.split(":")[0] for other in others] == [
        f"gate {name}" for name in ("sameness", "overlap", "score_drift")
    ]
    assert end == "nothing was published"
    # Who decides about it sees some of the lists, and later what was set.
    assert [len(sample["items"]) for sample in outcome.line["samples"]] == [5, 5, 5]
    assert outcome.line["overrides"] == ["score.exclude_seen=false", *(f"gates.{limit}" for limit in limits)]
    lake = Lake(spark, str(place.lake))
    dates = lake.read("recommendations").select(F.col("run_date").cast("string")).distinct().collect()
    assert [row[0] for row in dates] == [RUN_DATE]
    (run,) = lake.read("runs").where("job = 'score'").collect()
    assert (run["status"], run["exit_code"], run["error"]) == ("failed", 4, message)
    assert run["counts"]["users_scored"] == 32
    assert "gates" in run["stages"]
    # With the limits that hold by default the same lists go out.
    line = place.run(score.main, "--run-date", TOMORROW, "--set=score.exclude_seen=false").done()
    drift = next(gate for gate in line["gates"] if gate["gate"] == "score_drift")
    assert 0 < drift["value"] < drift["limit"]


@pytest.mark.soak
def test_a_model_is_promoted_refitted_and_put_back(night: Night, spark: SparkSession, tmp_path: Path) -> None:
    place = night.copied(tmp_path)
    lake = Lake(spark, str(place.lake))
    place.run(train.main, "--set", "model.seed=8").done()
    first = [(1, "candidate"), (1, "production"), (2, "candidate")]
    message = place.run(promote.main, "--set=gates.rmse_over_global_mean=0.01").refused(4)
    assert message.startswith("gate rmse_over_global_mean: ")
    assert "the model in production stays" in message
    assert aliases(lake) == first

    line = place.run(promote.main, "--set=refit=true", "--set=gates.rmse_rise=9", "--set=gates.ndcg_fall=1").done()
    cell = line["metrics"]["new_user/known_item"]
    # On the same rows as the night measured it on.
    was = night.outcome.line["metrics"]["new_user/known_item"]
    assert (cell["production"], cell["n"]) == (was["model"], was["n"])
    assert cell["model"] != was["model"]
    rise = next(gate["value"] for gate in line["gates"] if gate["gate"] == "rmse_rise")
    assert rise == pytest.approx(cell["model"]["rmse"] / was["model"]["rmse"] - 1, rel=1e-12)
    assert aliases(lake) == [*first, (3, "refit"), (3, "production")]
    entry = Registry(lake, "tiny").resolve()
    assert (entry.lineage["refit_of"], entry.lineage["split"], entry.path) == (2, None, line["paths"]["model"])

    back = place.run(promote.main, "--set=promote.model=1").done()
    assert (back["model_version"], "gates" in back) == (1, False)
    assert Registry(lake, "tiny").resolve().version == 1


def test_a_night_whose_ratings_came_by_half_stops_before_it_trains(night: Night, tmp_path: Path) -> None:
    place = night.copied(tmp_path)
    half = "".join(ratings().splitlines(keepends=True)[:200])
    place.config["sources"]["ratings"]["path"] = place.text("half.csv", half)
    before = place.commits()
    outcome = place.run(night_job.main)
    gate, lost, stay, _ = outcome.refused(4).split("; ")
    used = outcome.line["counts"]["ratings_used"]
    assert gate.startswith("gate rows_fall of ratings: ")
    assert lost == f"ratings had 379 rows, now {used} of 199 can be used ({place.folder}/half.csv)"
    assert stay == "the tables stay as they were"
    assert {name for name in place.commits() - before if not name.startswith("quarantine/")} == set()
    assert outcome.line["quarantine_reasons"]["users"] == REASONS["users"]
    assert "train" not in outcome.line["stages"]


def test_tables_are_compared_by_what_can_be_used() -> None:
    counts = {"ratings_used": 7, "users_used": 30, "items_used": 5}
    before = {"ratings": 10, "users": 20, "items": None, "elsewhere": 3}
    checks = input_checks(0.3, counts, before)
    assert {name: check.value for name, check in checks.items() if name != "items"} == {"ratings": 0.3, "users": -0.5}
    assert math.isnan(checks["items"].value)
    # The limit itself is let through, whatever rounding does.
    assert all(check.holds for check in checks.values())
    assert str(input_checks(0.25, counts, before)["ratings"]) == "gate rows_fall of ratings: 0.3 is above 0.25 by 0.05"
    assert input_checks(0.3, counts, {"ratings": 0}) == {}


def test_a_model_is_compared_over_all_cells() -> None:
    cells = {
        "known_user/known_item": {
            "n": 3,
            "model": {"rmse": 1.0},
            "global_mean": {"rmse": 2.0},
            "production": {"rmse": 1.0},
        },
        "new_user/known_item": {
            "n": 1,
            "model": {"rmse": 3.0, "ndcg@5": 0.3, "users": 2},
            "global_mean": {"rmse": 2.0},
            "production": {"rmse": 2.0, "ndcg@5": 0.4, "users": 2},
        },
    }
    checks = {check.gate: check for check in model_checks(Gates(rmse_over_global_mean=1.0), cells)}
    assert checks["rmse_over_global_mean"].value == pytest.approx((12 / 4) ** 0.5 / 2, rel=1e-15)
    assert checks["rmse_rise"].value == pytest.approx((12 / 7) ** 0.5 - 1, rel=1e-15)
    assert checks["ndcg_fall"].value == pytest.approx(0.25, rel=1e-15)
    assert [name for name, check in checks.items() if not check.holds] == ["rmse_rise", "ndcg_fall"]
    assert str(checks["ndcg_fall"]) == "gate ndcg_fall: 0.25 is above 0.1 by 0.15"


def test_what_could_not_be_measured_refuses_nothing() -> None:
    assert Check("overlap", float("nan"), 0.5, least=True).holds
    assert not Check("overlap", 0.4, 0.5, least=True).holds
