"""One night through the real spark-submit; what it left serves all tests of this folder."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
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
    place = tiny(tmp_path_factory.mktemp("night"))
    return Night(place.submit("night"), place)
