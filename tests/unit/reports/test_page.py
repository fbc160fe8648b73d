"""Pages: what a person reads, what a program reads, and pictures that are the same for the same numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from nimc_spark.reports.page import HeatMaps, Lines, Page, Part, Table, html_page, shown, write_page

TABLE = Table("sizes", ["name", "n", "share"], [["|a|", 3, 1 / 3], ["b", None, 1e-9]], note="Two rows.")
LINES = Lines("errors", "step", "error", {"gd": ([1.0, 2.0], [0.1, 0.01])}, log_y=True, note="It falls.")
MAPS = HeatMaps("maps", "n", "|Ω|", [1, 2], [3], {"one": np.array([[0.0, 1.0]]), "two": np.array([[0.5, 0.5]])})


def page(*parts: Part) -> Page:
    return Page("tiny", "A tiny page", parts, {"seed": "1", "versions": "x 2"})


def test_the_markdown_has_title_facts_and_parts_in_order(tmp_path: Path) -> None:
    path = write_page(page("Some *words*.", TABLE, LINES), tmp_path / "new" / "folder")
    assert path == tmp_path / "new" / "folder" / "tiny.md"
    assert path.read_text(encoding="utf-8") == (
        "# A tiny page\n\n* seed: 1\n* versions: x 2\n\nSome *words*.\n\n"
        "| name | n | share |\n| --- | --- | --- |\n| \\|a\\| | 3 | 0.33333 |\n| b |  | 1e-09 |\n\nTwo rows.\n\n"
        "![errors](tiny-errors.png)\n\nIt falls.\n"
    )


def test_a_page_without_facts_has_no_list_of_them(tmp_path: Path) -> None:
    path = write_page(Page("bare", "Bare", ["Words."]), tmp_path)
    assert path.read_text(encoding="utf-8") == "# Bare\n\nWords.\n"


def test_the_csv_has_ten_digits_and_empty_cells(tmp_path: Path) -> None:
    write_page(page(TABLE), tmp_path)
    assert (tmp_path / "tiny-sizes.csv").read_bytes() == b"name,n,share\n|a|,3,0.3333333333\nb,,1e-09\n"


@pytest.mark.parametrize(("part", "width"), [(LINES, 770), (MAPS, 924)])
def test_a_picture_has_the_same_bytes_when_drawn_again(tmp_path: Path, part: Lines | HeatMaps, width: int) -> None:
    first, second = (write_page(page(part), tmp_path / name).parent / f"tiny-{part.name}.png" for name in "ab")
    drawn = first.read_bytes()
    assert drawn[:8] == b"\x89PNG\r\n\x1a\n"
    # Of the header: the width in pixels, which is inches × 110.
    assert int.from_bytes(drawn[16:20], "big") == width
    assert drawn == second.read_bytes()


def test_different_numbers_draw_different_pictures(tmp_path: Path) -> None:
    other = Lines("errors", "step", "error", {"gd": ([1.0, 2.0], [0.1, 0.05])}, log_y=True)
    first, second = (
        write_page(page(p), tmp_path / n).parent / "tiny-errors.png" for p, n in ((LINES, "a"), (other, "b"))
    )
    assert first.read_bytes() != second.read_bytes()


def test_a_part_of_no_known_kind_is_not_dropped(tmp_path: Path) -> None:
    with pytest.raises((TypeError, AttributeError)):
        write_page(page(cast(Any, {"name": "dict"})), tmp_path)
    assert not (tmp_path / "tiny.md").exists()


@pytest.mark.parametrize(("cell", "text"), [(None, ""), (3, "3"), (2 / 3, "0.66667"), (1e6, "1e+06"), ("x", "x")])
def test_cells_as_a_person_reads_them(cell: str | int | float | None, text: str) -> None:
    assert shown(cell) == text


def test_as_html_it_needs_no_other_file_and_all_text_is_escaped() -> None:
    table = Table("films", ["title", "score"], [["<script>alert(1)</script>", 4.123456], ["Ran", None]], note="a < b")
    lines = Lines("course", "pass", "loss", {"one": ([1, 2], [3.0, 2.0])})
    html = html_page(Page("night", "night & day", ["## Films", "two <b>films</b>", table, lines], {"run": "7"}))
    assert "<title>night &amp; day</title>" in html
    assert "<h2>Films</h2>" in html
    assert "two &lt;b&gt;films&lt;/b&gt;" in html
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in html
    assert '<td class="number">4.1235</td>' in html
    assert "a &lt; b" in html
    assert html.count("data:image/png;base64,") == 1
    assert "<script" not in html
    assert "http" not in html
