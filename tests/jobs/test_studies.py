"""The jobs that measure rather than publish: `reproduce`, `diagnose` and `plan`."""

from __future__ import annotations

import io
import json
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import SparkSession

from jobs import diagnose, plan, reproduce
from tests.jobs.conftest import Night


def run(*arguments: str) -> tuple[int, dict[str, Any], str]:
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = reproduce.main(arguments)
    last = out.getvalue().splitlines()[-1:]
    return code, json.loads(last[0]) if last else {}, err.getvalue()


@pytest.mark.soak
def test_a_study_becomes_a_page_that_says_how_it_was_made(spark: SparkSession, tmp_path: Path) -> None:
    code, line, _ = run("hessian", "--quick", "--out", str(tmp_path / "pages"), "--seed", "2")
    assert (code, line["status"]) == (0, "done")
    page = (tmp_path / "pages" / "hessian.md").read_text()
    assert line["paths"]["page"] == str(tmp_path / "pages" / "hessian.md")
    assert "* command: `./spark-submit.sh reproduce hessian --quick --seed 2`" in page
    assert "| tanh | 2 | 0.0094586 | 0.0094586 | 0 |" in page
    assert (tmp_path / "pages" / "hessian-population.csv").read_text().startswith("φ,k,λ_min,ρ,")


@pytest.mark.parametrize("study", ["movielens", "genes"])
def test_a_study_without_its_data_says_what_to_give(spark: SparkSession, tmp_path: Path, study: str) -> None:
    code, line, err = run(study, "--quick", "--out", str(tmp_path))
    assert (code, line["status"], line["exit_code"]) == (2, "failed", 2)
    assert "--data" in line["error"]
    assert "Traceback" not in err
    code, line, err = run(study, "--quick", "--out", str(tmp_path), "--data", str(tmp_path))
    assert (code, "Traceback" in err) == (2, False)
    code, line, _ = run(study, "--data", str(tmp_path / "nowhere"))
    assert (code, line["error"]) == (2, f"--data {tmp_path / 'nowhere'}: there is no such folder")


def test_a_study_that_there_is_not() -> None:
    code, _, err = run("weather")
    assert code == 2
    assert "invalid choice: 'weather'" in err


@pytest.mark.soak
def test_the_certificate_of_a_night_s_model(
    spark: SparkSession, night: Night, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = night.copied(tmp_path)
    monkeypatch.chdir(tmp_path)
    line = place.run(diagnose.main).done()
    figures = line["metrics"]
    trained = night.outcome.line["counts"]
    assert figures["parameters"] == trained["parameters"]
    assert figures["gradient_norm"] >= 0
    assert figures["lambda_min"] < figures["lambda_max"]
    assert figures["step"] == pytest.approx(1 / figures["lambda_max"])
    page = Path(line["paths"]["certificate"]).read_text()
    assert "Certificate of tiny, version 1" in page
    assert (tmp_path / "certificates" / "tiny-1-landscape.png").is_file()
    refused = place.run(diagnose.main, "--set", "split.seed=9").refused(2)
    assert "the model was trained with" in refused


def test_the_plan_of_a_night_s_training(night: Night, tmp_path: Path) -> None:
    line = night.copied(tmp_path).run(plan.main).done()
    figures, counts = line["metrics"], night.outcome.line["counts"]
    assert figures["ratings"] == counts["ratings_training"]
    assert figures["parameters"] == pytest.approx(counts["parameters"], rel=0.2)
    assert figures["items_at"] == "in the blocks"
    assert figures["conf"]["spark.executor.memoryOverhead"].endswith("m")
