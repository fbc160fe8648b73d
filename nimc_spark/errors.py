"""Every error a user can meet, with the exit code a job gives for it.

A message is one line: what was received, where, and what is allowed or what to do about it.
"""

from __future__ import annotations


class NimcError(Exception):
    """Base of all errors that this package raises on purpose.

    ``exit_code`` is what a job exits with when the error reaches it.
    """

    exit_code = 1


class ConflictError(NimcError):
    """Another writer committed first; this one changed nothing and may be run again."""


class UsageError(NimcError):
    """A wrong argument, parameter or config value."""

    exit_code = 2


class DataError(NimcError):
    """Input data or a schema that cannot be used."""

    exit_code = 3


class GateError(NimcError):
    """A quality gate refused; nothing was published."""

    exit_code = 4


class TrainingError(NimcError):
    """Training diverged or collapsed; no model was made."""

    exit_code = 5


class SetupError(NimcError):
    """The environment does not fit: Java, jars, versions, executors, folders."""

    exit_code = 6
