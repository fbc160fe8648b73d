"""Several jobs in one Spark application, on one command line: `./spark-submit.sh night+predict --config FILE …`.

Each ends with its own line on standard output; the first that fails is the last one.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module


def main(argv: Sequence[str]) -> int:
    """`argv`: the jobs' names, joined by +, and the arguments that each of them gets. The exit code of the last one."""
    names, *arguments = argv
    code = 0
    for name in names.split("+"):
        code = code or import_module(f"jobs.{name}").main(arguments)
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
