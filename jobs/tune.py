"""Searches settings on a validation part of the training ratings, and trains the best as candidate."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Sequence
from dataclasses import replace

import yaml

from jobs import train
from jobs._estimator import estimator
from jobs._job import Context, Result, run_job
from jobs._space import Setting, base_tree, coordinates, setting_config
from jobs._tables import read_tables, split_ratings, split_spec
from nimc_spark.engine.context import held
from nimc_spark.engine.splits import split
from nimc_spark.errors import UsageError
from nimc_spark.io.contracts import ITEM, TIMESTAMP, USER, ddl
from nimc_spark.ml import NIMC
from nimc_spark.ml.persistence import write_folder
from nimc_spark.ml.tuning import Budget, Found, Trial, search

# The validation rows of one kind of split are no images of its held-out rows: another seed draws them.
_OTHER_SEED = 1


def body(context: Context) -> Result:
    config = context.config
    if config.members:
        raise UsageError(
            "tune searches the settings of one model, but the config has members: tune each by a config of its own "
            "without members and router, and take over what is found"
        )
    tree = base_tree(config)
    with context.stage("read"):
        tables = read_tables(context)
        rows, _ = split_ratings(config, tables.ratings)
        spec = replace(split_spec(config), fraction=config.tune.validation, seed=config.split.seed + _OTHER_SEED)
        time = TIMESTAMP if config.columns.time is not None else None
        parts = split(rows, spec, USER, ITEM, time)

    def make(setting: Setting) -> NIMC:
        return estimator(setting_config(tree, setting)).setUsers(tables.users).setItems(tables.items)

    budget = Budget(config.tune.rounds, config.tune.max_passes or math.inf, config.tune.minutes or math.inf)
    with (
        context.stage("search"),
        held(parts[0]) as training,
        held(parts[1]) as validation,
        context.progress("trial") as progress,
    ):

        def show(trial: Trial) -> None:
            progress.step(f"{trial.coordinate} {trial.state}: validation error {trial.error:.5f}")

        found = search(make, coordinates(config, tree), training, validation, budget, config.evaluate.k, show)
    for warning in found.warnings:
        context.log.warning("tune: %s", warning)
    best = setting_config(tree, found.best)
    with context.stage("write"):
        version = _write(context, found)
        folder = f"{context.lake.path('tuned')}/{context.run_id}"
        text = yaml.safe_dump(json.loads(best.model_dump_json(by_alias=True, exclude_none=True)), sort_keys=False)
        write_folder(folder, {"config.yaml": text.encode()}, overwrite=False)
    with context.stage("train"):
        trained = train.body(replace(context, config=best))
    metrics = {**trained.metrics, "validation_error": found.error, "trials": len(found.trials)}
    paths = {**trained.paths, "config": f"{folder}/config.yaml", "trials": context.lake.path("trials")}
    extra = {**trained.extra, "best": dict(found.best), "warnings": found.warnings}
    return Result(trained.counts, metrics, paths, {**trained.table_versions, "trials": version}, extra)


def _write(context: Context, found: Found) -> int:
    """One row a trial; those of the run_date are replaced."""
    rows = [
        (
            context.run_date,
            context.run_id,
            trial.number,
            trial.coordinate,
            json.dumps(dict(trial.setting), sort_keys=True),
            trial.passes,
            trial.loss,
            trial.error,
            trial.seconds,
            trial.state,
        )
        for trial in found.trials
    ]
    frame = context.spark.createDataFrame(rows, ddl("trials")).coalesce(1)
    return context.lake.write("trials", frame, replace_where={"run_date": context.run_date}).version


def main(argv: Sequence[str]) -> int:
    return run_job("tune", argv, body, __doc__ or "")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
