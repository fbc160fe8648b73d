"""Trains on the split's training ratings and registers the model as candidate."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from jobs._estimator import estimator
from jobs._job import Context, Result, run_job
from jobs._tables import Tables, read_tables, split_ratings, split_sizes, split_spec
from nimc_spark import __version__
from nimc_spark.engine.splits import check_split_counts
from nimc_spark.errors import TrainingError
from nimc_spark.io.registry import Entry
from nimc_spark.ml import NIMCModel
from nimc_spark.solvers.multistart import PassRecord


def body(context: Context) -> Result:
    with context.stage("read"):
        tables = read_tables(context)
        training, _ = split_ratings(context.config, tables.ratings)
        sizes = split_sizes(context.config, tables.ratings)
        check_split_counts(sizes["ratings_training"], sizes["ratings_held_out"], split_spec(context.config))
    nimc = estimator(context.config).setUsers(tables.users).setItems(tables.items)
    with context.stage("train"), context.progress("pass", nimc.getOrDefault("maxIter")) as progress:

        def show(record: PassRecord) -> None:
            progress.step(f"loss {min(record.losses):.6g}")

        model = nimc.setOnPass(show).fit(training)
    summary = model.summary
    if summary.collapsed:
        raise TrainingError(
            "training collapsed: the factors tell no pair from another, every score is offset and linear terms alone; "
            "lower model.reg, or choose another activation or model.seed"
        )
    context.log.info("train: stopped after %d passes: %s", summary.passes, summary.reason)
    with context.stage("save"):
        entry = _register(context, model, tables)
    metrics = {"loss": summary.loss, "passes": summary.passes, "stop_reason": summary.reason}
    counts = {**sizes, "users_trained": summary.users, "items_trained": summary.items, "parameters": summary.parameters}
    return Result(counts, metrics, {"model": entry.path}, tables.versions, {"model_version": entry.version})


def _register(context: Context, model: NIMCModel, tables: Tables) -> Entry:
    """Save and register the next version."""
    version = context.registry.next_version()
    path = context.registry.path(version)
    # Files that an interrupted run left under this number were never registered: nobody reads them.
    model.write().overwrite().save(path)
    lineage = {
        "run_id": context.run_id,
        "table_versions": dict(tables.versions),
        "split": context.config.split.model_dump(mode="json"),
        "config_hash": context.config_hash,
        "code_version": __version__,
        "seed": model.getOrDefault("seed"),
    }
    summary = model.summary
    metrics = {"loss": summary.loss, "passes": summary.passes, "stop_reason": summary.reason, "losses": summary.losses}
    return context.registry.register(version, metrics=metrics, lineage=lineage)


def main(argv: Sequence[str]) -> int:
    return run_job("train", argv, body, __doc__ or "")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
