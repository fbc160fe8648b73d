"""MovieLens-100k for the demo: where it is on this machine, or fetched into `data/ml-100k/`.

GroupLens does not allow passing the data on, so it is never part of this repository.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import NamedTuple

from jobs._settings import ROOT
from nimc_spark.errors import NimcError, SetupError, UsageError

FOLDER = Path("data") / "ml-100k"
REQUIREMENT = ROOT / "scripts" / "ml-100k.txt"
IN_WHEEL = "recbole/dataset_example/ml-100k/"
# The files of ratings, users and items in each layout.
LAYOUTS = {
    "grouplens": ("u.data", "u.user", "u.item"),
    "recbole": ("ml-100k.inter", "ml-100k.user", "ml-100k.item"),
}


class DemoData(NamedTuple):
    """A folder with MovieLens-100k, in one of the layouts."""

    layout: str
    folder: Path

    @property
    def files(self) -> dict[str, Path]:
        """Path by table: ratings, users, items."""
        return {
            table: self.folder / name
            for table, name in zip(("ratings", "users", "items"), LAYOUTS[self.layout], strict=True)
        }


def recognize(folder: Path) -> DemoData | None:
    """The data in a folder, by the names of its files; None if it has no layout's three."""
    for layout, names in LAYOUTS.items():
        if all((folder / name).is_file() for name in names):
            return DemoData(layout, folder)
    return None


def find(source: str | None = None) -> DemoData:
    """The data in `source`, else in NIMC_ML100K, else in `data/ml-100k/`, where it is fetched if need be.

    Raises:
        UsageError: the folder that was named does not hold it.
        SetupError: it cannot be fetched.
    """
    named = source or os.environ.get("NIMC_ML100K")
    if named:
        data = recognize(Path(named))
        if data is None:
            raise UsageError(f"{named} holds no MovieLens-100k: expected {', '.join(LAYOUTS['grouplens'])} in it")
        return data
    data = recognize(FOLDER)
    if data is None:
        fetch(FOLDER)
        data = DemoData("recbole", FOLDER)
    return data


def fetch(folder: Path) -> None:
    """Put the three files into a folder, out of the pinned wheel.

    Raises:
        SetupError: the wheel cannot be had, or is not the one recorded.
    """
    with tempfile.TemporaryDirectory() as scratch:
        line = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
        line += ["--require-hashes", "--only-binary", ":all:", "--dest", scratch, "--requirement", str(REQUIREMENT)]
        answer = subprocess.run(line, capture_output=True, text=True, check=False)
        if answer.returncode != 0:
            sys.stderr.write(answer.stderr)
            raise SetupError(
                "MovieLens-100k cannot be fetched (pip's words are above): get ml-100k from grouplens.org and "
                "give its folder, `make demo SOURCE=DIR`"
            )
        folder.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(next(Path(scratch).glob("*.whl"))) as wheel:
            for name in LAYOUTS["recbole"]:
                partial = folder / f"{name}.partial"
                partial.write_bytes(wheel.read(IN_WHEEL + name))
                partial.replace(folder / name)


if __name__ == "__main__":
    try:
        print(*find(sys.argv[1] if len(sys.argv) > 1 else None))
    except NimcError as error:
        sys.exit(f"error: {error}")
