"""How many threads: one for BLAS, whose results depend on their number, and for a pass in this process all there are."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path
from threading import Lock

from threadpoolctl import ThreadpoolController


# Of cgroup v2: microseconds of processors in so many.
_QUOTA = Path("/sys/fs/cgroup/cpu.max")


@cache
def _controller() -> ThreadpoolController:
    # Finding the loaded BLAS libraries costs milliseconds: once a process.
    return ThreadpoolController()


class _OneThread:
    """The limit is the process's: it holds until the last of the threads that asked for it is done."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._users = 0
        self._limit = ExitStack()

    def enter(self) -> None:
        with self._lock:
            if self._users == 0:
                self._limit.enter_context(_controller().limit(limits=1, user_api="blas"))
            self._users += 1

    def leave(self) -> None:
        with self._lock:
            self._users -= 1
            if self._users == 0:
                self._limit.close()


_ONE_THREAD = _OneThread()


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """A context in which numpy's and scipy's BLAS run on one thread; it nests, and threads may share it."""
    _ONE_THREAD.enter()
    try:
        yield
    finally:
        _ONE_THREAD.leave()


def processors() -> int:
    """How many processors this process may use, by its affinity and the quota of its container."""
    # Not on every system, as on macOS.
    there = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = _QUOTA.read_text(encoding="ascii").split()
        return min(there, max(1, int(quota) // int(period)))
    except (OSError, ValueError):
        # No container, or "max": no limit.
        return there
