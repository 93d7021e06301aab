#!/usr/bin/env bash
# Run the tests, two files at a time on one thread each: scripts/test.sh [options of pytest]
source "$(dirname "$0")/environment.sh"
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
exec .venv/bin/python -m pytest --numprocesses 2 --dist loadfile "$@"
