"""Failures of Spark and Delta in our words: told by their class or error condition, and by their text only where Java
says it in no other way, as of a full disk."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import delta.exceptions
from py4j.protocol import Py4JError, Py4JJavaError, Py4JNetworkError
from pyspark.errors import PySparkException, PythonException

from nimc_spark import errors
from nimc_spark.errors import ConflictError, DataError, NimcError, SetupError

# They have no base class of their own in Python.
CONFLICTS = tuple(getattr(delta.exceptions, name) for name in delta.exceptions.__all__)
"""What Delta raises when another writer's commit came between."""

_Said = tuple[type[NimcError], str]

_CONDITIONS: Mapping[str, _Said] = {
    "PATH_NOT_FOUND": (DataError, "no such path: {path}"),
    "DELTA_TABLE_NOT_FOUND": (DataError, "no Delta table: {tableName}"),
    "DELTA_PATH_DOES_NOT_EXIST": (DataError, "no Delta table at {path}"),
    "DELTA_TABLE_ONLY_OPERATION": (DataError, "not a Delta table: {tableName}"),
    "DELTA_REPLACE_WHERE_MISMATCH": (DataError, "rows lie outside of what is to be replaced: {replaceWhere}"),
    "DELTA_FAILED_TO_MERGE_FIELDS": (DataError, "column {currentField} has another type than in the table"),
    "DELTA_METADATA_MISMATCH": (DataError, "columns differ from those of the table"),
    "FAILED_READ_FILE": (DataError, "cannot read {path}: {cause}"),
    "CANNOT_READ_FILE_FOOTER": (DataError, "cannot read {file}: damaged, or of another format"),
    "UNABLE_TO_INFER_SCHEMA": (DataError, "holds no data to read a schema from"),
    "PARSE_SYNTAX_ERROR": (DataError, "schema cannot be parsed near {error}"),
    "UNSUPPORTED_DATATYPE": (DataError, "unknown type {typeName} in the schema"),
    "INVALID_PARAMETER_VALUE": (DataError, "option {parameter} is wrong: {charset}"),
    "DATA_SOURCE_NOT_FOUND": (SetupError, "Spark has no data source {provider}: its jar is not on the class path"),
}
_NO_FILE_SYSTEM = "misspelt, or its jar is not on the class path"
_JAVA: Mapping[str, _Said] = {
    "java.nio.file.AccessDeniedException": (SetupError, "permission denied: {cause}"),
    "org.apache.hadoop.security.AccessControlException": (SetupError, "permission denied: {cause}"),
    "org.apache.hadoop.fs.ParentNotDirectoryException": (SetupError, "a parent is a file, not a folder: {cause}"),
    "java.io.FileNotFoundException": (DataError, "{cause}"),
    "org.apache.hadoop.fs.UnsupportedFileSystemException": (SetupError, "{cause}: " + _NO_FILE_SYSTEM),
    "java.lang.ClassNotFoundException": (SetupError, "{cause}: " + _NO_FILE_SYSTEM),
}
_NO_ROOM_TEXT = re.compile(r"^.*(?:No space left on device|Disk quota exceeded).*$", re.MULTILINE)
# Of what Spark says.
_LONGEST = 400
_EXECUTORS: Mapping[str, str] = {
    r"^ModuleNotFoundError: No module named '([^']+)'": "the executors' Python has no package {0}",
    r"\[PYTHON_VERSION_MISMATCH\][^:]*: (.+?) than that in driver: ([^,]+),": "the executors' Python is {0}, not {1}",
}
"""What the traceback of a task says where executors have another environment than the driver."""
_RAISED_IN_TASK = re.compile(r"^(?:\w+: )?nimc_spark\.errors\.(\w+): (.*)$", re.MULTILINE)


def translated(error: BaseException, where: str = "") -> NimcError | None:
    """The NimcError that says what `error` means, or None for what we do not know; `where` names the table or path."""
    if isinstance(error, NimcError):
        return error
    known = _known(error)
    return known if known is None or not where else type(known)(f"{where}: {known}")


def _known(error: BaseException) -> NimcError | None:
    if isinstance(error, CONFLICTS):
        return ConflictError("another writer committed first; this write changed nothing, run it again")
    if isinstance(error, PythonException):
        return _from_task(str(error))
    if isinstance(error, PySparkException):
        origin = getattr(error, "_origin", None)
        said = _said(error.getCondition(), error.getMessageParameters() or {}, "")
        return said or _from_java(origin)
    if isinstance(error, Py4JJavaError):
        return _from_java(error.java_exception)
    if isinstance(error, OSError) and (full := _full_disk(str(error))) is not None:
        return full
    if isinstance(error, Py4JNetworkError | ConnectionError):
        return SetupError("the connection to Spark was lost: its process ended; its last log lines say why")
    return None


def _from_task(text: str) -> NimcError | None:
    """An error of ours, or a full disk, that was met on an executor: Spark hands on nothing but the traceback."""
    if (full := _full_disk(text)) is not None:
        return full
    for pattern, said in _EXECUTORS.items():
        lacking = re.search(pattern, text, re.MULTILINE)
        if lacking is not None:
            return SetupError(f"{said.format(*lacking.groups())}; see docs/operations.md, the packages of executors")
    match = _RAISED_IN_TASK.search(text)
    kind = getattr(errors, match[1], None) if match else None
    return kind(match[2]) if match and kind is not None else None


def _said(condition: str | None, parameters: Mapping[str, str], cause: str) -> NimcError | None:
    kind, text = _CONDITIONS.get((condition or "").partition(".")[0], (None, ""))
    return kind(text.format_map(_Parameters(parameters, cause=cause))) if kind is not None else None


class _Parameters(dict[str, str]):
    def __missing__(self, key: str) -> str:
        return "?"


def _from_java(throwable: Any) -> NimcError | None:
    chain = list(_chain(throwable))
    cause = _one_line(chain[-1].getMessage()) if chain else ""
    for link in chain:
        name = link.getClass().getName()
        if name in _JAVA:
            kind, text = _JAVA[name]
            return kind(text.format(cause=_one_line(link.getMessage())))
        said = _said(*_spark_condition(link), cause) or _from_task(str(link.getMessage()))
        if said is not None:
            return said
    return None


def _full_disk(text: str) -> NimcError | None:
    found = _NO_ROOM_TEXT.search(text)
    return None if found is None else SetupError(f"a disk is full: {_shortened(found[0])}; make room and run it again")


def in_one_line(error: PySparkException | Py4JJavaError) -> str:
    """What Spark says of an error, and of its first cause where that says more."""
    origin = error.java_exception if isinstance(error, Py4JJavaError) else getattr(error, "_origin", None)
    causes = [_one_line(message) for link in _chain(origin) if (message := link.getMessage())]
    said = causes[:1] if isinstance(error, Py4JJavaError) else [_one_line(str(error).partition("JVM stacktrace")[0])]
    first = causes[-1:] if causes and not any(causes[-1] in outer for outer in said) else []
    return ": ".join(_shortened(text) for text in [*said, *first])


def _shortened(text: str) -> str:
    line = _one_line(text)
    return line if len(line) <= _LONGEST else f"{line[: _LONGEST - 1]}…"


def _chain(throwable: Any, limit: int = 20) -> Iterator[Any]:
    while throwable is not None and limit:
        yield throwable
        throwable, limit = throwable.getCause(), limit - 1


def _spark_condition(throwable: Any) -> tuple[str | None, Mapping[str, str]]:
    """Error condition and parameters of a Spark exception that pyspark has no class for."""
    try:
        return throwable.getCondition(), dict(throwable.getMessageParameters())
    except Py4JError:
        return None, {}


def _one_line(text: object) -> str:
    return re.sub(r"\s+", " ", str(text)).strip()
