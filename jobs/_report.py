"""What a run did, as one page for people: the result line with its tables, curves and lists."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from nimc_spark.reports.page import Cell, Lines, Page, Part, Table

Line = Mapping[str, Any]
_BOOKS = ("in", "used", "quarantined")
# Half the width of an interval that holds the true value in 95 of 100 cases, in standard errors.
_NORMAL_95 = 1.96
_NO_LIST_METRIC = ("rmse", "rmse_se", "mae", "users")


def run_page(line: Line, facts: Mapping[str, str], losses: Mapping[str, Sequence[float]]) -> Page:
    """The page of a run from its result line; `losses` are those of each model after each of its passes."""
    about = {"status": f"{line['status']}, exit code {line['exit_code']}", **facts, "took": f"{line['seconds']:.0f} s"}
    parts: list[Part] = []
    sections: Sequence[tuple[str, Iterator[Part]]] = (
        ("What went wrong", _error(line)),
        ("Warnings", iter(str(text) for text in line.get("warnings", ()))),
        ("What came in", _books(line)),
        ("Training", _training(losses)),
        ("On held-out ratings", _metrics(line)),
        ("Calibration", _calibration(line)),
        ("Gates", _gates(line)),
        ("Some lists", _samples(line)),
        ("Counts", _counts(line)),
        ("Times", _times(line)),
        ("Where it is", _paths(line)),
    )
    for title, found in sections:
        own = list(found)
        parts += [f"## {title}", *own] if own else []
    return Page("report", f"{line['job']} for {facts['run date']}", parts, about)


def _error(line: Line) -> Iterator[Part]:
    if "error" in line:
        yield str(line["error"])


def _books(line: Line) -> Iterator[Part]:
    counts = line["counts"]
    names = [key.removesuffix("_in") for key in counts if key.endswith("_in") and f"{key[:-3]}_used" in counts]
    if names:
        yield Table("books", ["table", *_BOOKS], [[name, *(counts[f"{name}_{b}"] for b in _BOOKS)] for name in names])
    reasons = line.get("quarantine_reasons", {})
    rows: list[list[Cell]] = [[table, reason, n] for table, by in reasons.items() for reason, n in by.items()]
    if rows:
        yield Table("reasons", ["table", "why in quarantine", "rows"], rows)


def _training(losses: Mapping[str, Sequence[float]]) -> Iterator[Part]:
    series = {name: (list(range(1, len(of) + 1)), list(of)) for name, of in losses.items() if of}
    if series:
        yield Lines("training", "pass", "objective", series)


def _metrics(line: Line) -> Iterator[Part]:
    """Figures of cells with baselines; other jobs have metrics of other shapes."""
    cells = {name: of for name, of in line["metrics"].items() if isinstance(of, Mapping) and "n" in of}
    rows: list[list[Cell]] = []
    lists: list[list[Cell]] = []
    for name, cell in cells.items():
        for predictor, of in cell.items():
            if isinstance(of, Mapping) and "rmse" in of:
                margin = _NORMAL_95 * of.get("rmse_se", 0.0)
                rows.append(
                    [name, cell["n"], predictor, of["rmse"], of["rmse"] - margin, of["rmse"] + margin, of["mae"]]
                )
            if isinstance(of, Mapping) and "coverage" in of:
                lists.append([name, of["users"], predictor, *(of[m] for m in of if m not in _NO_LIST_METRIC)])
    if rows:
        columns = ["cell", "ratings", "predictor", "RMSE", "from", "to", "MAE"]
        yield Table("errors", columns, rows, "From … to: 95 % interval of the RMSE, as if ratings were independent.")
    if lists:
        metrics = [m for cell in cells.values() for m in cell.get("model", {}) if m not in _NO_LIST_METRIC]
        yield Table("lists", ["cell", "users", "predictor", *dict.fromkeys(metrics)], lists)


def _calibration(line: Line) -> Iterator[Part]:
    bins = line.get("calibration", ())
    if bins:
        predictions = [own["prediction"] for own in bins]
        series = {
            "held-out ratings": (predictions, [own["rating"] for own in bins]),
            "as predicted": (predictions, predictions),
        }
        note = f"Mean rating of held-out rows with like predictions, {sum(own['n'] for own in bins):,} rows in all."
        yield Lines("calibration", "mean prediction", "mean rating", series, note=note)


def _gates(line: Line) -> Iterator[Part]:
    rows: list[list[Cell]] = [
        [
            g["gate"],
            # NaN: there was nothing to measure it on, such as no model in production.
            g["value"] if g["value"] == g["value"] else "not measured",
            f"{'at least' if g['least'] else 'at most'} {g['limit']:g}",
            "" if g["holds"] else "refused",
        ]
        for g in line.get("gates", ())
    ]
    if rows:
        yield Table("gates", ["gate", "value", "limit", ""], rows)


def _samples(line: Line) -> Iterator[Part]:
    rows: list[list[Cell]] = [
        [str(sample["user_id"]), place, item["title"], item["score"], ", ".join(item.get("reasons", ()))]
        for sample in line.get("samples", ())
        for place, item in enumerate(sample["items"], start=1)
    ]
    columns = ["user", "rank", "item", "score", "because of"]
    if rows and not any(row[-1] for row in rows):
        columns, rows = columns[:-1], [row[:-1] for row in rows]
    if rows:
        yield Table("samples", columns, rows)


def _counts(line: Line) -> Iterator[Part]:
    rows: list[list[Cell]] = [[name.replace("_", " "), n] for name, n in line["counts"].items()]
    if rows:
        yield Table("counts", ["what", "how many"], rows)


def _times(line: Line) -> Iterator[Part]:
    rows: list[list[Cell]] = [[stage, float(seconds)] for stage, seconds in line.get("stages", {}).items()]
    if rows:
        yield Table("times", ["stage", "seconds"], rows)


def _paths(line: Line) -> Iterator[Part]:
    rows: list[list[Cell]] = [[name, path] for name, path in line["paths"].items()]
    if rows:
        yield Table("paths", ["what", "path"], rows)
