#!/usr/bin/env bash
# Stream edits into the bundled model: scripts/demo.sh [--quick] [other options of `lifelong-edit demo`]
source "$(dirname "$0")/environment.sh"
exec .venv/bin/lifelong-edit demo "$@"
