"""Edit CounterFact facts into a real model with the defaults, and score it with plain code: one command, resumable.

    LIFELONG_EDIT_DATA=... python scripts/real_quality.py --model checkpoints/smollm2 --out quality.jsonl
    python scripts/real_quality.py --out quality.jsonl --table

Rows: the base and the base stored in fewer bits (the yardstick), without edits; facts with three wordings each; the
same facts without (`bare`); `many` of them, the oldest beside the newest; `single` edits, each alone in a fresh store.
Three seeds draw disjoint facts. Choose settings with `--pool dev --set target.clamp=0.5`; the pool `test` is for
reporting. Every row is appended when it is done and is not measured again. See `real_facts` for the data.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from statistics import fmean as mean
from statistics import median, stdev
from typing import Any

import torch
from tabulate import tabulate
from tqdm import tqdm
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from lifelong_edit import EditorSettings, EditRequest, LifelongEditor
from lifelong_edit.cli.options import hide_loading_bars
from real_facts import OTHERS, PASSAGE, SEEDS, Draw, Fact, Given, Material, check_disjoint
from real_scores import STORED, answers, changes, first_choices, greedy, store_as, wilson

EDITED = {
    "wordings": "three wordings a fact",
    "bare": "no wordings",
    "many": "three wordings a fact",
    "single": "alone",
}
ROWS = ("base", *STORED, *EDITED)
COHORT, KNOWN = 50, 0.2  # facts of the oldest and newest; base probability of a known fact
PACKAGES = ("lifelong-edit", "torch", "transformers")
STORIES = (
    "The capital of France is", "The theory of relativity was developed by", "Once upon a time, there was a",
    "Photosynthesis is the process by which", "To sort a list in Python, you can", "My favourite recipe for bread",
)  # fmt: skip
HEADS = [
    "facts", "seeds", "efficacy", "paraphrases", "behind a strange sentence", "untouched", "p after / before",
    "first choice", "relations given", "relations not given", "running text",
]  # fmt: skip
Record = dict[str, Any]
Job = dict[str, Any]  # what tells one record from all others


class Quality:
    """One model and one pool of facts; what was measured so far is in the file `out`."""

    def __init__(self, chosen: argparse.Namespace) -> None:
        self.chosen, self.scratch = chosen, Path(tempfile.mkdtemp(prefix="real-quality-"))
        self.tokenizer = AutoTokenizer.from_pretrained(chosen.model)
        self.material = Material(chosen.pool, self.tokenizer)
        self.given: Given = self.material.given()
        self.stores: dict[int, Path] = {}
        self.base_model = self.loaded()

    def loaded(self) -> PreTrainedModel:
        model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(self.chosen.model, dtype=torch.float32)
        return model

    def draw(self, job: Job) -> Draw:
        """The facts of a job, and what is measured beside them; nothing of it is given to the editor."""
        start, count = job.get("start", 0), job.get("count", self.chosen.facts)
        drawn = self.material.draw(job["seed"], start + count)
        check_disjoint(drawn, self.given)
        return Draw(drawn.facts[start:], drawn.strange[start:], drawn.others, drawn.passages)

    def measured(self, job: Job) -> Record:
        """The record of a job."""
        drawn, row, begin = self.draw(job), job["row"], time.perf_counter()
        if row == "base":
            record = self.base_scores(drawn)
        elif row in STORED:
            model = self.loaded()
            store_as(model, row)
            record = self.scores(model, drawn, self.base(job)["kept"], facts=False)
        else:
            record = self.edited(job, drawn)
        versions = {name: version(name) for name in PACKAGES}
        return {"job": job, "seconds": round(time.perf_counter() - begin, 1), "versions": versions, **record}

    def edited(self, job: Job, drawn: Draw) -> Record:
        """Edit the facts into the base by a copy of a store that has no edits yet, and score the live model."""
        store = self.scratch / "edited"
        shutil.copytree(self.store(job["seed"]), store)
        worded, size, failed = job["row"] != "bare", self.chosen.batch, list[str]()
        begin = time.perf_counter()
        with LifelongEditor.open(store, self.chosen.model, dtype=torch.float32) as editor:
            requests = [requested(fact, worded) for fact in drawn.facts]
            for start in tqdm(range(0, len(requests), size), desc=f"{job['row']}, seed {job['seed']}", unit="batch"):
                failed += editor.apply(requests[start : start + size]).failed
            editing = round(time.perf_counter() - begin, 1)
            scores = self.scores(editor.model, drawn, self.base(job)["kept"], brief=job["row"] == "single")
            about = {"settings": editor.settings.to_dict(), "changes": changes(editor.model, self.base_model)}
        shutil.rmtree(store)
        return {"editing": editing, "failed": failed, "cases": [fact.case for fact in drawn.facts], **about, **scores}

    def store(self, seed: int) -> Path:
        """A store of this seed without edits, made once a run: collecting second moments takes minutes."""
        if seed not in self.stores:
            path, text = self.scratch / f"seed-{seed}", self.given.text[: self.chosen.limit_text]
            more: dict[str, Any] = {}
            if self.chosen.prompts:
                more["prompts"] = [f"{k.question} {k.answer}" for k in self.given.prompts[: self.chosen.prompts]]
            settings = settings_of(seed, self.chosen.set)
            LifelongEditor.create(path, self.chosen.model, settings, text, dtype=torch.float32, **more).close()
            self.stores[seed] = path
        return self.stores[seed]

    def base(self, job: Job) -> Record:
        """What the base answered, measured first where it was not."""
        wanted = {"row": "base", **{name: job[name] for name in ("model", "pool", "seed")}}
        return next((r for r in records(self.chosen.out) if r["job"] == wanted), None) or self.noted(wanted)

    def noted(self, job: Job) -> Record:
        """Measure a job and append its record."""
        record = self.measured(job)
        with self.chosen.out.open("a", encoding="utf-8") as out:
            out.write(json.dumps(record, ensure_ascii=False) + "\n")
        return record

    def base_scores(self, drawn: Draw) -> Record:
        """The base's own scores; of the others it keeps those that it knows and those whose first choice is counted."""
        everyone = answers(self.base_model, self.tokenizer, [(k.question, k.answer) for k in drawn.others])
        kept = [i for i, a in enumerate(everyone) if i < OTHERS or (a.right and a.p >= KNOWN)]
        seen = [drawn.others[i].relation in self.given.relations for i in kept]
        return {"kept": kept, "relation given": seen, **self.scores(self.base_model, drawn, kept)}

    def scores(
        self, model: PreTrainedModel, drawn: Draw, kept: Sequence[int], facts: bool = True, brief: bool = False
    ) -> Record:
        """Every answer of the model: to the facts in three forms, to those kept of the others, and in running text."""
        begin, asked = time.perf_counter(), dict[str, list[tuple[str, str]]]()
        asked["others"] = [(drawn.others[i].question, drawn.others[i].answer) for i in kept]
        if facts:
            asked["efficacy"] = [(f.question, f.new) for f in drawn.facts]
            asked["paraphrases"] = [(prompt, f.new) for f in drawn.facts for prompt in f.paraphrases]
            asked["strange"] = [(f"{s} {f.question}", f.new) for f, s in zip(drawn.facts, drawn.strange, strict=True)]
        found = iter(answers(model, self.tokenizer, [pair for pairs in asked.values() for pair in pairs]))
        record: Record = {name: [next(found) for _ in pairs] for name, pairs in asked.items()}
        if not brief:
            record["text"] = first_choices(model, self.tokenizer, drawn.passages, PASSAGE)
            prompts = [*([f.question for f in drawn.facts[:8]] if facts else []), *STORIES]
            record["said"] = dict(zip(prompts, greedy(model, self.tokenizer, prompts), strict=True))
        return {**record, "scoring": round(time.perf_counter() - begin, 1)}


def requested(fact: Fact, worded: bool) -> EditRequest:
    """The request as a user makes it; nothing that is scored is in it."""
    more: dict[str, Any] = {"wordings": fact.wordings} if worded else {}
    return EditRequest(prompt=fact.prompt, subject=fact.subject, target_new=fact.new, **more)


def settings_of(seed: int, options: Sequence[str]) -> EditorSettings:
    """The defaults, but for options such as `ridge=0.3`, `layers=[3,4,5]` and `target.clamp=0.5`."""
    values = EditorSettings(seed=seed).to_dict()
    for name, value in (option.split("=", 1) for option in options):
        place = values
        *path, last = name.split(".")
        for part in path:
            place = place[part]
        place[last] = json.loads(value)
    return EditorSettings.from_dict(values)


def records(out: Path) -> list[Record]:
    """What was measured so far."""
    return [json.loads(line) for line in out.read_text("utf-8").splitlines()] if out.is_file() else []


def jobs(chosen: argparse.Namespace) -> Iterator[Job]:
    """What is to be measured, the cheapest first; a single edit is a job of its own."""
    for row in (row for row in ROWS if row in chosen.rows):
        for seed in chosen.seeds:
            job = {"row": row, "model": chosen.model.name, "pool": chosen.pool, "seed": seed}
            if row not in EDITED:
                yield job
                continue
            job |= {
                "set": chosen.set,
                "prompts": chosen.prompts,
                "limit_text": chosen.limit_text,
                "batch": chosen.batch,
            }
            if row == "single":
                yield from ({**job, "start": start, "count": 1} for start in range(seed, chosen.singles, SEEDS))
            else:
                yield {**job, "start": 0, "count": chosen.many if row == "many" else chosen.facts}


def share(flags: Sequence[bool]) -> str:
    """A share with its 95 % interval; "-" of nothing."""
    if not flags:
        return "-"
    low, high = wilson(mean(flags), len(flags))
    return f"{mean(flags):.3f} [{low:.2f}, {high:.2f}]"


def ratio(pairs: Sequence[tuple[float, float]]) -> str:
    """Mean of the second by mean of the first, with the 95 % interval of a ratio of means."""
    if len(pairs) < 2:
        return "-"
    before = mean(b for b, _ in pairs)
    found = mean(a for _, a in pairs) / before
    half = 1.96 * stdev(a - found * b for b, a in pairs) / before / len(pairs) ** 0.5
    return f"{found:.3f} [{found - half:.2f}, {found + half:.2f}]"


def line(label: str, rows: Sequence[Record], bases: Sequence[Record], part: slice = slice(None)) -> list[str]:
    """A line of the table, pooled over seeds; `part` are the facts whose own scores are shown."""

    def said(name: str, each: int = 1) -> list[bool]:
        own = [row.get(name, []) for row in rows]
        return [answer[0] for a in own for i in range(len(a) // each)[part] for answer in a[i * each : (i + 1) * each]]

    others = [
        (i, seen, before, after)
        for row, base in zip(rows, bases, strict=True)
        for i, seen, before, after in zip(
            base["kept"], base["relation given"], base["others"], row["others"], strict=True
        )
    ]
    known = [(b, a) for _, _, b, a in others if b[0] and b[1] >= KNOWN]
    same = [(seen, a[2] == b[2]) for i, seen, b, a in others if i < OTHERS]
    text = [
        a == b for row, base in zip(rows, bases, strict=True) for a, b in zip(row["text"], base["text"], strict=True)
    ]
    return [
        label, str(len(rows)), share(said("efficacy")), share(said("paraphrases", 2)), share(said("strange")),
        share([a[0] for _, a in known]), ratio([(b[1], a[1]) for b, a in known]), share([kept for _, kept in same]),
        share([kept for seen, kept in same if seen]), share([kept for seen, kept in same if not seen]), share(text),
    ]  # fmt: skip


def table(found: Sequence[Record]) -> str:
    """All records as Markdown: a line a row, and single edits below."""
    groups: dict[str, list[Record]] = defaultdict(list)
    for record in found:
        job = record["job"]
        told = {name: job[name] for name in ("set", "prompts", "limit_text") if job.get(name)}
        name = f"{job['count']}, {EDITED[job['row']]}" if job["row"] in EDITED else f"0, stored as {job['row']}"
        groups[f"{name}, {job['pool']} {told or ''}".rstrip()].append(record)
    bases = {(r["job"]["pool"], r["job"]["seed"]): r for r in found if r["job"]["row"] == "base"}
    lines, singles = list[list[str]](), list[list[Any]]()
    for label, rows in groups.items():
        own = [bases[row["job"]["pool"], row["job"]["seed"]] for row in rows]
        if rows[0]["job"]["row"] == "single":
            changed = [
                mean(
                    a[2] != b[2]
                    for i, a, b in zip(base["kept"], row["others"], base["others"], strict=True)
                    if i < OTHERS
                )
                for row, base in zip(rows, own, strict=True)
            ]
            singles.append(
                [label, len(rows), share([r["efficacy"][0][0] for r in rows]), median(changed), max(changed)]
            )
            continue
        lines.append(line(label, rows, own))
        if rows[0]["job"]["row"] == "many":
            ends = {"oldest": slice(COHORT), "newest": slice(-COHORT, None)}
            lines += [line(f"the {name} {COHORT} of them", rows, own, part)[:5] for name, part in ends.items()]
    text: str = tabulate(lines, HEADS, "github", disable_numparse=True)
    heads = ["single edits", "edits", "efficacy", "changed first choices, median", "most"]
    return text + ("\n\n" + tabulate(singles, heads, "github", floatfmt=".3f") if singles else "")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=Path("checkpoints/smollm2"))
    parser.add_argument("--out", type=Path, default=Path("real_quality.jsonl"))
    parser.add_argument("--rows", type=lambda text: text.split(","), default=list(ROWS), help=",".join(ROWS))
    parser.add_argument("--seeds", type=lambda text: [int(seed) for seed in text.split(",")], default=[0, 1, 2])
    parser.add_argument("--pool", choices=["dev", "test"], default="test")
    parser.add_argument("--facts", type=int, default=60)
    parser.add_argument("--many", type=int, default=300)
    parser.add_argument("--singles", type=int, default=50, help="single edits of all seeds together")
    parser.add_argument("--batch", type=int, default=20, help="facts a commit")
    parser.add_argument("--prompts", type=int, default=0, help="true prompts of others for the second moments")
    parser.add_argument("--limit-text", type=int, help="paragraphs of text for a store; all by default")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="a setting but the default")
    parser.add_argument("--table", action="store_true", help="print the table of what was measured, measure nothing")
    chosen = parser.parse_args()
    if unknown := set(chosen.rows) - set(ROWS):
        parser.error(f"there is no row {sorted(unknown)}")
    if not chosen.table:
        hide_loading_bars()
        quality = Quality(chosen)
        for job in jobs(chosen):
            if all(record["job"] != job for record in records(chosen.out)):
                quality.noted(job)
        shutil.rmtree(quality.scratch)
    print(table(records(chosen.out)))


if __name__ == "__main__":
    main()
