"""Runs that have begun and not ended: a small file each in the lake, which goes when the run's row is in `runs`.

A driver that is killed writes no row: what it leaves is its file.
"""

from __future__ import annotations

import json
import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import date, datetime

import pyarrow as pa
import pyarrow.fs as pafs

from nimc_spark.errors import NimcError
from nimc_spark.io.tables import absolute
from nimc_spark.ml.persistence import file_system

FOLDER = "runs_open"
# Arrow does not know every file system that Spark does.
_NO_FILES = (NimcError, OSError, pa.ArrowException)
_LOG = logging.getLogger("nimc")


@dataclass(frozen=True)
class OpenRun:
    """What its file says of a run; `started` in ISO format, `where` the driver's process and host."""

    run_id: str
    run_date: str
    job: str
    started: str
    where: str


@contextmanager
def open_run(lake: str, run_id: str, run_date: date, job: str, started: datetime) -> Iterator[None]:
    """Inside, the run is one of `open_runs`. A lake that takes no such file is said so, and no reason to stop."""
    where = f"process {os.getpid()} on {socket.gethostname()}"
    run = OpenRun(run_id, str(run_date), job, started.isoformat(), where)
    noted = False
    try:
        files, folder = _folder(lake)
        files.create_dir(folder, recursive=True)
        with files.open_output_stream(f"{folder}/{run_id}.json") as stream:
            stream.write(json.dumps(asdict(run)).encode())
        noted = True
    except _NO_FILES as error:
        _LOG.warning("that this run has begun could not be noted in %s/%s: %s", lake, FOLDER, error)
    try:
        yield
    finally:
        if noted:
            with suppress(OSError):
                files.delete_file(f"{folder}/{run_id}.json")


def open_runs(lake: str) -> list[OpenRun]:
    """What is known of runs that have not ended, the first begun first: they run now, or were killed."""
    try:
        files, folder = _folder(lake)
        found = files.get_file_info(pafs.FileSelector(folder, allow_not_found=True))
    except _NO_FILES:
        return []
    runs = []
    for info in found:
        # One that ends meanwhile, is being written, or is no such file, is none.
        with suppress(OSError, ValueError, TypeError), files.open_input_stream(info.path) as stream:
            runs.append(OpenRun(**json.loads(stream.read())))
    return sorted(runs, key=lambda run: run.started)


def _folder(lake: str) -> tuple[pafs.FileSystem, str]:
    return file_system(f"{absolute(lake).rstrip('/')}/{FOLDER}")
