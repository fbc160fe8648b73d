"""Times taken in turns, and the one table they end in."""

from __future__ import annotations

import csv
import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple, dataclass, fields
from importlib.metadata import version
from pathlib import Path
from statistics import median

from py4j.protocol import Py4JJavaError
from pyspark.sql import SparkSession

RESULTS = Path(__file__).parent / "results"
_PROC = Path("/proc")


@dataclass(frozen=True)
class Row:
    """One line of the table: a median, the extremes beside it, and what is asked for."""

    measure: str
    value: str
    low: str = ""
    high: str = ""
    target: str = ""
    note: str = ""


def row(measure: str, values: Sequence[float], form: str = ".2f", target: str = "", note: str = "") -> Row:
    """The median of `values`, with their minimum and maximum."""
    middle, low, high = (format(v, form) for v in (median(values), min(values), max(values)))
    return Row(measure, middle, low, high, target, note)


@dataclass(frozen=True)
class Round:
    """What one call took in one round: seconds on the clock, and of processors in all our processes."""

    clock: float
    processor: float


def in_turns(
    actions: Mapping[str, Callable[[], object]], rounds: int = 7, calls: int = 7, warm_up: int = 8
) -> dict[str, list[Round]]:
    """Each action's rounds; a round is the median of `calls`, and actions take turns so that noise hits all alike."""
    for action in actions.values():
        for _ in range(warm_up):
            action()
    result: dict[str, list[Round]] = {name: [] for name in actions}
    for _ in range(rounds):
        for name, action in actions.items():
            before, clock = processor_seconds(), []
            for _ in range(calls):
                began = time.perf_counter()
                action()
                clock.append(time.perf_counter() - began)
            result[name].append(Round(median(clock), (processor_seconds() - before) / calls))
    return result


def processor_seconds() -> float:
    """Processor time of this process and all below it (the JVM, Python workers); 0 where there is no /proc."""
    used: dict[int, float] = {}
    parent: dict[int, int] = {}
    for status in _PROC.glob("[0-9]*/stat"):
        try:
            words = status.read_text().rsplit(")", 1)[1].split()
        except OSError:  # it ended meanwhile
            continue
        process = int(status.parent.name)
        parent[process], used[process] = int(words[1]), int(words[11]) + int(words[12])
    return sum(ticks for p, ticks in used.items() if _below(p, os.getpid(), parent)) / os.sysconf("SC_CLK_TCK")


def _below(process: int, ancestor: int, parent: Mapping[int, int]) -> bool:
    while process not in (ancestor, 0):
        process = parent.get(process, 0)
    return process == ancestor


def machine() -> str:
    """The machine in words, and the load on it while we measured."""
    model = platform.machine()
    information = _PROC / "cpuinfo"
    if information.is_file():
        names = [line.split(":", 1)[1].strip() for line in information.read_text().splitlines() if "model name" in line]
        model = names[0] if names else model
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    packages = ", ".join(f"{name} {version(name)}" for name in ("pyspark", "numpy", "numba", "pyarrow"))
    load = os.getloadavg()[0]
    return (
        f"{os.cpu_count()} cores of {model}, {memory:.0f} GB; {platform.system()}, Python {platform.python_version()}, "
        f"{packages}. Load average at the end: {load:.1f}."
    )


def blas(spark: SparkSession) -> str:
    """The BLAS that ALS has: JNIBLAS is a native one (libblas.so.3), any other the JVM's own."""
    jvm = spark.sparkContext._jvm
    if jvm is None:
        return "unknown BLAS"
    netlib = jvm.dev.ludovic.netlib.blas
    try:
        found = netlib.NativeBLAS.getInstance()
    except Py4JJavaError:
        found = netlib.JavaBLAS.getInstance()
    return f"ALS with {found.getClass().getSimpleName()}"


def publish(name: str, title: str, rows: Sequence[Row]) -> None:
    """Print the table, and write it to results/ as Markdown and CSV."""
    names = [field.name for field in fields(Row)]
    lines = [f"# {title}", "", machine(), "", _line(names), _line(["---"] * len(names))]
    text = "\n".join([*lines, *(_line(astuple(r)) for r in rows), ""])
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.md").write_text(text, encoding="utf-8")
    with (RESULTS / f"{name}.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows([names, *map(astuple, rows)])
    print(text)


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"
