"""The command line of spark-submit for a job: `./spark-submit.sh [spark-submit options --] JOB --config FILE ...`."""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import io
import os
import shlex
import sys
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from jobs._settings import (
    IS_SOURCE_TREE,
    ON_TERMINAL,
    ROOT,
    check_java,
    default_settings,
    driver_java_options,
    find_java,
    is_local,
    launch_environment,
    local_jars,
    read_settings,
    spark_has_delta,
)
from nimc_spark.errors import NimcError, SetupError, UsageError

# An installed wheel has the command `nimc` in the place of the script.
PROGRAM = "./spark-submit.sh" if IS_SOURCE_TREE else "nimc"
USAGE = """usage: {program} [spark-submit options --] JOB[+JOB...] --config FILE [--set key=value ...]

jobs: {jobs}

  {program} night --config my.yaml
  {program} --master spark://host:7077 --executor-memory 8g -- train --config my.yaml
  {program} night+predict --config my.yaml   (one after the other, in one Spark application)
  {program} train --help
"""


def job_names(folder: Path = ROOT / "jobs") -> list[str]:
    """Names of the jobs in a folder: its modules without a leading underscore."""
    return sorted(path.stem for path in folder.glob("*.py") if not path.stem.startswith("_"))


def split_arguments(argv: Sequence[str]) -> tuple[list[str], list[str], list[str]]:
    """Options for spark-submit, the jobs' names, and their own arguments.

    Raises:
        UsageError: no job is named, or one that there is not.
    """
    options: list[str] = []
    rest = list(argv)
    if rest and rest[0].startswith("-"):
        if "--" not in rest:
            raise UsageError("options of spark-submit come first and end with `--`, then the job's name")
        cut = rest.index("--")
        options, rest = rest[:cut], rest[cut + 1 :]
    if not rest:
        raise UsageError(f"no job named; jobs are {', '.join(job_names())}")
    jobs = rest[0].split("+")
    unknown = [job for job in jobs if job not in job_names()]
    if unknown:
        raise UsageError(f"unknown job {unknown[0]!r}; jobs are {', '.join(job_names())}")
    return options, jobs, rest[1:]


def find_spark_home(environment: Mapping[str, str] = os.environ) -> Path:
    """SPARK_HOME if it is set, else the installed pyspark.

    Raises:
        SetupError: neither has a spark-submit.
    """
    found = environment.get("SPARK_HOME")
    if not found:
        module = importlib.util.find_spec("pyspark")
        if module is None or module.origin is None:
            raise SetupError(f"pyspark is not installed for {sys.executable}: run `make setup`, or set SPARK_HOME")
        found = str(Path(module.origin).parent)
    home = Path(found)
    if not (home / "bin" / "spark-submit").is_file():
        raise SetupError(f"SPARK_HOME={home} has no bin/spark-submit: unset it, or name a Spark installation")
    return home


def read_options(options: Sequence[str]) -> argparse.Namespace:
    """Those options for spark-submit that decide what has to be added to them."""
    parser = argparse.ArgumentParser(prog="spark-submit.sh", add_help=False, allow_abbrev=False)
    parser.add_argument("--conf", "-c", action="append", default=[])
    for name in ("--master", "--deploy-mode", "--jars", "--packages", "--py-files", "--properties-file"):
        parser.add_argument(name)
    return parser.parse_known_args(options)[0]


def user_settings(given: argparse.Namespace, spark_home: Path, environment: Mapping[str, str]) -> dict[str, str]:
    """Settings the user gives by file and by option, options over file, as spark-submit reads them."""
    folder = Path(environment.get("SPARK_CONF_DIR") or spark_home / "conf")
    path = Path(given.properties_file or folder / "spark-defaults.conf")
    settings = read_settings(path) if given.properties_file or path.is_file() else {}
    for setting in given.conf:
        key, _, value = setting.partition("=")
        settings[key] = value
    named = {
        "spark.master": given.master,
        "spark.submit.deployMode": given.deploy_mode,
        "spark.jars": given.jars,
        "spark.jars.packages": given.packages,
        "spark.submit.pyFiles": given.py_files,
    }
    return settings | {key: value for key, value in named.items() if value is not None}


def pack(root: Path = ROOT, folder: Path | None = None) -> Path:
    """A zip of the library and the jobs for `--py-files`, named by its content; made only if it is not there yet.

    It is put into `folder`, by default `build/` of the source tree, or the user's cache for an installed wheel.
    """
    if folder is None:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        folder = root / "build" if IS_SOURCE_TREE else cache / "nimc_spark"
    files = sorted(
        path for package in ("nimc_spark", "jobs") for path in (root / package).rglob("*") if _is_source(path)
    )
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in files:
            # The default entry has a fixed date: equal sources give an equal zip.
            archive.writestr(zipfile.ZipInfo(path.relative_to(root).as_posix()), path.read_bytes())
    content = buffer.getvalue()
    target = folder / f"nimc_spark-{hashlib.sha256(content).hexdigest()[:12]}.zip"
    if not target.exists():
        folder.mkdir(parents=True, exist_ok=True)
        partial = target.with_suffix(f".{os.getpid()}")
        partial.write_bytes(content)
        os.replace(partial, target)
    return target


def command(argv: Sequence[str], environment: Mapping[str, str] = os.environ) -> list[str]:
    """The whole command: our settings where the user has none, his options and what completes them, the job.

    Raises:
        UsageError, SetupError: as the functions above.
    """
    options, jobs, arguments = split_arguments(argv)
    home = find_spark_home(environment)
    theirs = user_settings(read_options(options), home, environment)
    listed = theirs.get("spark.jars", "") + theirs.get("spark.jars.packages", "")
    brings_delta = spark_has_delta(home) or "delta-spark" in listed
    jars = [] if brings_delta else local_jars()
    local = is_local(theirs.get("spark.master") or environment.get("MASTER") or "local[*]")
    line = [str(home / "bin" / "spark-submit")]
    java_options = driver_java_options(environment, theirs)
    for key, value in default_settings(
        delta=brings_delta or bool(jars), local=local, java_options=java_options
    ).items():
        if key not in theirs:
            line += ["--conf", f"{key}={value}"]
    line += options
    if "spark.pyspark.python" in theirs and "spark.pyspark.driver.python" not in theirs and not _on_cluster(theirs):
        # Spark would take the executors' Python for the driver too.
        line += ["--conf", f"spark.pyspark.driver.python={sys.executable}"]
    # The last of an option given twice wins: what the user lists is repeated here, with ours.
    if jars:
        line += ["--jars", _listed(theirs.get("spark.jars"), *jars)]
    if not local:
        line += ["--py-files", _listed(theirs.get("spark.submit.pyFiles"), pack())]
    if len(jobs) > 1:
        return [*line, str(ROOT / "jobs" / "_several.py"), "+".join(jobs), *arguments]
    return [*line, str(ROOT / "jobs" / f"{jobs[0]}.py"), *arguments]


def main(argv: Sequence[str] | None = None) -> int:
    """Become spark-submit; return only if that is not possible, with the exit code to use."""
    argv = sys.argv[1:] if argv is None else argv
    if not argv or argv[0] in ("-h", "--help"):
        print(USAGE.format(program=PROGRAM, jobs=", ".join(job_names())), file=sys.stdout if argv else sys.stderr)
        return 0 if argv else UsageError.exit_code
    try:
        line = command(argv)
        check_java(find_java())
    except NimcError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    if os.environ.get("NIMC_SHOW_COMMAND"):
        print(shlex.join(line), file=sys.stderr)
    environment = launch_environment(os.environ) | {"SPARK_HOME": line[0].removesuffix("/bin/spark-submit")}
    if sys.stdout.isatty() and sys.stderr.isatty():
        environment[ON_TERMINAL] = "1"
    os.execve(line[0], line, environment)


def _on_cluster(settings: Mapping[str, str]) -> bool:
    """Whether the driver runs on the cluster."""
    return settings.get("spark.submit.deployMode") == "cluster"


def _is_source(path: Path) -> bool:
    return path.is_file() and "__pycache__" not in path.parts and path.suffix not in (".nbi", ".nbc")


def _listed(first: str | None, *more: Path) -> str:
    return ",".join([first] * bool(first) + [str(path) for path in more])


if __name__ == "__main__":
    sys.exit(main())
