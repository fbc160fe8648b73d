"""First step of `make setup`: can this machine run Spark at all? Needs nothing but the standard library."""

from __future__ import annotations

import sys

from jobs._settings import check_java, find_java
from nimc_spark.errors import SetupError

if __name__ == "__main__":
    try:
        check_java(find_java())
    except SetupError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
