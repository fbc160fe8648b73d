"""Raw ratings, users and items into the lake's tables; rejected rows into quarantine, each with its reason."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence

from jobs._gates import input_checks, require
from jobs._job import Context, Result, run_job
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
            accept=lambda counts: _judge(context, counts),
        )
    return Result(
        counts=prepared.counts,
        paths={name: context.lake.path(name) for name in prepared.versions},
        table_versions=prepared.versions,
        extra={"quarantine_reasons": prepared.reasons},
    )


def _judge(context: Context, counts: Mapping[str, int]) -> None:
    """Raises GateError where so many rows are missing that the tables had better stay."""
    context.counts |= counts
    gates = context.config.gates
    before = {} if gates.rows_fall is None else snapshot_rows(context.lake)
    rows = [f"{name} {n}, now {counts.get(f'{name}_used', 0)}" for name, n in sorted(before.items())]
    require(context, f"the tables stay as they were: rows of {'; of '.join(rows)}", input_checks(gates, counts, before))


def main(argv: Sequence[str]) -> int:
    return run_job("prepare", argv, body, __doc__ or "")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
