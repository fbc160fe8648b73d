"""Fetch Delta's jars into `.jars/`, with Spark's own dependency resolver, and hold them to recorded checksums.

Run by `make setup`. Asked for plainly, Spark would fetch 33 jars; all but Delta's own are on its class path already.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from jobs._settings import CONF, DELTA_PACKAGE, JARS, ROOT, check_java, find_java
from jobs._submit import find_spark_home
from nimc_spark.errors import NimcError, SetupError

CHECKSUMS = ROOT / "scripts" / "jars.sha256"
ON_CLASS_PATH = "org.*:*,com.*:*,commons-*:*,io.airlift:*,io.unitycatalog:*,javax.*:*"


def read_checksums(path: Path = CHECKSUMS) -> dict[str, str]:
    """Name of each jar and its SHA-256, from the format of sha256sum."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return {name: digest for digest, name in (line.split() for line in lines)}


def faults(folder: Path, expected: dict[str, str]) -> list[str]:
    """What is wrong with the jars in a folder, one line each; empty if they are exactly those expected."""
    found = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.glob("*.jar")}
    missing = [f"{name} is missing" for name in expected if name not in found]
    foreign = [f"{name} was not expected" for name in found if name not in expected]
    changed = [f"{name} has another checksum" for name in expected if found.get(name, expected[name]) != expected[name]]
    return missing + foreign + changed


def resolve(cache: Path) -> Path:
    """Let spark-submit resolve the package into a cache folder; the folder of the jars.

    Raises:
        SetupError: Spark could not fetch them.
    """
    home = find_spark_home()
    nothing = cache / "nothing.py"
    nothing.write_text("")
    settings = {
        "spark.master": "local[1]",
        "spark.jars.packages": DELTA_PACKAGE,
        "spark.jars.excludes": ON_CLASS_PATH,
        "spark.jars.ivySettings": str(CONF / "ivy.xml"),
        "spark.jars.ivy": str(cache),
    }
    line = [str(home / "bin" / "spark-submit")]
    for key, value in settings.items():
        line += ["--conf", f"{key}={value}"]
    environment = {**os.environ, "SPARK_HOME": str(home), "PYSPARK_PYTHON": sys.executable}
    answer = subprocess.run([*line, str(nothing)], env=environment, capture_output=True, text=True, check=False)
    if answer.returncode != 0:
        sys.stderr.write(answer.stderr)
        raise SetupError(f"Spark could not fetch {DELTA_PACKAGE} from Maven Central (its log is above)")
    return cache / "jars"


def main() -> int:
    """Fetch what is missing; the exit code."""
    try:
        check_java(find_java())
        expected = read_checksums()
        if not faults(JARS, expected):
            return 0
        with tempfile.TemporaryDirectory() as cache:
            fetched = resolve(Path(cache))
            for jar in fetched.glob("*.jar"):
                jar.rename(fetched / jar.name.removeprefix("io.delta_"))
            wrong = faults(fetched, expected)
            if wrong:
                raise SetupError(f"fetched jars are not those recorded in {CHECKSUMS.name}: {'; '.join(wrong)}")
            shutil.rmtree(JARS, ignore_errors=True)
            shutil.copytree(fetched, JARS)
    except NimcError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
