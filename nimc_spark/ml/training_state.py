"""Training that survives: its state in a file, from which the same training goes on as if nothing had happened.

    <stateDir>/<fingerprint>.npz      the losses so far and each start's state as JSON, and the arrays in it

The fingerprint is of all records of the blocks (ratings, features, offsets, bit by bit), of the Params and of the
version: another problem has another file. A file appears whole or not at all, holds no pickle, and each part of it has
its checksum; one that is damaged is left aside, since training from the start gives the same model.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import time
import uuid
import zipfile
import zlib
from contextlib import suppress
from pathlib import PurePosixPath
from typing import Any

import numpy as np
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from nimc_spark import __version__
from nimc_spark.errors import SetupError
from nimc_spark.kernels.model import Vector
from nimc_spark.ml.params import NIMCParams
from nimc_spark.ml.persistence import file_system
from nimc_spark.solvers.multistart import Course, Watch
from nimc_spark.solvers.plain import from_plain, to_plain
from nimc_spark.solvers.stopping import StopReason

_LOG = logging.getLogger(__name__)
_TREE = "tree"
# Params that do not change the course of a training, only how long it is and what is done besides.
_BESIDES = ("stateDir", "stateInterval", "maxSeconds", "maxIter")


class Budget(Watch):
    """Ends training `seconds` after `began` (time.monotonic), after the pass that crosses it."""

    def __init__(self, began: float, seconds: float | None) -> None:
        self._end = None if seconds is None else began + seconds

    def after(self, course: Course) -> StopReason | None:
        return StopReason.MAX_SECONDS if self._end is not None and time.monotonic() >= self._end else None

    def forget(self) -> None:
        """Called when training is over."""


class SavedState(Budget):
    """The same, and saves the course every `every` passes, and when training is interrupted.

    Raises SetupError if the folder cannot be written.
    """

    def __init__(self, folder: str, fingerprint: str, every: int, began: float, seconds: float | None) -> None:
        super().__init__(began, seconds)
        self._files, root = file_system(folder)
        self._path = f"{root}/{fingerprint}.npz"
        self._every = every
        self._saved = 0

    def begin(self, course: Course) -> Course:
        found = self._read()
        if found is None or len(found.states) != len(course.states):
            return course
        self._saved = len(found.losses)
        _LOG.info("training goes on after pass %d, from %s", self._saved, self._path)
        return found

    def after(self, course: Course) -> StopReason | None:
        if len(course.losses) - self._saved >= self._every:
            self._write(course)
        return super().after(course)

    def interrupted(self, course: Course) -> None:
        if len(course.losses) > self._saved:
            with suppress(SetupError):
                self._write(course)
        if self._saved:
            _LOG.warning("training was interrupted; started again it goes on after pass %d", self._saved)

    def forget(self) -> None:
        """Removes the file."""
        with suppress(OSError):
            self._files.delete_file(self._path)

    def _read(self) -> Course | None:
        try:
            with self._files.open_input_stream(self._path) as stream:
                content = stream.read()
        except OSError:
            return None
        try:
            with np.load(io.BytesIO(content), allow_pickle=False) as saved:
                tree = json.loads(saved[_TREE].tobytes())
                arrays = [saved[f"a{number}"] for number in range(len(saved.files) - 1)]
            return Course(from_plain(tree["states"], arrays), tuple(tuple(row) for row in tree["losses"]))
        except (ValueError, KeyError, TypeError, IndexError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            _LOG.warning("the saved state %s is damaged and left aside: %s", self._path, error)
            return None

    def _write(self, course: Course) -> None:
        arrays: list[Any] = []
        tree = {"states": to_plain(course.states, arrays), "losses": course.losses}
        buffer = io.BytesIO()
        named: dict[str, Any] = {f"a{number}": array for number, array in enumerate(arrays)}
        np.savez(buffer, **named | {_TREE: np.frombuffer(json.dumps(tree).encode(), np.uint8)})
        staged = f"{self._path}.{uuid.uuid4().hex}.tmp"
        try:
            self._files.create_dir(str(PurePosixPath(self._path).parent), recursive=True)
            with self._files.open_output_stream(staged) as stream:
                stream.write(buffer.getbuffer())
            self._files.move(staged, self._path)
        except OSError as error:
            raise SetupError(f"the state of training cannot be saved at {self._path}: {error}") from None
        self._saved = len(course.losses)


def fingerprint(params: NIMCParams, records: DataFrame, start: Vector | None = None) -> str:
    """32 hex digits that are equal for equal trainings, wherever the records are; one Spark job over them.

    `records` may hold a record several times. `start` is one that does not follow from records and Params.
    """
    hashed = records.select(F.xxhash64(*records.columns).alias("hash")).distinct()
    row = hashed.agg(F.count("*"), F.bit_xor("hash"), F.sum(F.col("hash").cast("decimal(38,0)"))).collect()[0]
    own = {p.name: params.getOrDefault(p) for p in params.params if p.name not in _BESIDES and params.isDefined(p)}
    text = json.dumps([[str(value) for value in row], own, __version__], sort_keys=True)
    return hashlib.sha256(text.encode() + (b"" if start is None else start.tobytes())).hexdigest()[:32]


def watch(params: NIMCParams, records: DataFrame, began: float, start: Vector | None = None) -> Budget:
    """What the Params want: a budget of time, and a saved state if there is a folder for it."""
    seconds, folder = params.optional("maxSeconds"), params.optional("stateDir")
    if folder is None:
        return Budget(began, seconds)
    every = params.getOrDefault("stateInterval")
    return SavedState(folder, fingerprint(params, records, start), every, began, seconds)
