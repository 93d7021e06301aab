#!/usr/bin/env bash
# transformers 5.23.0 with torch 2.13.0: `generate(generation_config=GenerationConfig(do_sample=False))` is not greedy.
#
# Whatever the given GenerationConfig leaves at None is taken from the model's own, which `from_pretrained` reads from
# the folder's generation_config.json. A repetition penalty there, as many chat models ship one, changes what a config
# that asks for no sampling gives. A decoder that is to be greedy for every folder has to take the top token by itself.
#
# Seen:
#   top token, step by step  [27, 37, 28, 11, 11, 11, 41, 17]
#   generate, own config     [27, 37, 28, 11, 11, 11, 41, 17]
#   the same, after model.generation_config.repetition_penalty = 2.0
#                            [27, 37, 28, 11, 33, 35, 8, 14]
#
# Run: PYTHON=.venv/bin/python findings/explicit_generation_config_inherits.sh
# It exits with 0 while this is so, with 1 when the behaviour has changed, with 2 under other versions.
set -euo pipefail
python=$(command -v "${PYTHON:-python3}")
python=$(cd "$(dirname "$python")" && pwd)/$(basename "$python")
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
"$python" - <<'PY'
import sys

import torch
import transformers
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

versions = (transformers.__version__, torch.__version__.split("+")[0])
if versions != ("5.23.0", "2.13.0"):
    print(f"needs transformers 5.23.0 and torch 2.13.0, found {versions}", file=sys.stderr)
    sys.exit(2)

torch.manual_seed(0)
sizes = dict(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4)
tokens = dict(vocab_size=50, bos_token_id=0, eos_token_id=None, pad_token_id=1)
model = LlamaForCausalLM(LlamaConfig(**sizes, **tokens, initializer_range=0.5)).eval()
prompt = torch.tensor([[5, 9, 7]])
own = GenerationConfig(max_new_tokens=8, do_sample=False, pad_token_id=1)


def generated() -> list[int]:
    said = model.generate(input_ids=prompt, attention_mask=torch.ones_like(prompt), generation_config=own)
    return said[0, prompt.shape[1] :].tolist()


with torch.no_grad():
    ids = prompt
    for _ in range(8):
        ids = torch.cat([ids, model(input_ids=ids).logits[:, -1].argmax(-1, keepdim=True)], dim=1)
greedy = ids[0, prompt.shape[1] :].tolist()
alone = generated()
model.generation_config.repetition_penalty = 2.0
beside = generated()
print(f"top token, step by step  {greedy}\ngenerate, own config     {alone}\nbeside a penalty         {beside}")
sys.exit(0 if alone == greedy != beside and own.repetition_penalty is None else 1)
PY
