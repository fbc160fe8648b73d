"""Raw ratings, users and items into the lake's tables; rejected rows into quarantine, each with its reason."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import partial

from jobs._gates import input_checks, require
from jobs._job import Context, Result, run_job
from nimc_spark.io.books import Books
from nimc_spark.io.prepare import Rules, prepare
from nimc_spark.io.snapshots import snapshot_rows


def body(context: Context) -> Result:
    config = context.config
    sources = {name: source.readable() for name, source in config.sources if source is not None}
    rules = Rules(
        rating_range=config.rating_range,
        duplicates=config.duplicate_policy(),
        allow_cold=config.allow_cold,
        user_features=config.declared("users"),
        item_features=config.declared("items"),
    )
    with context.stage("prepare"):
        prepared = prepare(
            context.lake,
            sources,
            config.raw_columns(),
            rules,
            context.run_id,
            context.run_date,
            accept=partial(_judge, context),
        )
    return Result(
        counts=prepared.books.counts,
        paths={name: context.lake.path(name) for name in prepared.versions},
        table_versions=prepared.versions,
    )


def _judge(context: Context, books: Books) -> None:
    """Raises GateError where so few rows can be used that the tables had better stay."""
    context.enter_books(books)
    gates, counts = context.config.gates, books.counts
    if gates.rows_fall is None:
        return
    with context.stage("gates"):
        before = snapshot_rows(context.lake)
        checks = input_checks(gates.rows_fall, counts, before)
        lost = [
            f"{name} had {before[name]} rows, now {counts[f'{name}_used']} of {counts[f'{name}_in']} can be used "
            f"({getattr(context.config.sources, name).path})"
            for name, check in checks.items()
            if not check.holds
        ]
        require(context, "; ".join([*lost, "the tables stay as they were"]), list(checks.values()))


def main(argv: Sequence[str]) -> int:
    return run_job("prepare", argv, body, __doc__ or "")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
