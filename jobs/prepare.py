"""Raw ratings, users and items into the lake's tables; rejected rows into quarantine, each with its reason."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from jobs._job import Context, Result, run_job
from nimc_spark.io.prepare import Rules, prepare


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
        prepared = prepare(context.lake, sources, config.raw_columns(), rules, context.run_id, context.run_date)
    return Result(
        counts=prepared.counts,
        paths={name: context.lake.path(name) for name in prepared.versions},
        table_versions=prepared.versions,
        extra={"quarantine_reasons": prepared.reasons},
    )


def main(argv: Sequence[str]) -> int:
    return run_job("prepare", argv, body, __doc__ or "")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
