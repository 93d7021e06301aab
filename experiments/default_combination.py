"""Measure every combination of memory, targets and ridge on the bundled model, and write the table that decides.

    python experiments/default_combination.py --seeds 0 1 2 --jobs 2 --out docs/default_combination.md

One stream of distinct people per seed, in batches of 32; figures at facts / d_in = 0.25, 0.5, 0.75 and 1. A ridge is
fixed, in mean key masses, or eased: large, and halved for the facts that need it, as they are written and by `relax`
before each measurement. Rows of the raw table are appended to a JSONL file, and what it has is not measured again.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from tqdm import tqdm

from lifelong_edit.algebra.system import Memory
from lifelong_edit.editing.settings import EditorSettings
from lifelong_edit.editing.targets import TargetSettings
from lifelong_edit.engine import LifelongEditor
from lifelong_edit.errors import SolveError
from lifelong_edit.facts import EditRequest
from lifelong_edit.tracking.drift import perplexity
from lifelong_edit.tracking.scores import argmax_rate, score_edits
from lifelong_edit.world.generator import BUNDLED_SEED, World
from lifelong_edit.world.requests import edit_requests, untouched_facts
from lifelong_edit.world.tasks import held_out_stories
from results import markdown, rows_of

BATCH, COHORT, SAMPLE = 32, 64, 192
LOADS = (0.25, 0.5, 0.75, 1.0)
RIDGES: dict[float | str, dict[str, Any]] = {  # a fixed ridge of 0 is EMMET's
    0.0: {"halvings": 0},
    0.1: {"halvings": 0, "ridge": 0.1},
    0.5: {"halvings": 0, "ridge": 0.5},
    "eased": {},
}
Row = dict[str, float | str]


@dataclass(frozen=True)
class Job:
    """One stream."""

    memory: str
    targets: str
    ridge: float | str
    seed: int


def measure(model: Path, layer: int, job: Job) -> list[Row]:
    """The rows of one stream, at each load. A stream that the solver refuses ends there, and says so."""
    torch.set_num_threads(1)
    settings = EditorSettings((layer,), Memory(job.memory), job.targets, target=TargetSettings(), **RIDGES[job.ridge])
    with (
        tempfile.TemporaryDirectory() as folder,
        LifelongEditor.create(Path(folder) / "store", model, settings, dtype=torch.float32) as editor,
    ):
        return [{**vars(job), **row} for row in stream(editor, layer, job)]


def stream(editor: LifelongEditor, layer: int, job: Job) -> Iterator[Row]:
    """Edit, and measure at each load."""
    world, d_in = World.generate(BUNDLED_SEED), editor.editable.shape(layer)[1]
    requests = edit_requests(world, int(max(LOADS) * d_in), job.seed)
    untouched = untouched_facts(world, 300, len(requests), job.seed)
    stories, stops = held_out_stories(world, 60, job.seed), {int(load * d_in): load for load in LOADS}
    base = perplexity(editor.model, editor.editable.tokenizer, stories)
    for start in range(0, len(requests), BATCH):
        done = requests[: start + BATCH]
        try:
            editor.apply(done[start:], method="memit" if job.ridge else "emmet")
            if len(done) in stops and (job.memory, job.ridge) == ("joint", "eased"):
                editor.relax()
        except SolveError:
            yield {"load": len(done) / d_in, "refused": 1.0}
            return
        if len(done) in stops:
            ppl = perplexity(editor.model, editor.editable.tokenizer, stories)
            kept = argmax_rate(editor.model, editor.editable.tokenizer, untouched)
            row = {"load": stops[len(done)], "untouched": kept, "ppl": ppl, "base ppl": base}
            yield {**row, **figures(editor, done, job.seed)}


def figures(editor: LifelongEditor, done: list[EditRequest], seed: int) -> Row:
    """Newest and oldest cohort, and a sample of all."""
    row: Row = {}
    sample = random.Random(seed).sample(done, min(SAMPLE, len(done)))
    for name, cohort in (("newest", done[-COHORT:]), ("oldest", done[:COHORT]), ("all", sample)):
        scores = score_edits(editor.editable, cohort)
        row |= {f"{name} {field}": getattr(scores, field) for field in ("ea", "pa", "na", "ns", "aa")}
    return row


def table(rows: list[Row], layer: int) -> str:
    """The table as Markdown: means over seeds, one line a combination and load."""
    groups: dict[tuple[object, ...], list[Row]] = defaultdict(list)
    for row in rows:
        key = "refused" if "refused" in row else row["load"]
        groups[row["memory"], row["targets"], row["ridge"], key].append(row)
    columns = {
        "EA new": "newest ea", "EA old": "oldest ea", "EA all": "all ea", "PA all": "all pa", "NA all": "all na",
        "NS all": "all ns", "AA all": "all aa", "untouched": "untouched",
    }  # fmt: skip
    lines: list[list[object]] = []
    for names, group in sorted(groups.items(), key=lambda item: tuple(map(str, item[0]))):
        if names[-1] == "refused":
            at = min(float(row["load"]) for row in group)
            refused = f"refused from {at:.2f} on ({len(group)} seeds)"
            lines.append([*names[:-1], refused, len(group), *[None] * (len(columns) + 1)])
            continue
        means = [mean(float(row[c]) for row in group) for c in columns.values()]
        ratio = mean(float(row["ppl"]) / float(row["base ppl"]) for row in group)
        lines.append([*names, len(group), *means, ratio])
    head = ["memory", "targets", "ridge", "facts / d_in", "seeds", *columns, "ppl ratio"]
    about = f"Layer {layer}, batches of {BATCH}; new and old: {COHORT} facts each, all: a sample of {SAMPLE}."
    return about + "\n\n" + markdown(lines, head, ".3g")


def todo(seeds: list[int], rows: list[Row]) -> list[Job]:
    """The streams not measured yet, one seed after the other."""
    known = {Job(*(row[name] for name in ("memory", "targets", "ridge", "seed"))) for row in rows}  # type: ignore[arg-type]
    jobs = itertools.starmap(Job, itertools.product(("joint", "batch"), ("base", "live"), RIDGES, seeds))
    return sorted((job for job in jobs if job not in known), key=lambda job: job.seed)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=Path("checkpoints/tiny-world"))
    parser.add_argument("--layer", type=int, default=1)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--raw", type=Path, default=Path("docs/default_combination.jsonl"))
    parser.add_argument("--out", type=Path, default=Path("docs/default_combination.md"))
    options = parser.parse_args()
    options.raw.parent.mkdir(exist_ok=True)
    jobs = todo(options.seeds, rows_of(options.raw))
    with ProcessPoolExecutor(options.jobs) as pool, options.raw.open("a") as raw:
        futures = [pool.submit(measure, options.model, options.layer, job) for job in jobs]
        for future in tqdm(as_completed(futures), total=len(futures), unit="stream"):
            for row in future.result():
                raw.write(json.dumps(row) + "\n")
            raw.flush()
    text = table(rows_of(options.raw), options.layer)
    options.out.write_text(f"# Which combination is the default\n\n`{Path(__file__).name}` measured this.\n\n{text}\n")
    print(text)


if __name__ == "__main__":
    main()
