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
from datetime import date, datetime
from typing import Any

import pyarrow.fs as pafs

from nimc_spark.errors import NimcError
from nimc_spark.io.tables import absolute
from nimc_spark.ml.persistence import file_system

FOLDER = "runs_open"
# Arrow does not know every file system that Spark does; its own errors are ValueErrors.
_NO_FILES = (NimcError, OSError, ValueError)
_LOG = logging.getLogger("nimc")


@contextmanager
def open_run(lake: str, run_id: str, run_date: date, job: str, started: datetime) -> Iterator[None]:
    """Inside, the run is one of `open_runs`. A lake that takes no such file is said so, and no reason to stop."""
    path = f"{absolute(lake).rstrip('/')}/{FOLDER}/{run_id}.json"
    note = {
        "run_id": run_id,
        "run_date": str(run_date),
        "job": job,
        "started": started.isoformat(),
        "where": f"process {os.getpid()} on {socket.gethostname()}",
    }
    try:
        files, inner = file_system(path)
        files.create_dir(inner.rsplit("/", 1)[0], recursive=True)
        with files.open_output_stream(inner) as stream:
            stream.write(json.dumps(note).encode())
    except _NO_FILES as error:
        _LOG.warning("that this run has begun could not be noted in %s: %s", path, error)
        yield
        return
    try:
        yield
    finally:
        with suppress(OSError):
            files.delete_file(inner)


def open_runs(lake: str) -> list[dict[str, Any]]:
    """What is known of runs that have not ended, the first begun first: they run now, or were killed."""
    try:
        files, folder = file_system(f"{absolute(lake).rstrip('/')}/{FOLDER}")
        found = files.get_file_info(pafs.FileSelector(folder, allow_not_found=True))
    except _NO_FILES:
        return []
    notes = []
    for info in found:
        # One that ends meanwhile, or is being written, is none.
        with suppress(OSError, ValueError), files.open_input_stream(info.path) as stream:
            notes.append(json.loads(stream.read()))
    return sorted(notes, key=lambda note: str(note["started"]))
