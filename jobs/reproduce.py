"""Reproduces an experiment of the papers: a page with tables and pictures, the paper's figures beside ours."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy
import pyspark

from jobs._job import cause, exit_code, log_to_stderr, report_failure
from jobs._session import open_session
from nimc_spark import __version__
from nimc_spark.errors import UsageError
from nimc_spark.io.failures import translated
from nimc_spark.reports.page import write_page
from nimc_spark.studies import STUDIES
from nimc_spark.studies.study import Lab


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Run the study and write its page; what the result line says of it."""
    begun = time.perf_counter()
    if arguments.data is not None and not arguments.data.is_dir():
        raise UsageError(f"--data {arguments.data}: there is no such folder")
    lab = Lab(open_session("nimc reproduce", delta=False), arguments.quick, arguments.seed, arguments.data)
    page = STUDIES[arguments.study](lab)
    seconds = time.perf_counter() - begun
    options = "".join([" --quick"] * arguments.quick + [f" --seed {arguments.seed}"] * (arguments.seed != 1))
    data = " --data DIR" if arguments.data is not None else ""
    facts = {
        "command": f"`./spark-submit.sh reproduce {shlex.quote(arguments.study)}{options}{data}`",
        "seed": str(arguments.seed),
        "versions": f"nimc-spark {__version__}, pyspark {pyspark.__version__}, numpy {numpy.__version__}",
        "took": f"{seconds:.0f} s",
    }
    path = write_page(replace(page, facts=facts), arguments.out)
    return {"seconds": round(seconds, 3), "paths": {"page": str(path)}}


def main(argv: Sequence[str]) -> int:
    """The exit code; the last line on standard output is one JSON object, as of every job."""
    log_to_stderr()
    parser = argparse.ArgumentParser(
        prog="spark-submit.sh reproduce",
        description=__doc__,
        epilog="example: ./spark-submit.sh reproduce recovery --quick --out build/studies",
    )
    parser.add_argument("study", choices=[*STUDIES])
    parser.add_argument("--quick", action="store_true", help="a small part of the setting, in a minute or two")
    parser.add_argument("--out", type=Path, default=Path("docs/studies"), metavar="DIR", help="where the page goes")
    parser.add_argument("--data", type=Path, metavar="DIR", help="folder of real data sets, for studies that need them")
    parser.add_argument("--seed", type=int, default=1)
    line: dict[str, Any] = {"job": "reproduce", "status": "done", "exit_code": 0}
    try:
        line |= run(parser.parse_args(argv))
    except SystemExit as leave:
        return int(leave.code or 0)
    except BaseException as caught:
        error = caught if isinstance(caught, KeyboardInterrupt) else translated(caught) or caught
        report_failure(error)
        line |= {"status": "failed", "exit_code": exit_code(error), "error": cause(error)}
    print(json.dumps(line, ensure_ascii=False), flush=True)
    return int(line["exit_code"])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
