"""How much memory the driver's process may have."""

from __future__ import annotations

import os
from pathlib import Path

# Where a container's limit stands, in either version of control groups.
_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))


def driver_memory() -> int:
    """Bytes: the machine's memory, or the container's limit if that is less."""
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limits = [int(text) for path in _LIMITS if path.is_file() and (text := path.read_text().strip()).isdigit()]
    return min([physical, *limits])
