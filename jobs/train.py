"""Trains on the split's training ratings and registers the model as candidate."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

from pyspark.sql import DataFrame

from jobs._estimator import estimator
from jobs._job import Context, Result, run_job
from jobs._tables import Tables, read_tables, split_ratings, split_sizes, split_spec
from nimc_spark import __version__
from nimc_spark.engine.cells import MAIN
from nimc_spark.engine.splits import check_split_counts
from nimc_spark.errors import TrainingError
from nimc_spark.io.registry import Alias, Entry
from nimc_spark.ml import NIMC, NIMCModel
from nimc_spark.ml.model import check_same_params
from nimc_spark.solvers.multistart import PassRecord

STATE_FOLDER = "training_state"


def body(context: Context) -> Result:
    with context.stage("read"):
        tables = read_tables(context)
        training, _ = split_ratings(context.config, tables.ratings)
        sizes = split_sizes(context.config, tables.ratings)
        check_split_counts(sizes["ratings_training"], sizes["ratings_held_out"], split_spec(context.config))
    earlier = _earlier(context)
    model = fit(context, tables, training, earlier)
    with context.stage("save"):
        split = context.config.split.model_dump(mode="json")
        lineage = {"split": split, "warm_start": None if earlier is None else earlier.version}
        context.entry = entry = register(context, model, tables, "candidate", lineage)
    summaries = [member.summary for member in model.members.values()]
    counts = {
        **sizes,
        "users_trained": summaries[0].users,
        "items_trained": summaries[0].items,
        "parameters": sum(summary.parameters for summary in summaries),
    }
    extra = {"model_version": entry.version}
    return Result(counts, _metrics(model), {"model": entry.path}, tables.versions, extra)


def _earlier(context: Context) -> Entry | None:
    """What training begins from. Raises DataError for a version that is not there."""
    which = context.config.train.warm_start
    if which is None or isinstance(which, int):
        return None if which is None else context.registry.resolve(which)
    found = context.registry.latest(which)
    if found is None:
        context.log.info("train: there is no model in %s to begin from, so it begins anew", which)
    return found


def fit(context: Context, tables: Tables, ratings: DataFrame, earlier: Entry | None = None) -> NIMCModel:
    """A model as the config says, trained on some ratings, from an earlier one if there is one.

    Raises TrainingError also for one that collapsed.
    """
    config = context.config
    estimators = {name: estimator(own) for name, own in config.by_member().items()}
    check_same_params(estimators)
    if earlier is not None:
        context.log.info("train: begins from version %d", earlier.version)
        known = NIMCModel.load(earlier.path).members
        for name, nimc in estimators.items():
            nimc.setInitialModel(known.get(name))
            if name not in known:
                context.log.warning("train: version %d has no member %s, which begins anew", earlier.version, name)
    with context.stage("train"):
        fitted = {name: _fitted(context, name, nimc, tables, ratings) for name, nimc in estimators.items()}
    return NIMCModel.routed(fitted, config.router) if config.members else fitted[MAIN]


def _fitted(context: Context, name: str, nimc: NIMC, tables: Tables, ratings: DataFrame) -> NIMCModel:
    """The model of one member. Raises TrainingError, naming it, if it collapsed."""
    every, seconds = context.config.train.save_every, context.config.train.max_seconds
    folder = context.lake.path(f"{STATE_FOLDER}/{context.config.name}")
    nimc.setParams(stateDir=folder if every else None, stateInterval=every, maxSeconds=seconds)
    about = "" if name == MAIN else f"{name}: "
    with context.progress(f"{about}pass", nimc.getOrDefault("maxIter")) as progress:

        def show(record: PassRecord) -> None:
            progress.step(f"loss {min(record.losses):.6g}")

        model = nimc.setUsers(tables.users).setItems(tables.items).setOnPass(show).fit(ratings)
    summary = model.summary
    if summary.collapsed:
        raise TrainingError(
            f"{about}training collapsed: the factors tell no pair from another, every score is offset and linear terms "
            "alone; lower model.reg, or choose another activation or model.seed"
        )
    context.warnings += [f"{about}{warning}" for warning in summary.warnings]
    context.log.info("train: %sstopped after %d passes: %s", about, summary.passes, summary.reason)
    return model


def _metrics(model: NIMCModel, *more: str) -> dict[str, Any]:
    """How training went, for each member where there are several; `more` are further fields of its summary."""
    found = {
        name: {
            "loss": member.summary.loss,
            "passes": member.summary.passes,
            "stop_reason": member.summary.reason,
            **{field: getattr(member.summary, field) for field in more},
        }
        for name, member in model.members.items()
    }
    return found if model.router else found[MAIN]


def register(
    context: Context, model: NIMCModel, tables: Tables, alias: Alias, more_lineage: Mapping[str, Any]
) -> Entry:
    """Save the model and register it as the next version."""
    path = context.registry.new_path()
    model.write().save(path)
    lineage = {
        "run_id": context.run_id,
        "table_versions": dict(tables.versions),
        "config_hash": context.config_hash,
        "code_version": __version__,
        "seed": model.getOrDefault("seed"),
        **more_lineage,
    }
    return context.registry.register(path, alias=alias, metrics=_metrics(model, "losses"), lineage=lineage)


def main(argv: Sequence[str]) -> int:
    return run_job("train", argv, body, __doc__ or "")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
