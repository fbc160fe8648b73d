"""A standalone master and workers as processes of the test, jobs as processes that can be killed, and what is left."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from threading import Thread

from jobs._settings import ROOT
from jobs._submit import find_spark_home
from tests.jobs.tiny import Outcome, Workplace

PATIENCE = 900.0


def until(condition: Callable[[], object], what: str, seconds: float = PATIENCE) -> None:
    """Waits for something that another process brings about."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"{what}: not within {seconds:g} s"
        time.sleep(0.02)


@dataclass
class Job:
    """A job through the real spark-submit, in a process group of its own; its output is read as it comes."""

    process: subprocess.Popen[str]
    lines: list[str] = field(default_factory=list)
    reader: Thread | None = None

    @staticmethod
    def start(
        place: Workplace,
        job: str,
        *arguments: str,
        options: Sequence[str] = ("--master", "local[2]"),
        program: Path = ROOT / "spark-submit.sh",
    ) -> Job:
        started = Job(
            subprocess.Popen(
                [program, *options, "--conf", "spark.ui.enabled=false", "--", job, *arguments],
                cwd=place.folder,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,
            )
        )
        started.reader = Thread(target=started._read, daemon=True)
        started.reader.start()
        return started

    def _read(self) -> None:
        assert self.process.stdout is not None
        self.lines.extend(iter(self.process.stdout.readline, ""))

    def said(self, text: str) -> bool:
        return any(text in line for line in self.lines)

    def ended(self) -> bool:
        return self.process.poll() is not None

    def wait_for(self, text: str) -> None:
        """Until the job has said `text`. It must not end before."""
        until(lambda: self.said(text) or self.ended(), f"{text!r} in the log")
        assert self.said(text), "".join(self.lines)

    def send(self, number: signal.Signals) -> None:
        """A signal to all its processes: driver and JVM."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)

    def outcome(self) -> Outcome:
        code = self.process.wait(PATIENCE)
        assert self.reader is not None
        self.reader.join(10)
        *log, last = self.lines
        assert last.startswith('{"job"'), "".join(self.lines)
        return Outcome(code, json.loads(last), "".join(log))


class Cluster:
    """A standalone cluster on the loopback."""

    def __init__(self, folder: Path, workers: int) -> None:
        self._folder = folder
        self._home = find_spark_home()
        port, self._web = _free_port(), _free_port()
        self.url = f"spark://127.0.0.1:{port}"
        self._master = self._start("master.Master", "--port", str(port), "--webui-port", str(self._web))
        until(lambda: self._state() is not None, "the master")
        self.workers = [self.add_worker() for _ in range(workers)]
        until(lambda: (self._state() or {}).get("aliveworkers") == workers, "the workers")

    def add_worker(self) -> subprocess.Popen[bytes]:
        return self._start("worker.Worker", "-c", "1", "-m", "1g", "-d", str(self._folder), self.url)

    @property
    def options(self) -> list[str]:
        """For spark-submit."""
        sizes = ["--driver-memory", "2g", "--executor-memory", "768m"]
        return ["--master", self.url, *sizes, "--conf", "spark.sql.shuffle.partitions=4"]

    def executors(self) -> list[int]:
        """Process ids of the executors, which the workers started."""
        return [pid for worker in self.workers for pid in _children(worker.pid)]

    def stop(self) -> None:
        for process in [*self.workers, self._master]:
            for child in _children(process.pid):
                _kill(child)
            process.kill()
            process.wait()

    def _state(self) -> dict[str, object] | None:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self._web}/json/", timeout=5) as answer:
                state: dict[str, object] = json.load(answer)
                return state
        except (OSError, ValueError):
            return None

    def _start(self, name: str, *arguments: str) -> subprocess.Popen[bytes]:
        environment = os.environ | {"SPARK_LOCAL_IP": "127.0.0.1", "SPARK_HOME": str(self._home)}
        command = [self._home / "bin" / "spark-class", f"org.apache.spark.deploy.{name}", "--host", "127.0.0.1"]
        log = (self._folder / f"{name}.log").open("ab")
        return subprocess.Popen([*command, *arguments], env=environment, stdout=log, stderr=log)


@contextmanager
def running(folder: Path, workers: int = 2) -> Iterator[Cluster]:
    cluster = Cluster(folder, workers)
    try:
        yield cluster
    finally:
        cluster.stop()


def kill_one(pids: Sequence[int]) -> bool:
    """Kills the first of some processes with -9; whether there was one."""
    for pid in pids:
        _kill(pid)
        return True
    return False


def python_workers(executor: int) -> list[int]:
    """The Python workers of an executor, children of its daemon."""
    return [worker for daemon in _children(executor) for worker in _children(daemon)]


def _kill(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def _children(pid: int) -> list[int]:
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError, ValueError):
            # The name, which is in parentheses, may hold blanks.
            state, parent = status.read_text().rpartition(")")[2].split()[:2]
            if int(parent) == pid and state != "Z":
                found.append(int(status.parent.name))
    return sorted(found)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
