"""Searches settings on a validation part of the training ratings, and trains the best as candidate."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace

import yaml
from pyspark.sql import DataFrame

from jobs import train
from jobs._config import Config
from jobs._estimator import estimator
from jobs._job import Context, Result, run_job
from jobs._space import Setting, base_tree, best_config, coordinates, keyed_by_member, member_key, setting_config
from jobs._tables import Tables, read_tables, split_ratings, split_spec
from nimc_spark.engine.cells import MAIN, kind_of_cells
from nimc_spark.engine.splits import Split, split
from nimc_spark.io.contracts import ITEM, TIMESTAMP, USER, ddl
from nimc_spark.ml import NIMC
from nimc_spark.ml.persistence import write_folder
from nimc_spark.ml.tuning import START, Budget, Found, Trial, held_folds, search

# The validation rows of one kind of split are no images of its held-out rows: another seed draws them.
_OTHER_SEED = 1


def body(context: Context) -> Result:
    config = context.config
    with context.stage("read"):
        tables = read_tables(context)
        rows, _ = split_ratings(config, tables.ratings)
    found, settings = {}, {}
    for name, own in config.by_member().items():
        about = f"{name}: " if config.members else ""
        with context.stage(f"search {name}" if config.members else "search"):
            found[name] = _searched(context, own, _validation(config, name), rows, tables, about)
        settings[name] = found[name].best
        for warning in found[name].warnings:
            context.log.warning("tune: %s%s", about, warning)
            context.warnings.append(f"{about}{warning}")
    best = best_config(config, settings)
    with context.stage("write"):
        version = _write(context, found)
        folder = f"{context.lake.path('tuned')}/{context.run_id}"
        text = yaml.safe_dump(json.loads(best.model_dump_json(by_alias=True, exclude_none=True)), sort_keys=False)
        write_folder(folder, {"config.yaml": text.encode()}, overwrite=False)
    with context.stage("train"):
        trained = train.body(replace(context, config=best))
    searches = {name: {"validation_error": own.error, "trials": len(own.trials)} for name, own in found.items()}
    if config.members:
        metrics = {name: {**trained.metrics[name], **own} for name, own in searches.items()}
    else:
        metrics = {**trained.metrics, **searches[MAIN]}
    paths = {**trained.paths, "config": f"{folder}/config.yaml", "trials": context.lake.path("trials")}
    extra = {**trained.extra, "best": keyed_by_member(config, settings)}
    return Result(trained.counts, metrics, paths, {**trained.table_versions, "trials": version}, extra)


def _validation(config: Config, member: str) -> Split:
    """How the validation part is drawn: as the held-out rows are, or for one of several members as it will be used."""
    spec = split_spec(config)
    if config.members:
        spec = replace(spec, by=kind_of_cells([cell for cell, speaks in config.router.items() if speaks == member]))
    return replace(spec, fraction=config.tune.validation, seed=config.split.seed + _OTHER_SEED)


def _searched(context: Context, config: Config, spec: Split, rows: DataFrame, tables: Tables, about: str) -> Found:
    """What a search over the settings of one model finds on `rows`."""
    tree = base_tree(config)
    time = TIMESTAMP if config.columns.time is not None else None
    parts = [split(rows, fold, USER, ITEM, time) for fold in spec.folds(config.tune.folds)]

    def make(setting: Setting) -> NIMC:
        return estimator(setting_config(tree, setting)).setUsers(tables.users).setItems(tables.items)

    budget = Budget(config.tune.rounds, config.tune.max_passes or math.inf, config.tune.minutes or math.inf)
    with held_folds(parts) as folds, context.progress(f"{about}trial") as progress:

        def show(trial: Trial) -> None:
            value = "" if trial.coordinate == START else f" = {trial.setting[trial.coordinate]}"
            progress.step(f"{trial.coordinate}{value} {trial.state}: validation error {trial.error:.5f}")

        return search(make, coordinates(config, tree), folds, budget, config.evaluate.k, show)


def _write(context: Context, found: Mapping[str, Found]) -> int:
    """One row a trial; those of the run_date are replaced."""
    config = context.config
    every = [(name, trial) for name, own in found.items() for trial in own.trials]
    rows = [
        (
            context.run_date,
            context.run_id,
            number,
            trial.coordinate if trial.coordinate == START else member_key(config, name, trial.coordinate),
            json.dumps(keyed_by_member(config, {name: trial.setting}), sort_keys=True),
            trial.passes,
            trial.loss,
            trial.error,
            trial.seconds,
            trial.state,
        )
        for number, (name, trial) in enumerate(every, start=1)
    ]
    frame = context.spark.createDataFrame(rows, ddl("trials")).coalesce(1)
    return context.lake.write("trials", frame, replace_where={"run_date": context.run_date}).version


def main(argv: Sequence[str]) -> int:
    return run_job("tune", argv, body, __doc__ or "")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
