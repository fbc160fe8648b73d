"""The page of a night in headless Chromium: it shows all it has, and asks the network for nothing."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from matplotlib.image import imread

from tests.jobs.conftest import Night

pytestmark = pytest.mark.soak

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
HEADINGS = {"What came in", "Training", "On held-out ratings", "Calibration", "Some lists", "Times"}
# What the browser made of the page, as its title.
PROBE = """<script>addEventListener("load", () => { document.title = JSON.stringify({
  pictures: [...document.images].map(i => i.naturalWidth),
  headings: [...document.querySelectorAll("h2")].map(h => h.textContent),
  asked: performance.getEntriesByType("resource").map(r => r.name).filter(n => !n.startsWith("data:")),
  width: document.documentElement.scrollWidth, rows: document.querySelectorAll("tr").length }) })</script>"""


def browse(page: Path, *options: str) -> str:
    browser = next((found for found in map(shutil.which, NAMES) if found), None)
    assert browser, "no Chromium on PATH: install it (Debian/Ubuntu: apt-get install chromium)"
    general = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={page.parent / 'profile'}"]
    line = [browser, *general, "--window-size=1200,2400", *options, page.as_uri()]
    return subprocess.run(line, capture_output=True, text=True, check=True, timeout=120).stdout


@pytest.fixture
def page(night: Night, tmp_path: Path) -> Path:
    return Path(shutil.copy(night.outcome.done()["paths"]["report"], tmp_path))


def test_it_shows_all_it_has(page: Path) -> None:
    page.write_text(page.read_text(encoding="utf-8").replace("</body>", f"{PROBE}</body>"), encoding="utf-8")
    title = re.search(r"<title>(.*?)</title>", browse(page, "--virtual-time-budget=5000", "--dump-dom"))
    assert title is not None
    found = json.loads(title[1])
    assert set(found["headings"]) >= HEADINGS
    assert found["pictures"]
    assert min(found["pictures"]) > 100
    assert found["rows"] > 20
    assert found["asked"] == []
    # Nothing is cut off at the side.
    assert found["width"] <= 1200


def test_its_picture_is_not_blank(page: Path) -> None:
    picture = page.with_suffix(".png")
    browse(page, f"--screenshot={picture}", "--hide-scrollbars")
    pixels = imread(picture)[:, :, :3]
    assert pixels.shape[:2] == (2400, 1200)
    written = (pixels.min(axis=2) < 0.5).mean(axis=1) > 0
    # Dark text in lines all down the page, and a curve in colour.
    assert written[:2000].mean() > 0.3
    assert ((pixels.max(axis=2) - pixels.min(axis=2)) > 0.4).sum() > 200
