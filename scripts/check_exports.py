"""Export a store's model in every form, load each with plain tools in another process, and compare log-probabilities.

    python scripts/check_exports.py STORE --model checkpoints/tiny-world

Prompts are the questions of active facts. The exit status is 1 when an exact form is further away than float32 rounds:
1e-5 for weights that are the live ones, 1e-4 for an adapter, which adds its part to the outputs.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from tabulate import tabulate

from lifelong_edit.engine import Reader
from lifelong_edit.export import export_delta, export_hf, export_peft

PROMPTS, LIMITS = 100, (1e-5, 1e-4, 1e-4)
ALONE = """
import json, sys, torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoTokenizer
folder, adapter, merge, out = sys.argv[1:]
model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
tokenizer = AutoTokenizer.from_pretrained(folder)
if adapter != "-":
    from peft import PeftModel
    model = PeftModel.from_pretrained(model, adapter)
    model = model.merge_and_unload() if merge == "merged" else model
model.eval()
with torch.no_grad():
    rows = [model(torch.tensor([tokenizer(p).input_ids])).logits[0, -1].log_softmax(-1) for p in json.load(sys.stdin)]
assert "lifelong_edit" not in sys.modules
save_file({"rows": torch.stack(rows)}, out)
"""


def alone(folder: Path, adapter: str, prompts: list[str], out: Path, merge: str = "-") -> torch.Tensor:
    """Log-probabilities of the next token [prompts, vocabulary], by transformers (and PEFT) alone."""
    command = [sys.executable, "-W", "ignore", "-c", ALONE, str(folder), adapter, merge, str(out)]
    subprocess.run(command, input=json.dumps(prompts), text=True, check=True, stderr=subprocess.DEVNULL)
    return load_file(out)["rows"]


def live(reader: Reader, prompts: list[str]) -> torch.Tensor:
    """The same of the live model."""
    tokenizer, model = reader.editable.tokenizer, reader.model
    with torch.no_grad():
        rows = [model(torch.tensor([tokenizer(p).input_ids])).logits[0, -1].log_softmax(-1) for p in prompts]
    return torch.stack(rows)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store", type=Path)
    parser.add_argument("--model", type=Path, default=Path("checkpoints/tiny-world"))
    parser.add_argument("--ranks", type=int, nargs="*", default=[128, 64, 32])
    chosen = parser.parse_args()
    rows: list[list[Any]] = []
    with (
        tempfile.TemporaryDirectory() as scratch,
        Reader.open(chosen.store, chosen.model, True, torch.float32) as reader,
    ):
        folder, out = Path(scratch), Path(scratch) / "rows.safetensors"
        prompts = [fact.question for fact in reader.facts().values() if fact.status == "active"][:PROMPTS]
        wanted = live(reader, prompts)
        hf = export_hf(reader, folder / "hf")
        far = (alone(folder / "hf", "-", prompts, out) - wanted).abs().max().item()
        rows.append(["hf", hf.bytes / 1e6, None, None, far, None])
        for rank in [None, *chosen.ranks]:
            adapter = folder / f"peft-{rank}"
            done = export_peft(reader, adapter, rank=rank)
            figures = [done.bytes / 1e6, max(done.ranks.values()), done.error]
            for merge in ("-", "merged") if rank is None else ("-",):
                far = (alone(chosen.model, str(adapter), prompts, out, merge) - wanted).abs().max().item()
                name = {"merged": "peft, merged"}.get(merge, "peft" if rank is None else "peft, truncated")
                rows.append([name, *figures, far, done.efficacy[1] if done.efficacy else None])
        delta = export_delta(reader, folder / "delta.safetensors")
        rows.append(["delta, factored", delta.bytes / 1e6, max(delta.ranks.values()), None, None, None])
    heads = ["form", "MB", "rank", "relative error of the change", "furthest log-probability", "efficacy"]
    print(tabulate(rows, heads, "github", floatfmt=("", ".2f", "", ".1e", ".1e", ".3f"), missingval=""))
    return 0 if all(row[4] <= limit for row, limit in zip(rows, LIMITS, strict=False)) else 1


if __name__ == "__main__":
    sys.exit(main())
