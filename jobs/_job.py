"""What every job shares: arguments, config, session, timing, the run's record and report, the result line and the exit
code."""

from __future__ import annotations

import argparse
import json
import logging
import math
import signal
import sys
import threading
import time
import traceback
import uuid
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from functools import cached_property
from typing import Any, NoReturn

from pyspark.sql import SparkSession
from pyspark.sql.utils import is_remote

from jobs._config import Config, config_hash, load_config, resolved
from jobs._open_runs import open_run
from jobs._preflight import check_executors
from jobs._progress import Progress
from jobs._report import run_page
from jobs._session import open_session
from jobs._settings import is_local
from nimc_spark import __version__
from nimc_spark.engine.cells import MAIN
from nimc_spark.errors import NimcError, UsageError
from nimc_spark.io.books import Books
from nimc_spark.io.failures import translated
from nimc_spark.io.registry import Entry, Registry
from nimc_spark.io.runs import Run, record_run
from nimc_spark.io.tables import Lake, ensure_writable
from nimc_spark.ml import NIMCModel
from nimc_spark.ml.persistence import write_folder
from nimc_spark.reports.page import html_page

LOGGER = logging.getLogger("nimc")
# What a context may have for the result line, also of a run that fails.
_KNOWN = ("overrides", "quarantine_reasons", "samples", "gates", "warnings", "stages")
# Counts of what readers see.
_PUBLISHED = ("recommendations", "predictions")


@dataclass(frozen=True)
class Result:
    """What a job's body hands back: `extra` goes into the result line as further keys."""

    counts: Mapping[str, int] = field(default_factory=dict)
    metrics: Mapping[str, Any] = field(default_factory=dict)
    paths: Mapping[str, str] = field(default_factory=dict)
    table_versions: Mapping[str, int] = field(default_factory=dict)
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass
class Context:
    """What a job's body works with. The session is opened when first asked for, after the config has been checked.

    `table_versions` are those that this run has written: its later stages read them, whoever writes meanwhile.
    `models` are those that it has loaded; what is entered into `kept`, such as their factors, stays until its end.
    `entry` is the model that it trained or chose, for its later stages. `counts`, `quarantine_reasons`, `metrics`,
    `gates`, `warnings`, `samples` and `stages` are what is known so far, also for a run that fails. `overrides` are
    those of the command line.
    """

    job: str
    config: Config
    run_date: date
    overrides: Sequence[str] = ()
    run_id: str = field(default_factory=lambda: str(uuid.uuid4()))
    started: datetime = field(default_factory=lambda: datetime.now(UTC))
    log: logging.Logger = LOGGER
    stages: dict[str, float] = field(default_factory=dict)
    table_versions: dict[str, int] = field(default_factory=dict)
    models: dict[Hashable, NIMCModel] = field(default_factory=dict)
    entry: Entry | None = None
    counts: dict[str, int] = field(default_factory=dict)
    quarantine_reasons: dict[str, Mapping[str, int]] = field(default_factory=dict)
    metrics: Mapping[str, Any] = field(default_factory=dict)
    gates: list[dict[str, Any]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    samples: list[dict[str, Any]] = field(default_factory=list)
    kept: ExitStack = field(default_factory=ExitStack)
    _within: list[str] = field(default_factory=list)

    @cached_property
    def config_hash(self) -> str:
        return config_hash(self.config)

    @cached_property
    def spark(self) -> SparkSession:
        session = open_session(f"nimc {self.job}", delta=self.config.format == "delta")
        self._describe(session)
        if not is_remote() and not is_local(session.sparkContext.master):
            # A run that the cluster cannot take is recorded too.
            self.lake = self._lake(session)
            check_executors(session)
        return session

    @cached_property
    def lake(self) -> Lake:
        return self._lake(self.spark)

    def _lake(self, session: SparkSession) -> Lake:
        return Lake(session, self.config.lake, self.config.format)

    @cached_property
    def registry(self) -> Registry:
        return Registry(self.lake, self.config.name)

    def enter_books(self, books: Books) -> None:
        """Into the result line, also of a run that fails."""
        self.counts |= books.counts
        self.quarantine_reasons |= books.reasons

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Times a part of the job, inside another as `outer.inner`; the log and the Spark UI show its name."""
        begun = time.perf_counter()
        outer = self._within
        self._enter([*outer, name])
        name = ".".join(self._within)
        self.log.info("%s: %s", self.job, name)
        try:
            yield
        finally:
            took = round(time.perf_counter() - begun, 3)
            self.stages[name] = round(self.stages.get(name, 0.0) + took, 3)
            self._enter(outer)
        self.log.info("%s: %s took %.1f s", self.job, name, took)

    def progress(self, what: str, total: int | None = None) -> Progress:
        """`with context.progress("train", 200) as p: p.step("loss 0.4")`: a bar on a terminal, else log lines."""
        return Progress(what, total, self.log)

    def _enter(self, stages: list[str]) -> None:
        self._within = stages
        if "spark" in self.__dict__:
            self._describe(self.spark)

    def _describe(self, session: SparkSession) -> None:
        """Names the stage in Spark's job descriptions, which a Connect session does not have."""
        if not is_remote():
            description = ": ".join([self.job, *self._within])
            session.sparkContext.setLocalProperty("spark.job.description", description)


Body = Callable[[Context], Result]


class Terminated(KeyboardInterrupt):
    """SIGTERM came: what is open is closed, and training saves its state, as for a key press."""


@contextmanager
def _ending_on_sigterm() -> Iterator[None]:
    """Inside, the first SIGTERM raises Terminated; later ones do not disturb the clean-up."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(number: int, frame: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise Terminated

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


class _Parser(argparse.ArgumentParser):
    """Raises UsageError, so that wrong arguments end like any other error."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}; see {self.prog} --help")


def run_job(name: str, argv: Sequence[str], body: Body, description: str, *, recorded: bool = True) -> int:
    """Runs the job `name` with command line `argv` and returns its exit code.

    The config is checked before Spark starts. The last line on standard output is one JSON object, also for a failure;
    everything else goes to standard error, which spark-submit joins to it. A run that had reached the lake leaves a row
    in `runs`, failed or not, and until then is one of `open_runs`, unless it is not `recorded`.
    """
    begun = time.perf_counter()
    log_to_stderr()
    context: Context | None = None
    error: BaseException | None = None
    result, status, noted = Result(), "done", ExitStack()
    try:
        arguments = _parser(name, description).parse_args(argv)
        run_date = arguments.run_date or datetime.now(UTC).date()
        config = load_config(arguments.config, arguments.overrides)
        context = Context(name, config, run_date, arguments.overrides)
        if arguments.dry_run:
            result, status = _dry_result(context), "dry run"
        else:
            ensure_writable(config.lake)
            if recorded:
                noted.enter_context(open_run(config.lake, context.run_id, run_date, name, context.started))
            with _ending_on_sigterm(), context.kept:
                result = body(context)
    except SystemExit as leave:
        return int(leave.code or 0)
    except KeyboardInterrupt as caught:
        error = caught
    except Exception as caught:
        error = translated(caught) or caught
    if error is not None:
        status = "failed"
        report_failure(error)
        if context is not None:
            result = Result(context.counts, context.metrics, {}, context.table_versions)
    line = _line(name, status, context, time.perf_counter() - begun, result, error)
    # What fails before it reaches the lake leaves nothing there.
    if recorded and context is not None and status != "dry run" and "lake" in context.__dict__:
        line["paths"] = {**line["paths"], **_reported(context, line)}
        _record(context, line, result)
    noted.close()
    if context is not None and status == "done":
        context.log.info("%s: %s", name, _in_words(context, line))
    print(json.dumps(_finite(line), default=str, ensure_ascii=False), flush=True)
    return int(line["exit_code"])


def _line(
    job: str, status: str, context: Context | None, seconds: float, result: Result, error: BaseException | None
) -> dict[str, Any]:
    """The result line; `error` is in it only where there is one."""
    return {
        "job": job,
        "status": status,
        "exit_code": exit_code(error),
        "run_id": context.run_id if context is not None else None,
        "seconds": round(seconds, 3),
        "counts": result.counts,
        "metrics": result.metrics,
        "paths": result.paths,
        **result.extra,
        **({} if context is None else {name: known for name in _KNOWN if (known := getattr(context, name))}),
        **({} if error is None else {"error": cause(error)}),
    }


def _in_words(context: Context, line: Mapping[str, Any]) -> str:
    """What a run that went well has done, for who reads the log."""
    parts = [f"done in {line['seconds']:.0f} s"]
    if "model_version" in line:
        parts.append(f"model {context.config.name} version {line['model_version']}")
    parts += [f"{n} {what} for {context.run_date}" for what, n in line["counts"].items() if what in _PUBLISHED]
    if "report" in line["paths"]:
        parts.append(f"report: {line['paths']['report']}")
    return ", ".join(parts)


def _parser(name: str, description: str) -> argparse.ArgumentParser:
    parser = _Parser(
        prog=f"spark-submit.sh {name}",
        description=description,
        epilog=f"example: ./spark-submit.sh {name} --config conf/ml-100k.yaml --set split.seed=2",
        # An example that is wrapped cannot be copied.
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--config", required=True, metavar="FILE", help="YAML file, see docs/config.md")
    parser.add_argument(
        "--set",
        dest="overrides",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="overrides a config value, dotted.key=value, as often as needed",
    )
    parser.add_argument("--dry-run", action="store_true", help="check arguments and config, show them, start nothing")
    parser.add_argument(
        "--run-date",
        type=_run_date,
        default=None,
        metavar="YYYY-MM-DD",
        help="the date the run is for (default: today in UTC)",
    )
    return parser


def _run_date(text: str) -> date:
    try:
        return datetime.strptime(text, "%Y-%m-%d").date()
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a date such as 2025-01-31") from None


def _dry_result(context: Context) -> Result:
    paths = {name: source.path for name, source in context.config.sources if source is not None}
    return Result(paths=paths | {"lake": context.config.lake}, extra={"config": resolved(context.config)})


def log_to_stderr() -> None:
    """One handler on the package's loggers, bound to the standard error of now."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s", "%H:%M:%S"))
    for name in (LOGGER.name, "nimc_spark"):
        logger = logging.getLogger(name)
        logger.handlers[:] = [handler]
        logger.setLevel(logging.INFO)
        logger.propagate = False


def exit_code(error: BaseException | None) -> int:
    if error is None:
        return 0
    if isinstance(error, NimcError):
        return error.exit_code
    return 143 if isinstance(error, Terminated) else 130 if isinstance(error, KeyboardInterrupt) else 1


def report_failure(error: BaseException) -> None:
    """One line a fault for errors that we know; a traceback for those that we do not."""
    if not isinstance(error, NimcError | KeyboardInterrupt):
        traceback.print_exception(error, file=sys.stderr)
    for line in cause(error).splitlines():
        print(f"error: {line}", file=sys.stderr)


def cause(error: BaseException) -> str:
    if isinstance(error, NimcError):
        return str(error)
    if isinstance(error, KeyboardInterrupt):
        return "terminated" if isinstance(error, Terminated) else "interrupted"
    return f"{type(error).__name__}: {error}"


def _record(context: Context, line: Mapping[str, Any], result: Result) -> None:
    """The row in `runs`."""
    run = Run(
        run_id=context.run_id,
        run_date=context.run_date,
        job=context.job,
        started=context.started,
        seconds=line["seconds"],
        status=line["status"],
        exit_code=line["exit_code"],
        config_hash=context.config_hash,
        code_version=__version__,
        table_versions=result.table_versions,
        counts=result.counts,
        metrics=json.dumps(_finite(result.metrics), default=str),
        stages=context.stages,
        error=line.get("error"),
    )
    try:
        record_run(context.lake, run)
    except Exception as error:
        context.log.warning("this run could not be recorded in %s: %s", context.lake.path("runs"), _first_line(error))


def _reported(context: Context, line: Mapping[str, Any]) -> dict[str, str]:
    """Writes the report of the run; where it is."""
    folder = context.lake.path(f"reports/{context.run_date}/{context.job}-{context.run_id}")
    facts = {
        "run date": str(context.run_date),
        "run": context.run_id,
        "model": context.config.name,
        "version": str(line["model_version"]) if "model_version" in line else "",
        "config": context.config_hash,
        "set on the command line": ", ".join(context.overrides),
        "code": f"nimc-spark {__version__}",
    }
    try:
        page = run_page(line, {k: v for k, v in facts.items() if v}, _losses(context))
        write_folder(folder, {"report.html": html_page(page).encode()}, overwrite=False)
    except Exception as error:
        context.log.warning("the report of this run could not be written to %s: %s", folder, _first_line(error))
        return {}
    return {"report": f"{folder}/report.html"}


def _losses(context: Context) -> dict[str, Sequence[float]]:
    """The objective after each pass, of each member of the model that this run trained or measured."""
    metrics = {} if context.entry is None else context.entry.metrics
    members = {MAIN: metrics} if "losses" in metrics else metrics
    return {name: of["losses"] for name, of in members.items() if isinstance(of, Mapping) and "losses" in of}


def _first_line(error: Exception) -> str:
    return (str(translated(error) or error).splitlines() or [type(error).__name__])[0]


def _finite(value: Any) -> Any:
    """`value` with NaN and infinities as null: JSON has none."""
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
