"""Payloads of records as files beside the tasks that read them: a pass sends names, and tasks map files into memory.

    <scratch of the executor>/nimc/<dataset>/<lane>.<kind>.<item part>.<chunk>      head, then the payload

From the JVM to Python a payload travels more slowly than the kernel reads it (docs/adr/021-files-beside-tasks.md). No
file is the only copy: one that is not there, or is not what was written, is a miss, and its lanes are then served from
the records that Spark holds, which writes it again. The scratch is the executor's own, and goes with it.
"""

from __future__ import annotations

import os
import shutil
import struct
import time
import zlib
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa

from nimc_spark.data.passes import RecordName

# Letters, bytes of the payload, their CRC-32, the name; 64 bytes, so that the payload stays aligned for Arrow.
_HEAD = struct.Struct("<8sQIiiii28x")
_LETTERS = b"nimcrec1"
_FOLDER = "nimc"
# What is left of a disk to others: the larger of these bytes and this share.
_RESERVE, _RESERVED_SHARE = 1 << 30, 0.1
# A folder that a lost driver has left makes room for others.
_STALE_SECONDS = 3600


class _Mapped(NamedTuple):
    """A file as this process has mapped it: which state of it, and its payload."""

    stamp: tuple[int, int, int]
    payload: pa.Buffer


# By path: a file that was written anew takes the place of its old mapping.
_MAPPED: dict[str, _Mapped] = {}


def keep(dataset: str, name: RecordName, payload: pa.Buffer) -> None:
    """See that the payload's file is there, unless there is no room or no right to."""
    folder = _folder(dataset)
    if folder is None or find(dataset, name) is not None:
        return
    partial = folder / f"{_file_name(name)}.{os.getpid()}.part"
    try:
        if not folder.exists():
            _remove_stale(folder.parent)
            folder.mkdir(parents=True, exist_ok=True)
        disk = shutil.disk_usage(folder)
        if disk.free < max(_RESERVE, _RESERVED_SHARE * disk.total) + payload.size:
            return
        with partial.open("wb") as file:
            file.write(_HEAD.pack(_LETTERS, payload.size, zlib.crc32(payload), *name))
            file.write(payload)
        # Readers see the whole file or none.
        os.replace(partial, folder / _file_name(name))
    except OSError:
        with suppress(OSError):
            partial.unlink()


def find(dataset: str, name: RecordName) -> pa.Buffer | None:
    """The payload, mapped from its file; None where that is missing or damaged."""
    folder = _folder(dataset)
    if folder is None:
        return None
    path = str(folder / _file_name(name))
    try:
        found = os.stat(path)
        stamp = (found.st_ino, found.st_size, found.st_mtime_ns)
        if path not in _MAPPED or _MAPPED[path].stamp != stamp:
            _MAPPED.pop(path, None)
            _MAPPED[path] = _Mapped(stamp, _checked(path, name))
    except (OSError, ValueError):
        return None
    return _MAPPED[path].payload


def touch(dataset: str) -> None:
    """Say that the data set is in use."""
    folder = _folder(dataset)
    if folder is not None:
        with suppress(OSError):
            os.utime(folder)


def forget(dataset: str) -> None:
    """Remove the data set's files; what another process has mapped of them goes when it ends, or forgets them too."""
    folder = _folder(dataset)
    if folder is not None:
        for path in [path for path in _MAPPED if path.startswith(f"{folder}{os.sep}")]:
            del _MAPPED[path]
        shutil.rmtree(folder, ignore_errors=True)


def _checked(path: str, name: RecordName) -> pa.Buffer:
    """The payload of a file, read once in the ordinary way: a disk that fails is an error there, in a mapping a signal.

    Raises ValueError for a file that is not what was written.
    """
    content = Path(path).read_bytes()
    payload = memoryview(content)[_HEAD.size :]
    if content[: _HEAD.size] != _HEAD.pack(_LETTERS, len(payload), zlib.crc32(payload), *name):
        raise ValueError(f"{path} is not what was written")
    return pa.memory_map(path).read_buffer().slice(_HEAD.size)


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
