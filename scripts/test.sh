#!/usr/bin/env bash
# Run the tests: scripts/test.sh [options of pytest]
source "$(dirname "$0")/environment.sh"
exec .venv/bin/python -m pytest "$@"
