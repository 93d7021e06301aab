"""Measure every combination of memory, targets and ridge on the bundled model, and write the table that decides.

    python scripts/choose_default.py --seeds 0 1 2 --jobs 2 --out docs/default_combination.md

One stream of distinct people per seed, in batches of 32; figures at facts / d_in = 0.25, 0.5, 0.75 and 1. Rows of the
raw table are appended to a JSONL file as they are measured, and measured rows are not measured again.
"""

from __future__ import annotations

import argparse
import itertools
import json
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from statistics import mean

import torch
from lifelong_edit.tracking.drift import perplexity
from lifelong_edit.world.tasks import held_out_stories
from tabulate import tabulate
from tqdm import tqdm

from lifelong_edit.algebra.objective import Memory
from lifelong_edit.editing.settings import EditorSettings
from lifelong_edit.engine import LifelongEditor
from lifelong_edit.errors import SolveError
from lifelong_edit.model.editable import EditableModel
from lifelong_edit.tracking.scores import argmax_rate, score_edits
from lifelong_edit.world.generator import World
from lifelong_edit.world.requests import edit_requests, untouched_facts

BATCH, COHORT, WORLD_SEED = 32, 64, 0
LOADS = (0.25, 0.5, 0.75, 1.0)
RIDGES = (0.0, 0.1, 0.5)  # in units of the calibration
Combination = tuple[str, str, float, int]  # memory, targets, relative ridge, seed


def measure(model: Path, layer: int, combination: Combination) -> list[dict[str, float | str]]:
    """One stream; one row at each load. A stream that the solver refuses ends there, and says so."""
    torch.set_num_threads(1)
    memory, targets, ridge, seed = combination
    world = World.generate(WORLD_SEED)
    editable = EditableModel.open(model, dtype=torch.float32)
    d_in = editable.shape(layer)[1]
    stops = {int(load * d_in): load for load in LOADS}
    requests = edit_requests(world, max(stops), seed)
    untouched, stories = untouched_facts(world, 300, max(stops), seed), held_out_stories(world, 100, seed)
    head: dict[str, float | str] = dict(zip(("memory", "targets", "ridge", "seed"), combination, strict=True))
    base = perplexity(editable.model, editable.tokenizer, stories)
    settings = EditorSettings(layers=(layer,), memory=Memory(memory), targets=targets)
    rows: list[dict[str, float | str]] = []
    with (
        tempfile.TemporaryDirectory() as folder,
        LifelongEditor.create(folder, model, settings, dtype=torch.float32) as editor,
    ):
        absolute = ridge * editor.history()[0].body["calibration"][str(layer)]
        for start in range(0, len(requests), BATCH):
            done = requests[: start + BATCH]
            try:
                editor.apply(requests[start : start + BATCH], ridge=absolute)
            except SolveError:
                rows.append({**head, "load": len(done) / d_in, "refused": 1.0})
                break
            if len(done) in stops:
                live = editor.editable
                row: dict[str, float | str] = {**head, "load": stops[len(done)]}
                for name, cohort in (("newest", done[-COHORT:]), ("oldest", done[:COHORT]), ("all", done)):
                    scores = score_edits(live, cohort)
                    row |= {f"{name} {field}": getattr(scores, field) for field in ("ea", "pa", "na", "ns", "aa")}
                row["untouched"] = argmax_rate(live.model, live.tokenizer, untouched)
                row["ppl ratio"] = perplexity(live.model, live.tokenizer, stories) / base
                rows.append(row)
    return rows


def measured(raw: Path) -> list[dict[str, float | str]]:
    """The rows measured so far."""
    return [json.loads(line) for line in raw.read_text().splitlines()] if raw.is_file() else []


def table(rows: list[dict[str, float | str]], layer: int) -> str:
    """The table as Markdown: means over seeds, one line a combination and load."""
    groups: dict[tuple[object, ...], list[dict[str, float | str]]] = defaultdict(list)
    for row in rows:
        key = "refused" if "refused" in row else row["load"]
        groups[row["memory"], row["targets"], row["ridge"], key].append(row)
    columns = {
        "EA new": "newest ea", "EA old": "oldest ea", "EA all": "all ea", "PA all": "all pa", "NA all": "all na",
        "NS all": "all ns", "AA all": "all aa", "untouched": "untouched", "ppl ratio": "ppl ratio",
    }  # fmt: skip
    lines = []
    for key, group in sorted(groups.items(), key=lambda item: tuple(map(str, item[0]))):
        *names, load = key
        if load == "refused":
            at = min(float(row["load"]) for row in group)
            lines.append([*names, f"refused from {at:.2f} on ({len(group)} seeds)", len(group), *[None] * len(columns)])
            continue
        lines.append([*names, load, len(group), *(mean(float(row[c]) for row in group) for c in columns.values())])
    head = ["memory", "targets", "ridge", "facts / d_in", "seeds", *columns]
    return f"Layer {layer}, batches of {BATCH}.\n\n" + tabulate(lines, head, "github", floatfmt=".3g", missingval="")


def todo(options: argparse.Namespace, rows: list[dict[str, float | str]]) -> Iterator[Combination]:
    """The combinations not measured yet, one seed after the other."""
    known = {(row["memory"], row["targets"], row["ridge"], row["seed"]) for row in rows}
    for seed in options.seeds:
        for combination in itertools.product(("batch", "joint"), ("live", "base"), RIDGES, (seed,)):
            if combination not in known:
                yield combination


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=Path("checkpoints/tiny-world"))
    parser.add_argument("--layer", type=int, default=2)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--raw", type=Path, default=Path("docs/default_combination.jsonl"))
    parser.add_argument("--out", type=Path, default=Path("docs/default_combination.md"))
    options = parser.parse_args()
    options.raw.parent.mkdir(exist_ok=True)
    jobs = list(todo(options, measured(options.raw)))
    with ProcessPoolExecutor(options.jobs) as pool, options.raw.open("a") as raw:
        futures = [pool.submit(measure, options.model, options.layer, job) for job in jobs]
        for future in tqdm(as_completed(futures), total=len(futures), unit="stream"):
            for row in future.result():
                raw.write(json.dumps(row) + "\n")
            raw.flush()
    text = table(measured(options.raw), options.layer)
    options.out.write_text(f"# Which combination is the default\n\n`{Path(__file__).name}` measured this.\n\n{text}\n")
    print(text)


if __name__ == "__main__":
    main()
