#!/usr/bin/env bash
# Runs a job with the real spark-submit. `./spark-submit.sh --help` says how; jobs/_submit.py builds the command.
set -euo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
python="$root/.venv/bin/python"
[ -x "$python" ] || python="$(command -v python3 || true)"
if [ -z "$python" ] || ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
    echo "error: Python 3.11 or newer is needed, found ${python:-none}: run \`make setup\` with one on PATH" >&2
    exit 6
fi
PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}" exec "$python" -m jobs._submit "$@"
