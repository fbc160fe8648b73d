"""Payloads of records as files beside the tasks that read them: a pass sends names, and tasks map files into memory.

    <scratch of the executor>/nimc/<dataset>/<lane>.<kind>.<item part>.<chunk>      head (HEAD), then the payload

From the JVM to Python a payload travels more slowly than the kernel reads it (docs/adr/021-files-beside-tasks.md). No
file is the only copy, and none is trusted: one that is not there, or is not what was written, is a miss, after which
the pass reads the records that Spark holds, and writes the files again. The scratch is the executor's own, and goes
with it; a data set that no pass has asked for in an hour makes room for the next.
"""

from __future__ import annotations

import os
import shutil
import struct
import time
import zlib
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

import pyarrow as pa

from nimc_spark.data.passes import RecordName

# Eight letters, the bytes of the payload, their CRC-32; 64 bytes, so that the payload stays aligned for Arrow.
HEAD = struct.Struct("<8sQI44x")
_LETTERS = b"nimcrec1"
_FOLDER = "nimc"
# This much of a disk is left to others.
_RESERVE = 1 << 30
_STALE_SECONDS = 3600
# Files held open by a process; one that holds more opens some of them anew in each pass.
_OPEN_FILES = 4096


def keep(dataset: str, name: RecordName, payload: pa.Buffer) -> None:
    """Write the payload's file, unless there is no room or no right to."""
    folder = _folder(dataset)
    if folder is None:
        return
    with suppress(OSError):
        if not folder.exists():
            _remove_stale(folder.parent)
            folder.mkdir(parents=True, exist_ok=True)
        if shutil.disk_usage(folder).free < _RESERVE + payload.size:
            return
        path = folder / _file_name(name)
        partial = path.with_suffix(f".{os.getpid()}")
        with partial.open("wb") as file:
            file.write(HEAD.pack(_LETTERS, payload.size, zlib.crc32(payload)))
            file.write(payload)
        # Readers see the whole file or none.
        os.replace(partial, path)


def find(dataset: str, name: RecordName) -> pa.Buffer | None:
    """The payload, mapped from its file; None where that is missing or damaged."""
    folder = _folder(dataset)
    if folder is None:
        return None
    path = folder / _file_name(name)
    try:
        found = path.stat()
    except OSError:
        return None
    return _mapped(str(path), (found.st_ino, found.st_size, found.st_mtime_ns))


def touch(dataset: str) -> None:
    """Say that the data set is in use."""
    folder = _folder(dataset)
    if folder is not None:
        with suppress(OSError):
            os.utime(folder)


@lru_cache(maxsize=_OPEN_FILES)
def _mapped(path: str, stamp: tuple[int, int, int]) -> pa.Buffer | None:
    """The payload of a file, checked once for each state of it that this process meets."""
    try:
        whole = pa.memory_map(path).read_buffer()
        letters, size, checksum = HEAD.unpack_from(whole)
    except (OSError, struct.error):
        return None
    payload = whole.slice(HEAD.size)
    sound = letters == _LETTERS and payload.size == size and zlib.crc32(payload) == checksum
    return payload if sound else None


def _file_name(name: RecordName) -> str:
    return ".".join(str(int(number)) for number in name)


def _folder(dataset: str) -> Path | None:
    """In the first of the folders that Spark gives the executor, and removes with it."""
    scratch = os.environ.get("SPARK_LOCAL_DIRS")
    return Path(scratch.split(",")[0], _FOLDER, dataset) if scratch else None


def _remove_stale(folder: Path) -> None:
    for other in folder.glob("*"):
        with suppress(OSError):
            if time.time() - other.stat().st_mtime > _STALE_SECONDS:
                shutil.rmtree(other, ignore_errors=True)
