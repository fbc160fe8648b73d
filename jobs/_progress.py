"""Progress of a long stage: a bar for people, lines for logs."""

from __future__ import annotations

import logging
import os
import sys
from types import TracebackType
from typing import Any

from tqdm import tqdm

from jobs._settings import ON_TERMINAL


class Progress:
    """A context manager; `step` once for each pass or part. Never writes to standard output."""

    def __init__(self, what: str, total: int | None, log: logging.Logger) -> None:
        self._what, self._total, self._log = what, total, log
        self._steps = 0
        on_terminal = sys.stderr.isatty() or os.environ.get(ON_TERMINAL) == "1"
        self._bar: Any = tqdm(desc=what, total=total, leave=False) if on_terminal else None

    def step(self, message: str = "") -> None:
        """One step done; `message` says what it gave, such as the loss."""
        self._steps += 1
        if self._bar is not None:
            self._bar.set_postfix_str(message, refresh=False)
            self._bar.update()
            return
        of = f"/{self._total}" if self._total is not None else ""
        self._log.info("%s %d%s %s", self._what, self._steps, of, message)

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.close()
