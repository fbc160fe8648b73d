"""One night through the real spark-submit; what it left serves all tests of this folder, in whichever process."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import pytest

from tests.jobs.tiny import Outcome, Workplace, tiny


@dataclass(frozen=True)
class Night:
    """How it ended, and where."""

    outcome: Outcome
    place: Workplace

    def copied(self, folder: Path) -> Workplace:
        """A lake of one's own as the night left it."""
        place = self.place.with_lake(folder)
        shutil.copytree(self.place.lake, place.lake)
        return place


@pytest.fixture(scope="session")
def night(tmp_path_factory: pytest.TempPathFactory) -> Night:
    """Made once in a test run: a night takes a minute, and the processes of pytest-xdist would each make one."""
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    folder, ended = folder / "night", folder / "night.json"
    with _alone(folder.with_suffix(".lock")):
        if not ended.exists():
            folder.mkdir()
            place = tiny(folder)
            ended.write_text(json.dumps({"outcome": asdict(place.submit("night")), "config": place.config}))
    found = json.loads(ended.read_text())
    return Night(Outcome(**found["outcome"]), Workplace(folder, found["config"]))


@contextmanager
def _alone(lock: Path) -> Iterator[None]:
    """One process at a time; the lock of one that dies is released."""
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
