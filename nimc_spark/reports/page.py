"""A page of results: text, tables and pictures as plain data, written as Markdown, CSV and PNG, or as one HTML file.

A study, a certificate or a run fills a `Page`; this module is the one place that knows files, matplotlib and jinja2.
"""

from __future__ import annotations

import base64
import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Cell: TypeAlias = str | int | float | None


@dataclass(frozen=True)
class Table:
    """Rows under named columns, written as `<page>-<name>.csv` and into the page."""

    name: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    note: str = ""


@dataclass(frozen=True)
class Lines:
    """A plot of y over x, a line each: {label: (x, y)}."""

    name: str
    x: str
    y: str
    series: Mapping[str, tuple[Sequence[float], Sequence[float]]]
    log_x: bool = False
    log_y: bool = False
    note: str = ""


@dataclass(frozen=True)
class HeatMaps:
    """Values (rows, columns) in [0, 1] over two axes, a picture beside the other: {title: values}."""

    name: str
    x: str
    y: str
    x_ticks: Sequence[Cell]
    y_ticks: Sequence[Cell]
    maps: Mapping[str, npt.NDArray[np.float64]]
    note: str = ""


Part: TypeAlias = str | Table | Lines | HeatMaps


@dataclass(frozen=True)
class Page:
    """`facts` are how it was made: command, seed, versions, seconds; `parts` stand in order, text as Markdown."""

    name: str
    title: str
    parts: Sequence[Part]
    facts: Mapping[str, str] = field(default_factory=dict)


def write_page(page: Page, folder: Path) -> Path:
    """Write the page and its tables and pictures into `folder`; the path of the Markdown file."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = [f"# {page.title}", ""]
    if page.facts:
        lines += [*(f"* {name}: {value}" for name, value in page.facts.items()), ""]
    for part in page.parts:
        lines += [_written(page, part, folder), ""]
    path = folder / f"{page.name}.md"
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def html_page(page: Page) -> str:
    """The page as one HTML file that needs no other: pictures are in it, all text is escaped.

    Text parts are Markdown as far as this: `## ` begins a heading, else a part is a paragraph.
    """
    from jinja2 import Environment, PackageLoader

    environment = Environment(loader=PackageLoader("nimc_spark.reports"), autoescape=True, trim_blocks=True)
    return environment.get_template("page.html.j2").render(page=page, kind=_kind, shown=shown, picture=_data_url)


def _kind(part: Part) -> str:
    if isinstance(part, str):
        return "heading" if part.startswith("## ") else "text"
    return "table" if isinstance(part, Table) else "picture"


def _data_url(part: Lines | HeatMaps) -> str:
    buffer = io.BytesIO()
    _drawn(part).savefig(buffer, format="png", dpi=110, metadata={"Software": None})
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def _drawn(part: Lines | HeatMaps) -> Any:
    return _lines(part) if isinstance(part, Lines) else _heat_maps(part)


def _written(page: Page, part: Part, folder: Path) -> str:
    if isinstance(part, str):
        return part
    stem = f"{page.name}-{part.name}"
    note = f"\n\n{part.note}" if part.note else ""
    if isinstance(part, Table):
        with (folder / f"{stem}.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerows([part.columns, *([_plain(cell) for cell in row] for row in part.rows)])
        return _markdown(part) + note
    figure = _drawn(part)
    # No version in the file: the same numbers give the same picture.
    figure.savefig(folder / f"{stem}.png", dpi=110, metadata={"Software": None})
    return f"![{part.name}]({stem}.png){note}"


def _markdown(table: Table) -> str:
    rows = [table.columns, ["---"] * len(table.columns), *([shown(cell) for cell in row] for row in table.rows)]
    return "\n".join(f"| {' | '.join(map(_escaped, row))} |" for row in rows)


def _escaped(cell: str) -> str:
    """A cell such as |Ω| would end itself."""
    return cell.replace("|", r"\|")


def shown(cell: Cell) -> str:
    """A cell as a person reads it: floats with five significant digits."""
    if cell is None:
        return ""
    return f"{cell:.5g}" if isinstance(cell, float) else str(cell)


def _plain(cell: Cell) -> Cell:
    return "" if cell is None else f"{cell:.10g}" if isinstance(cell, float) else cell


def _figure(width: float, height: float, columns: int = 1) -> tuple[Any, Any]:
    # A figure of its own canvas: no global state, and no display is looked for.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, np.atleast_1d(figure.subplots(1, columns))


def _lines(part: Lines) -> Any:
    figure, (axes,) = _figure(7, 4.2)
    for label, (x, y) in part.series.items():
        axes.plot(x, y, label=label, marker="o" if len(x) < 30 else None, markersize=3)
    axes.set(xlabel=part.x, ylabel=part.y)
    if part.log_x:
        axes.set_xscale("log")
    if part.log_y:
        axes.set_yscale("log")
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    return figure


def _heat_maps(part: HeatMaps) -> Any:
    figure, all_axes = _figure(4.2 * len(part.maps), 4, len(part.maps))
    for axes, (title, values) in zip(all_axes, part.maps.items(), strict=True):
        image = axes.imshow(values, origin="lower", vmin=0, vmax=1, aspect="auto", cmap="viridis")
        axes.set(title=title, xlabel=part.x, ylabel=part.y)
        axes.set_xticks(range(len(part.x_ticks)), [str(t) for t in part.x_ticks], fontsize="x-small", rotation=90)
        axes.set_yticks(range(len(part.y_ticks)), [str(t) for t in part.y_ticks], fontsize="x-small")
    figure.colorbar(image, ax=list(all_axes))
    return figure
