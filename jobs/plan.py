"""Says what training will take before anything is built: grid, bytes, memory, passes, time, and Spark settings."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from jobs._estimator import estimator
from jobs._job import Context, Result, run_job
from jobs._tables import read_tables, split_ratings
from nimc_spark.engine.cells import MAIN
from nimc_spark.engine.passes_at import PassesAt
from nimc_spark.ml.plan import TrainingPlan, training_plan


def body(context: Context) -> Result:
    with context.stage("read"):
        tables = read_tables(context)
        training, _ = split_ratings(context.config, tables.ratings)
    plans: dict[str, TrainingPlan] = {}
    for name, own in context.config.by_member().items():
        nimc = estimator(own).setUsers(tables.users).setItems(tables.items)
        with context.stage("plan" if name == MAIN else f"plan.{name}"):
            plans[name] = training_plan(nimc, training, nimc.inputs(context.spark))
        _show(context, name, plans[name])
    cores = int(context.spark.conf.get("spark.executor.cores", "1") or 1)
    partitions = int(context.spark.conf.get("spark.sql.shuffle.partitions", "200") or 200)
    figures: dict[str, Any] = {
        name: {**plan.figures(), "conf": plan.conf(cores, partitions)} for name, plan in plans.items()
    }
    return Result(metrics=figures if context.config.members else figures[MAIN], table_versions=tables.versions)


def _show(context: Context, name: str, plan: TrainingPlan) -> None:
    about = "" if name == MAIN else f"{name}: "
    log, mega = context.log.info, 1 / (1 << 20)
    log("plan: %s%d ratings, about %d users and %d items", about, plan.ratings, plan.users, plan.items)
    log("plan: %s%d + %d feature columns, %d parameters, solver %s in %s", about, plan.user_columns, plan.item_columns,
        plan.parameters, plan.solver, plan.dtype)  # fmt: skip
    log("plan: %spasses run %s, the items' features are evaluated %s", about, plan.passes_at, plan.items_at)
    log("plan: %s%d lanes x %d item parts, %.0f MB of blocks", about, plan.lanes, plan.item_parts, plan.blocks * mega)
    if plan.passes_at == PassesAt.EXECUTORS.value:
        log("plan: %sexecutors keep the blocks twice, in Spark's memory and as files in spark.local.dir", about)
    log("plan: %sa task needs %.0f MB, the driver %.0f MB", about, plan.task_memory * mega, plan.driver_memory * mega)
    log("plan: %sa pass sends %.1f MB, returns %.1f MB and takes about %.2f s; at most %d passes", about,
        plan.pass_sends * mega, plan.pass_returns * mega, plan.seconds, plan.passes)  # fmt: skip


def main(argv: Sequence[str]) -> int:
    return run_job("plan", argv, body, __doc__ or "")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
