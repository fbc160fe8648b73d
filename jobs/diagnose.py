"""Certifies a model: gradient norm, extreme curvatures, the step they imply, and the loss along their directions."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jobs._job import Context, Result, run_job
from jobs._tables import check_same_split, load_model, read_tables, split_ratings
from nimc_spark import __version__
from nimc_spark.engine.cells import MAIN
from nimc_spark.io.registry import Entry
from nimc_spark.ml.certificate import Certificate, certificate
from nimc_spark.reports.page import Lines, Page, Table, write_page

# Below the working folder: a certificate is for people, the lake is for tables.
FOLDER = "certificates"


def body(context: Context) -> Result:
    with context.stage("read"):
        entry = context.registry.resolve(context.config.score.model)
        # The very rows that the model was trained on, whatever the tables hold by now.
        tables = read_tables(context, entry.lineage["table_versions"])
        check_same_split(context.config, entry.lineage["split"])
        training, _ = split_ratings(context.config, tables.ratings)
        model = load_model(entry.path, tables, training)
    metrics: dict[str, Any] = {}
    paths = {"model": entry.path}
    for name, member in model.members.items():
        of = f".{name}" if model.router else ""
        with context.stage(f"certificate{of}"):
            found = certificate(member, training)
        paths[f"certificate{of}"] = str(write_page(_page(entry, of, found), Path(FOLDER)))
        metrics[name] = found.figures()
        context.log.info("diagnose%s: %s", of, found.verdict)
    return Result(
        metrics=metrics if model.router else metrics[MAIN],
        paths=paths,
        table_versions=tables.versions,
        extra={"model_version": entry.version},
    )


def _page(entry: Entry, of: str, found: Certificate) -> Page:
    """The page of a model, or `of` one of its members."""
    facts = {"training run": str(entry.lineage["run_id"]), "verdict": found.verdict, "nimc-spark": __version__}
    figures = Table("figures", ["figure", "value"], [[key, value] for key, value in found.figures().items()])
    series = {f"{label} eigenvector": line for label, line in found.landscape.items()}
    note = (
        "Eigenvalues and distances are in the solver's variables, parameters over their scale, where gd takes its step."
    )
    landscape = Lines("landscape", "distance from the model", "loss", series, note=note)
    title = f"Certificate of {entry.name}{of}, version {entry.version}"
    return Page(f"{entry.name}{of}-{entry.version}", title, [figures, landscape], facts)


def main(argv: Sequence[str]) -> int:
    return run_job("diagnose", argv, body, __doc__ or "")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
