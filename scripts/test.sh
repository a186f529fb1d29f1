#!/usr/bin/env bash
# Runs the tests in .venv (made and filled if need be). Arguments go to pytest: bash scripts/test.sh -m slow
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/install.sh test
ruff check . && ruff format --check .
# Two processes of one thread each: the small tensors of the tests lose more by sharing than they gain.
# No third one takes over from one that crashed: pytest-xdist 3.8 then repeats the test or waits for ever (its #1323).
OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 python -m pytest --numprocesses 2 --dist loadfile --max-worker-restart 0 "$@"
