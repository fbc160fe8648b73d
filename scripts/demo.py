"""`make demo`: MovieLens-100k from raw files to a night's recommendations, then predictions for three new users."""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from typing import Any

from jobs._settings import ROOT
from nimc_spark.errors import NimcError
from scripts.demo_data import DemoData, find

CONFIGS = {"recbole": "conf/ml-100k.yaml", "grouplens": "conf/ml-100k-grouplens.yaml"}
NEW_USERS = "conf/new-users.csv"


class JobFailed(Exception):
    """A job ended with an exit code other than 0; it has said why."""

    def __init__(self, job: str, exit_code: int) -> None:
        super().__init__(f"{job} ended with exit code {exit_code}")
        self.exit_code = exit_code


def run(jobs: str, *arguments: str) -> list[dict[str, Any]]:
    """Run jobs as a user would, several joined by +; the JSON object that each ends with. Log goes to standard error.

    Raises:
        JobFailed: the exit code is not 0.
    """
    results: list[dict[str, Any]] = []
    with subprocess.Popen(
        [str(ROOT / "spark-submit.sh"), jobs, *arguments], stdout=subprocess.PIPE, text=True
    ) as process:
        # spark-submit merges the jobs' own standard error into its standard output: all but their last lines is log.
        for line in process.stdout or ():
            if line.startswith('{"job": '):
                results.append(json.loads(line))
            else:
                print(line, end="", file=sys.stderr, flush=True)
    if process.returncode != 0:
        raise JobFailed(jobs, process.returncode)
    return results


def config_arguments(data: DemoData) -> list[str]:
    """Arguments that make a job read this data."""
    arguments = ["--config", CONFIGS[data.layout]]
    for table, path in data.files.items():
        arguments += ["--set", f"sources.{table}.path={path}"]
    return arguments


def count_lines(counts: Mapping[str, int]) -> Iterator[str]:
    """Rows in, used and quarantined, a line a table."""
    for table in ("ratings", "users", "items"):
        if f"{table}_in" in counts:
            rows, used, out = (counts.get(f"{table}_{what}", 0) for what in ("in", "used", "quarantined"))
            yield f"  {table:<8} {rows:>8,} in   {used:>8,} used   {out:>6,} quarantined"


def metric_lines(metrics: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """RMSE of the model beside each baseline's, a line a cell."""
    for cell, found in metrics.items():
        scores = {name: of["rmse"] for name, of in found.items() if isinstance(of, Mapping) and of.get("rmse")}
        beside = "   ".join(f"{name.replace('_', ' ')} {rmse:.4f}" for name, rmse in scores.items())
        yield f"  {cell:<22} {found.get('n', 0):>7,} ratings   {beside}"


def list_lines(metrics: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """NDCG of the model's lists beside those that are the same for everybody, a line a cell."""
    for cell, found in metrics.items():
        gains = {
            name: next((value for metric, value in of.items() if metric.startswith("ndcg@")), None)
            for name, of in found.items()
            if isinstance(of, Mapping)
        }
        beside = "   ".join(f"{name.replace('_', ' ')} {gain:.4f}" for name, gain in gains.items() if gain is not None)
        if beside:
            yield f"  {cell:<22} {beside}"


def sample_lines(samples: list[Mapping[str, Any]]) -> Iterator[str]:
    """Recommendations with their titles, a line a user."""
    for sample in samples[:3]:
        items = ", ".join(f"{item['title']} ({item['score']:.2f})" for item in sample["items"][:3])
        yield f"  user {sample['user_id']}: {items}"
        if reasons := sample["items"][0].get("reasons"):
            yield f"    the first because of {', '.join(reasons)}"


def summary(night: Mapping[str, Any], predict: Mapping[str, Any]) -> Iterator[str]:
    """What the two jobs did, line by line."""
    yield "Rows"
    yield from count_lines(night["counts"])
    yield "RMSE on held-out ratings"
    yield from metric_lines(night["metrics"])
    lists = list(list_lines(night["metrics"]))
    if lists:
        yield "NDCG of lists (this model predicts ratings; for lists there is `objective: ranking`: docs/accuracy.md)"
        yield from lists
    yield "Recommendations, three users"
    yield from sample_lines(night.get("samples", []))
    if predict.get("samples"):
        yield f"Recommendations for users never seen before ({NEW_USERS})"
        yield from sample_lines(predict["samples"])
    yield "Written"
    # Of what both have, such as the report, the night's.
    for name, path in {**night["paths"], **predict["paths"], **night["paths"]}.items():
        yield f"  {name:<16} {path}"


def main() -> int:
    """Run the demo; the exit code."""
    parser = argparse.ArgumentParser(prog="make demo", description=__doc__)
    parser.add_argument("--source", metavar="DIR", help="a folder with MovieLens-100k as GroupLens packs it")
    source = parser.parse_args().source
    begun = time.perf_counter()
    try:
        data = find(source)
        print(f"MovieLens-100k, {data.layout} layout, in {data.folder}", flush=True)
        arguments = config_arguments(data)
        # In one Spark application: half of what a short job takes is its start.
        night, predict = run("night+predict", *arguments, "--set", f"predict.users.path={NEW_USERS}")
    except (NimcError, JobFailed) as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    print()
    print("\n".join(summary(night, predict)))
    print(
        f"Done in {time.perf_counter() - begun:.0f} s (night {night['seconds']:.0f}, predict {predict['seconds']:.0f})"
    )
    print(f"The next night: ./spark-submit.sh night {shlex.join(arguments)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
