"""Measures a candidate on its held-out ratings, in cells of known and new ids, beside baselines and production."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from pyspark.sql import DataFrame

from jobs._config import Split
from jobs._job import Context, Result, run_job
from jobs._tables import check_same_split, read_tables, shared_model, split_ratings
from nimc_spark.engine.context import held
from nimc_spark.errors import GateError
from nimc_spark.io.contracts import ITEM, USER, ddl
from nimc_spark.io.registry import Entry
from nimc_spark.ml.evaluation import Ranking, evaluate_model, overall

# Of predictions from the lowest to the highest, in the report.
_BINS = 20
_OF_RATINGS = ("rmse", "rmse_se", "mae")


def body(context: Context) -> Result:
    config = context.config
    entry = context.entry = context.entry or context.registry.resolve("candidate")
    check_same_split(config, entry.lineage["split"])
    with context.stage("read"):
        tables = read_tables(context, entry.lineage["table_versions"])
        parts = split_ratings(config, tables.ratings)
        model = shared_model(context, entry.path, tables, training_only=True)
        rival = _rival(context, entry)
        held_out = parts[1] if rival is None else _unknown_to(context, rival, parts[1])
    ranking = Ranking.of(model, config.evaluate.k, config.evaluate.relevant)
    with context.stage("evaluate"), held(parts[0]) as training, held(held_out) as judges:
        context.kept.enter_context(model.heldFactors())
        cells, calibration = evaluate_model(model, training, judges, ranking, _BINS)
        if rival is not None:
            theirs = shared_model(context, rival.path, tables, training_only=True)
            _add_production(cells, evaluate_model(theirs, training, judges, ranking).cells)
    _warn(context, cells)
    with context.stage("write"):
        version = _write(context, entry, cells)
    paths = {"metrics": context.lake.path("metrics"), "model": entry.path}
    context.metrics = cells
    counts = {"ratings_held_out": sum(cell["n"] for cell in cells.values())}
    extra = {"model_version": entry.version, "calibration": [asdict(own) for own in calibration]}
    return Result(counts, cells, paths, {**tables.versions, "metrics": version}, extra)


def _warn(context: Context, cells: Mapping[str, Mapping[str, Any]]) -> None:
    """Says where a model is worse than what needs none."""
    for metric, predictor, better in (("rmse", "global_mean", min), ("ndcg", "popularity", max)):
        own, other = (overall(cells, name).get(metric) for name in ("model", predictor))
        if own is not None and other is not None and better(own, other) != own:
            name = predictor.replace("_", " ")
            text = f"the model's {metric} of {own:.4g} is worse than {other:.4g}, that of the {name}"
            context.log.warning("evaluate: %s", text)
            context.warnings.append(text)


def _rival(context: Context, entry: Entry) -> Entry | None:
    """The model in production, as it was before a refit; None where no gate asks for it, or it is this one."""
    gates = context.config.gates
    production = context.registry.latest("production")
    if production is None or (gates.rmse_rise is None and gates.ndcg_fall is None):
        return None
    base = production.lineage.get("refit_of")
    rival = production if base is None else context.registry.resolve(base)
    return None if rival.version == entry.version else rival


def _unknown_to(context: Context, rival: Entry, held_out: DataFrame) -> DataFrame:
    """The held-out ratings that the rival was not trained on either. Raises GateError if there are none."""
    config, split = context.config, rival.lineage["split"]
    # What a hash of an id holds out, it holds out every night.
    if split == config.split.model_dump(mode="json") and split["by"] in ("user", "item", "both"):
        return held_out
    with_its_split = config.model_copy(update={"split": Split(**split)})
    ratings = read_tables(context, rival.lineage["table_versions"]).ratings
    trained = split_ratings(with_its_split, ratings)[0].select(USER, ITEM).distinct()
    rest = held_out.join(trained, [USER, ITEM], "anti")
    if rest.isEmpty():
        raise GateError(
            f"no held-out rating is unknown to version {rival.version}, which is in production and was trained with "
            f"split {split}: give the config its split, or set gates.rmse_rise and gates.ndcg_fall to null"
        )
    return rest


def _add_production(cells: Mapping[str, dict[str, Any]], rival: Mapping[str, Mapping[str, Any]]) -> None:
    for name, cell in cells.items():
        if "model" in rival[name]:
            cell["production"] = rival[name]["model"]


def _write(context: Context, entry: Entry, cells: Mapping[str, Mapping[str, Any]]) -> int:
    """One row a number; those of this model version and run_date are replaced."""
    rows = [
        (
            context.run_date,
            context.run_id,
            entry.name,
            entry.version,
            cell,
            predictor,
            metric,
            float(value),
            _count(cell_of, of, metric),
        )
        for cell, cell_of in cells.items()
        for predictor, of in cell_of.items()
        if isinstance(of, Mapping)
        for metric, value in of.items()
        if metric != "users" and math.isfinite(value)
    ]
    frame = context.spark.createDataFrame(sorted(rows), ddl("metrics")).coalesce(1)
    where = {"run_date": context.run_date, "model_name": entry.name, "model_version": entry.version}
    return context.lake.write("metrics", frame, replace_where=where).version


def _count(cell: Mapping[str, Any], of: Mapping[str, Any], metric: str) -> int:
    """What the mean is over: ratings for errors, users for list metrics."""
    return int(cell["n"] if metric in _OF_RATINGS else of["users"])


def main(argv: Sequence[str]) -> int:
    return run_job("evaluate", argv, body, __doc__ or "")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
