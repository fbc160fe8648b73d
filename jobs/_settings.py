"""What a Spark session of this project is made of: settings files, Delta's jars, Java, versions that fit together.

Standard library only: `_submit` reads this before any Spark is there, `_session` and the tests afterwards.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from nimc_spark.errors import SetupError

# The source tree, or the folder that an installed wheel is in.
ROOT = Path(__file__).resolve().parents[1]
IS_SOURCE_TREE = (ROOT / "Makefile").is_file()
CONF = Path(__file__).resolve().parent / "_conf"
JARS = ROOT / ".jars"

SPARK_LINE = "4.2"
DELTA_VERSION = "4.4.0"
DELTA_PACKAGE = f"io.delta:delta-spark_{SPARK_LINE}_2.13:{DELTA_VERSION}"
DRIVER_MEMORY = "4g"

ON_TERMINAL = "NIMC_TERMINAL"
"""Set to 1 by who starts spark-submit on a terminal: a job cannot see it, since its output goes through a pipe."""

_DRIVER_OPTIONS = "spark.driver.extraJavaOptions"
_COLLECTOR = re.compile(r"-XX:\+Use\w+GC\b")

JAVA_HELP = (
    "install a full Java 17 or newer (Debian/Ubuntu: apt-get install openjdk-17-jre-headless; "
    "macOS: brew install openjdk@17; conda: conda install openjdk=17) and set JAVA_HOME or PATH"
)


def read_settings(path: Path) -> dict[str, str]:
    """The settings of a file in the format of spark-defaults.conf: `key value` or `key=value` lines, `#` comments.

    Raises:
        SetupError: the file cannot be read, or a line has no value.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise SetupError(f"cannot read the Spark settings {path}: {error.strerror}") from error
    settings = {}
    for number, line in enumerate(lines, start=1):
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        match = re.fullmatch(r"([^\s=]+)(?:\s*=\s*|\s+)(\S.*)", text)
        if match is None:
            raise SetupError(f"{path}, line {number}: {text!r} is no setting; write `key value`")
        settings[match[1]] = match[2]
    return settings


def local_jars(folder: Path = JARS) -> list[Path]:
    """Delta's jars as set-up fetched them, by name; empty where there are none."""
    return sorted(folder.glob("*.jar"))


def spark_has_delta(spark_home: Path) -> bool:
    """Whether the Spark installation brings Delta itself, as some platforms do."""
    return any((spark_home / "jars").glob("delta-spark*.jar"))


def is_local(master: str) -> bool:
    """Whether driver and workers are one process tree on this machine, with this source tree."""
    return re.fullmatch(r"local(\[.*\])?", master) is not None


def default_settings(*, delta: bool, local: bool, java_options: str = "") -> dict[str, str]:
    """Settings of `jobs/_conf`, with those that need Delta on the class path, and those for one machine.

    A garbage collector that `java_options` chooses for the driver's JVM takes the place of ours, since with two it does
    not start.
    """
    settings = read_settings(CONF / "defaults.conf")
    if delta:
        settings |= read_settings(CONF / "delta.conf")
    if local:
        settings |= read_settings(CONF / "local.conf")
        if _COLLECTOR.search(java_options):
            settings[_DRIVER_OPTIONS] = _COLLECTOR.sub("", settings[_DRIVER_OPTIONS]).strip()
    return settings


def driver_java_options(environment: Mapping[str, str], settings: Mapping[str, str]) -> str:
    """What the driver's JVM is given beside `spark.driver.extraJavaOptions`."""
    variables = ("JAVA_TOOL_OPTIONS", "JDK_JAVA_OPTIONS", "SPARK_SUBMIT_OPTS")
    return " ".join(
        [*(environment.get(name, "") for name in variables), settings.get("spark.driver.defaultJavaOptions", "")]
    )


def check_versions(pyspark_version: str, delta_version: str | None) -> None:
    """Hold Spark and Delta to the pair that was tested together.

    Args:
        pyspark_version: of the running Spark, such as `4.2.0`.
        delta_version: of Delta on the class path; None if there is no Delta.

    Raises:
        SetupError: another line of Spark, another Delta, or none.
    """
    line = ".".join(pyspark_version.split(".")[:2])
    if line != SPARK_LINE:
        raise SetupError(
            f"this is Spark {pyspark_version} with Delta {delta_version or 'absent'}, but Spark {SPARK_LINE}.x with "
            f"Delta {DELTA_VERSION} is needed: pip install 'pyspark~={SPARK_LINE}.0' 'delta-spark=={DELTA_VERSION}'"
        )
    if delta_version is None:
        raise SetupError(
            f"Spark {pyspark_version} has no Delta on its class path: run `make setup`, which fetches the jars, or "
            f"give spark-submit the option --packages {DELTA_PACKAGE}, or set `format: parquet` in the config"
        )
    if delta_version != DELTA_VERSION:
        raise SetupError(
            f"Delta {delta_version} does not fit Spark {pyspark_version}: Delta {DELTA_VERSION} is needed, "
            f"pip install 'delta-spark=={DELTA_VERSION}' and the jar {DELTA_PACKAGE}"
        )


def find_java(environment: Mapping[str, str] = os.environ) -> str:
    """The java that Spark would start, from JAVA_HOME or else PATH.

    Raises:
        SetupError: there is none.
    """
    home = environment.get("JAVA_HOME")
    java = shutil.which("java", path=f"{home}/bin" if home else environment.get("PATH", os.defpath))
    if java is None:
        where = f"JAVA_HOME={home}" if home else "PATH"
        raise SetupError(f"no java found in {where}: {JAVA_HELP}")
    return java


def check_java(java: str) -> None:
    """Start `java` once with the module that Spark needs and trimmed runtimes lack.

    Raises:
        SetupError: it does not start, or is older than 17.
    """
    command = [java, "--add-modules=jdk.incubator.vector", "-version"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise SetupError(f"{java} does not start ({error}): {JAVA_HELP}") from error
    version = re.search(r'version "(\d+)', answer.stderr + answer.stdout)
    if version and int(version[1]) < 17:
        raise SetupError(f"{java} is Java {version[1]}: {JAVA_HELP}")
    if answer.returncode != 0 or version is None:
        said = (answer.stderr + answer.stdout).strip().splitlines()
        raise SetupError(f"{java} cannot run Spark ({said[-1] if said else 'no answer'}): {JAVA_HELP}")


def launch_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment to start Spark in: what the caller has set stays, the rest gets our values."""
    log = f"-Dlog4j.configurationFile={(CONF / 'log4j2.properties').as_uri()}"
    path = environment.get("PYTHONPATH")
    return {
        "PYSPARK_PYTHON": sys.executable,
        "PYSPARK_DRIVER_PYTHON": sys.executable,
        "SPARK_DRIVER_MEMORY": DRIVER_MEMORY,
        **environment,
        # Later options win in a JVM, so that the caller's own log settings stand.
        "SPARK_SUBMIT_OPTS": f"{log} {environment.get('SPARK_SUBMIT_OPTS', '')}".strip(),
        "PYTHONPATH": f"{ROOT}{os.pathsep}{path}" if path else str(ROOT),
    }
