"""A small night: raw files of 30 users and 20 items with known faults, their config, and how a job is run.

Of the users, "u05" has no attribute row, "quiet" has no rating, and "fan" rated all items but two. Item 99 has none.
"""

from __future__ import annotations

import copy
import io
import json
import subprocess
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from jobs._settings import ROOT

RUN_DATE = "2025-01-06"
USERS, ITEMS, UNRATED_ITEM, K = 30, 20, 99, 5
USER_SCHEMA = "uid STRING, age DOUBLE, gender STRING"
ITEM_SCHEMA = "iid LONG, genres STRING, mood ARRAY<DOUBLE>, name STRING"
COUNTS = {
    "users_in": 33,
    "users_used": 31,
    "users_quarantined": 2,
    "items_in": 22,
    "items_used": 21,
    "items_quarantined": 1,
    "ratings_in": 384,
    "ratings_used": 379,
    "ratings_quarantined": 5,
}
REASONS = {
    "users": {"duplicate user_id, same row": 1, "non-finite age": 1},
    "items": {"null item_id": 1},
    "ratings": {
        "null user_id": 1,
        "non-finite rating": 1,
        "rating outside [1, 5]": 1,
        "superseded by a later rating": 1,
        "unparseable row": 1,
    },
}


@dataclass(frozen=True)
class Outcome:
    """How a job ended; `line` is its last line on standard output, `log` everything else."""

    code: int
    line: dict[str, Any]
    log: str

    def done(self) -> dict[str, Any]:
        assert (self.code, self.line["status"], self.line["exit_code"]) == (0, "done", 0), self.log
        return self.line

    def refused(self, code: int) -> str:
        """The message of a failure that is none of ours to debug: one that has no traceback."""
        assert (self.code, self.line["status"], self.line["exit_code"]) == (code, "failed", code), self.log
        assert "Traceback" not in self.log
        error = str(self.line["error"])
        assert all(f"error: {line}" in self.log for line in error.splitlines())
        return error


@dataclass
class Workplace:
    """A folder with raw files, a config over them, and a lake."""

    folder: Path
    config: dict[str, Any] = field(default_factory=dict)

    def text(self, name: str, content: str) -> str:
        path = self.folder / name
        path.write_text(content)
        return str(path)

    def csv(self, name: str, content: str, schema: str) -> dict[str, Any]:
        return {"path": self.text(name, content), "schema": schema, "options": {"header": True}}

    @property
    def lake(self) -> Path:
        return Path(self.config["lake"])

    def with_lake(self, folder: Path) -> Workplace:
        """The same raw files with another lake."""
        return Workplace(folder, copy.deepcopy(self.config) | {"lake": str(folder / "lake")})

    def run(self, main: Callable[[Sequence[str]], int], *arguments: str, **sections: Any) -> Outcome:
        """The job in this process; `sections` take the place of those of the config."""
        out, err = io.StringIO(), io.StringIO()
        with redirect_stdout(out), redirect_stderr(err):
            code = main([*self.arguments(sections), *arguments])
        return Outcome(code, json.loads(out.getvalue().splitlines()[-1]), err.getvalue())

    def submit(self, job: str, *arguments: str, **sections: Any) -> Outcome:
        """The job through the real spark-submit."""
        options = ["--master", "local[2]", "--conf", "spark.ui.enabled=false", "--"]
        answer = subprocess.run(
            [ROOT / "spark-submit.sh", *options, job, *self.arguments(sections), *arguments],
            cwd=self.folder,
            capture_output=True,
            text=True,
            check=False,
        )
        *log, last = answer.stdout.splitlines() or [""]
        assert last.startswith("{"), answer.stdout + answer.stderr
        return Outcome(answer.returncode, json.loads(last), "\n".join([*log, answer.stderr]))

    def arguments(self, sections: dict[str, Any]) -> list[str]:
        path = self.text("config.yaml", yaml.safe_dump(self.config | sections))
        return ["--config", path, "--run-date", RUN_DATE]

    def commits(self) -> set[str]:
        """All that readers of the lake can see, but the record of runs: Delta's commits and the files of models."""
        files = [*self.lake.glob("*/_delta_log/*.json"), *self.lake.glob("model_files/**/*")]
        return {str(path.relative_to(self.lake)) for path in files if path.parts[-3] != "runs"}


def tiny(folder: Path) -> Workplace:
    """The raw files in `folder`, and a config over Delta tables."""
    place = Workplace(folder)
    place.config = {
        "lake": str(folder / "lake"),
        "name": "tiny",
        "sources": {
            "ratings": place.csv("ratings.csv", ratings(), "uid STRING, iid LONG, stars DOUBLE, at LONG"),
            "users": place.csv("users.csv", users(), USER_SCHEMA),
            "items": {"path": place.text("items.json", items()), "format": "json", "schema": ITEM_SCHEMA},
        },
        "columns": {"user": "uid", "item": "iid", "rating": "stars", "time": "at", "title": "name"},
        "rating_range": [1, 5],
        "features": {
            "users": [{"kind": "numeric", "column": "age"}, {"kind": "one_hot", "column": "gender"}, {"kind": "id"}],
            "items": [
                {"kind": "multi_hot", "column": "genres", "separator": "|"},
                {"kind": "passthrough", "column": "mood"},
                {"kind": "id"},
            ],
        },
        "split": {"by": "user", "fraction": 0.2, "seed": 1},
        "model": {"rank": 2, "activation": "tanh", "seed": 7, "max_passes": 8, "reg": 0.5},
        "score": {"k": K, "exclude_seen": True},
        "evaluate": {"k": K, "relevant": 4},
    }
    return place


def ratings() -> str:
    """379 ratings that are taken and 5 that are not."""
    random = np.random.default_rng(3)
    rows = []
    for user in range(USERS):
        chosen = random.choice(ITEMS, 12, replace=False)
        rows += [f"u{user:02d},{item},{1 + (user * item + item) % 5},{100 + item}" for item in sorted(chosen)]
    rows += [f"fan,{item},{3 + item % 3},50" for item in range(ITEMS - 1)]
    first = rows[0].rsplit(",", 2)[0]
    rows += [",1,3,1", "u01,1,NaN,1", "u02,2,9,1", f"{first},2,1", "u03,three,3,1"]
    return "\n".join(["uid,iid,stars,at", *rows]) + "\n"


def users() -> str:
    rows = [f"u{user:02d},{18 + user},{'FM'[user % 2]}" for user in range(USERS) if user != 5]
    rows += ["fan,40,F", "quiet,25,M", "u07,25,M", "broken,NaN,F"]
    return "\n".join(["uid,age,gender", *rows]) + "\n"


def items() -> str:
    rows: list[dict[str, Any]] = [
        {"iid": item, "genres": ["Drama", "Drama|War", "Comedy"][item % 3], "mood": [item % 2, 0.1 * item]}
        for item in [*range(ITEMS), UNRATED_ITEM]
    ]
    named = [row | {"name": f"Item {row['iid']}"} for row in rows] + [{"iid": None, "mood": [1, 1]}]
    return "".join(json.dumps(row) + "\n" for row in named)
