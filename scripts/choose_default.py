"""Measure every combination of memory, targets and ridge on the bundled model, and write the table that decides.

    python scripts/choose_default.py --seeds 0 1 2 --jobs 2 --out docs/default_combination.md

One stream of distinct people per seed, in batches of 32; figures at facts / d_in = 0.25, 0.5, 0.75 and 1. Rows of the
raw table are appended to a JSONL file as they are measured, and measured rows are not measured again.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

import torch
from tabulate import tabulate
from torch import Tensor
from tqdm import tqdm

from lifelong_edit.algebra.columns import Columns, Pair
from lifelong_edit.algebra.objective import Memory, append, materialise
from lifelong_edit.algebra.second_moment import Metric
from lifelong_edit.editing.contexts import sample_contexts
from lifelong_edit.editing.settings import EditorSettings
from lifelong_edit.editing.spread import LayerState, spread
from lifelong_edit.editing.targets import TargetSettings, optimise_targets
from lifelong_edit.engine.moments import read_moment, shipped_moments
from lifelong_edit.errors import SolveError
from lifelong_edit.facts import EditRequest
from lifelong_edit.model.editable import EditableModel
from lifelong_edit.model.fingerprint import fingerprint
from lifelong_edit.tracking.drift import perplexity
from lifelong_edit.tracking.scores import argmax_rate, score_edits
from lifelong_edit.world.generator import BUNDLED_SEED, World
from lifelong_edit.world.requests import edit_requests, untouched_facts
from lifelong_edit.world.tasks import held_out_stories

BATCH, COHORT, SAMPLE = 32, 64, 192
LOADS = (0.25, 0.5, 0.75, 1.0)
RIDGES = (0.0, 0.1, 0.5)  # in units of the calibration
CHOICES = list(itertools.product((Memory.batch, Memory.joint), RIDGES))
Job = tuple[str, int]  # targets, seed
Row = dict[str, float | str]


@dataclass(frozen=True)
class Bench:
    """What every stream of one seed shares: the live model, its edits and what they are measured on."""

    editable: EditableModel
    layer: int
    base: Tensor
    metric: Metric
    contexts: tuple[str, ...]
    requests: list[EditRequest]
    untouched: list[tuple[str, str]]
    stories: list[str]
    seed: int

    @classmethod
    def open(cls, model: Path, layer: int, seed: int) -> Bench:
        """The base model with the second moment beside it, and the stream of this seed."""
        editable, world = EditableModel.open(model, dtype=torch.float32), World.generate(BUNDLED_SEED)
        count = int(max(LOADS) * editable.shape(layer)[1])
        moment, _ = read_moment(shipped_moments(model, [layer], fingerprint(editable))[layer])
        return cls(
            editable=editable,
            layer=layer,
            base=editable.weight(layer),
            metric=Metric.from_moment(moment, EditorSettings().shrinkage),
            contexts=sample_contexts(editable, EditorSettings().contexts, seed),
            requests=edit_requests(world, count, seed),
            untouched=untouched_facts(world, 300, count, seed),
            stories=held_out_stories(world, 60, seed),
            seed=seed,
        )

    def targets(self, batch: list[EditRequest]) -> Tensor:
        """Target deltas [d_out, n] on the weights as they are."""
        groups = [[request] for request in batch]
        return optimise_targets(self.editable, groups, self.layer, self.contexts, TargetSettings()).delta

    def perplexity(self) -> float:
        return perplexity(self.editable.model, self.editable.tokenizer, self.stories)

    def figures(self, done: list[EditRequest]) -> Row:
        """Newest and oldest cohort, a sample of all, and what nobody edited."""
        row: Row = {}
        sample = random.Random(self.seed).sample(done, min(SAMPLE, len(done)))
        for name, cohort in (("newest", done[-COHORT:]), ("oldest", done[:COHORT]), ("all", sample)):
            scores = score_edits(self.editable, cohort)
            row |= {f"{name} {field}": getattr(scores, field) for field in ("ea", "pa", "na", "ns", "aa")}
        row["untouched"] = argmax_rate(self.editable.model, self.editable.tokenizer, self.untouched)
        row["ppl"] = self.perplexity()
        return row


def measure(model: Path, layer: int, job: Job) -> list[Row]:
    """All memories and ridges for one kind of targets and one seed; targets on the base are optimised once for all."""
    torch.set_num_threads(1)
    kind, seed = job
    bench = Bench.open(model, layer, seed)
    base_ppl, deltas = bench.perplexity(), None
    if kind == "base":
        deltas = bench.targets(bench.requests)
    rows: list[Row] = []
    for memory, ridge in CHOICES:
        head: Row = {"memory": memory.value, "targets": kind, "ridge": ridge, "seed": seed, "base ppl": base_ppl}
        with bench.editable.rewritten({layer: bench.base}):
            rows += [{**head, **row} for row in stream(bench, memory, ridge, deltas)]
    return rows


def stream(bench: Bench, memory: Memory, ridge: float, deltas: Tensor | None) -> Iterator[Row]:
    """One stream; a row at each load. A stream that the solver refuses ends there, and says so."""
    layer, d_in, pairs = bench.layer, bench.base.shape[1], [Pair.empty(*bench.base.shape)]
    absolute, limit = ridge * bench.metric.mean_key_mass, EditorSettings().amplification_limit

    def place(_layer: int, columns: Columns) -> Tensor:
        pairs.append(append(columns, Pair.concatenate(pairs), memory, limit))
        return materialise(bench.base, pairs)

    stops = {int(load * d_in): load for load in LOADS}
    for start in range(0, len(bench.requests), BATCH):
        batch, done = bench.requests[start : start + BATCH], bench.requests[: start + BATCH]
        delta = bench.targets(batch) if deltas is None else deltas[:, start : start + BATCH]
        ridges, names = torch.full((len(batch),), absolute, dtype=torch.float64), [r.subject for r in batch]
        states = {layer: LayerState(bench.base, bench.metric, Pair.concatenate(pairs), ridges, {})}
        try:
            spread(bench.editable, batch, names, delta, deltas is not None, states, bench.contexts, place)
        except SolveError:
            yield {"load": len(done) / d_in, "refused": 1.0}
            return
        bench.editable.set_weight(layer, materialise(bench.base, pairs))
        if len(done) in stops:
            yield {"load": stops[len(done)], **bench.figures(done)}


def measured(raw: Path) -> list[Row]:
    """The rows measured so far."""
    return [json.loads(line) for line in raw.read_text().splitlines()] if raw.is_file() else []


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
    lines = []
    for key, group in sorted(groups.items(), key=lambda item: tuple(map(str, item[0]))):
        *names, load = key
        if load == "refused":
            at = min(float(row["load"]) for row in group)
            lines.append(
                [*names, f"refused from {at:.2f} on ({len(group)} seeds)", len(group), *[None] * (len(columns) + 1)]
            )
            continue
        figures = [mean(float(row[c]) for row in group) for c in columns.values()]
        ratio = mean(float(row["ppl"]) / float(row["base ppl"]) for row in group)
        lines.append([*names, load, len(group), *figures, ratio])
    head = ["memory", "targets", "ridge", "facts / d_in", "seeds", *columns, "ppl ratio"]
    about = f"Layer {layer}, batches of {BATCH}; new and old: {COHORT} facts each, all: a sample of {SAMPLE}."
    return about + "\n\n" + tabulate(lines, head, "github", floatfmt=".3g", missingval="")


def todo(seeds: list[int], rows: list[Row]) -> list[Job]:
    """The jobs not measured yet, one seed after the other."""
    known = {(row["targets"], row["seed"]) for row in rows}
    return [job for job in itertools.product(("live", "base"), seeds) if job not in known]


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
    jobs = sorted(todo(options.seeds, measured(options.raw)), key=lambda job: job[1])
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
