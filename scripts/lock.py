"""`make lock`: write `requirements.lock` from what is installed in the virtual environment."""

from __future__ import annotations

import re
from importlib.metadata import distributions

from jobs._settings import ROOT

HEAD = "# Exact versions of one tested set; pyproject.toml has the bounds. Written by `make lock`.\n"
NOT_LOCKED = {"pip", "setuptools", "wheel", "nimc-spark"}


def locked() -> list[str]:
    """`name==version` of every installed distribution, names as PyPI normalizes them, sorted."""
    found = {re.sub(r"[-_.]+", "-", item.metadata["Name"]).lower(): item.version for item in distributions()}
    return sorted(f"{name}=={version}" for name, version in found.items() if name not in NOT_LOCKED)


if __name__ == "__main__":
    (ROOT / "requirements.lock").write_text(HEAD + "\n".join(locked()) + "\n", encoding="utf-8")
