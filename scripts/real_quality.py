"""Edit CounterFact facts into a real model with the defaults, and score it with plain code: one command, resumable.

    LIFELONG_EDIT_DATA=... python scripts/real_quality.py --model checkpoints/smollm2 --out quality.jsonl
    python scripts/real_quality.py --out quality.jsonl --table

Rows: the base and the base stored in fewer bits (the yardstick), without edits; facts with three wordings each; the
same facts without (`bare`); `many` of them, the oldest beside the newest; `single` edits, each alone in a fresh store.
Three seeds draw disjoint facts. Choose settings with `--pool dev --set target.clamp=0.5`; the pool `test` is for
reporting. Every record is appended when it is done and not measured again. The data is in `real_facts`, the scoring in
`real_scores`, what is made of the records in `real_table`.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

import lifelong_edit
from lifelong_edit import EditorSettings, EditRequest, LifelongEditor
from lifelong_edit.cli.options import hide_loading_bars
from lifelong_edit.editing.profile import suited
from lifelong_edit.facts import canonical_digest
from real_facts import GIVEN, PASSAGE, POOLS, SEEDS, Draw, Fact, Material, check_disjoint
from real_scores import answers, changes, first_choices, greedy, store_as
from real_table import EDITED, KNOWN, OTHERS, STORED, Record, table

ROWS = (*STORED, *EDITED)
BATCH, SAMPLES = 20, 8  # facts a commit; facts whose texts are kept
STORIES = (
    "The capital of France is", "The theory of relativity was developed by", "Once upon a time, there was a",
    "Photosynthesis is the process by which", "To sort a list in Python, you can", "The president of the United States",
)  # fmt: skip
Job = dict[str, Any]  # what tells one record from all others


class Quality:
    """One model and one pool of facts. Records are in the file `out`, stores in the folder `scratch`."""

    def __init__(self, chosen: argparse.Namespace, scratch: Path) -> None:
        self.chosen, self.scratch = chosen, scratch
        self.tokenizer = AutoTokenizer.from_pretrained(chosen.model)
        self.tokenizer.pad_token = self.tokenizer.pad_token or self.tokenizer.eos_token
        self.material = Material(chosen.pool, self.tokenizer)
        self.given = self.material.given()
        self.base = self.loaded()

    def loaded(self) -> PreTrainedModel:
        model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(self.chosen.model, dtype=torch.float32)
        return model

    def noted(self, job: Job) -> Record:
        """The record of a job: that in the file, or measured and appended to it."""
        for record in records(self.chosen.out):
            if record["job"] == job:
                return record
        begin = time.perf_counter()
        record = {"job": job, "versions": versions(), **self.measured(job)}
        record["seconds"] = round(time.perf_counter() - begin, 1)
        with self.chosen.out.open("a", encoding="utf-8") as out:
            out.write(json.dumps(record, ensure_ascii=False) + "\n")
        return record

    def measured(self, job: Job) -> Record:
        """Edit, or round, or leave the base as it is; then score it."""
        start, count = job.get("start", 0), job.get("count", self.chosen.facts)
        drawn = self.material.draw(job["seed"], start + count)
        check_disjoint(drawn, self.given)
        drawn = Draw(drawn.facts[start:], drawn.strange[start:], drawn.others, drawn.passages)
        if job["row"] == "base":
            return self.base_scores(drawn)
        base = self.noted(base_of(job))
        kept = base["kept"]
        if base["asked"] != asked(drawn, kept):
            raise SystemExit(f"{self.chosen.out} was measured on other data sets. Begin a new file (--out).")
        if job["row"] in EDITED:
            return self.edited(job, drawn, kept)
        model = self.loaded()
        store_as(model, job["row"])
        return self.scores(model, Draw([], [], drawn.others, drawn.passages), kept)

    def base_scores(self, drawn: Draw) -> Record:
        """The base's scores. Of the others it keeps those that it knows and those whose first choices count."""
        everyone = answers(self.base, self.tokenizer, [(other.question, other.answer) for other in drawn.others])
        kept = [i for i, a in enumerate(everyone) if i < OTHERS or (a["right"] and a["p"] >= KNOWN)]
        given = [drawn.others[i].relation in self.given.relations for i in kept]
        about = {"kept": kept, "given": given, "asked": asked(drawn, kept)}
        return about | self.scores(self.base, drawn, kept)

    def edited(self, job: Job, drawn: Draw, kept: Sequence[int]) -> Record:
        """Edit the facts by a copy of a store that holds no edit yet, and score the live model."""
        size, failed, begin = job["batch"], list[str](), time.perf_counter()
        requests = [requested(fact, worded=job["row"] != "bare") for fact in drawn.facts]
        with tempfile.TemporaryDirectory(dir=self.scratch) as folder:
            store = Path(shutil.copytree(self.store(job["seed"]), Path(folder) / "store"))
            with LifelongEditor.open(store, self.chosen.model, dtype=torch.float32) as editor:
                for at in tqdm(range(0, len(requests), size), desc=f"{job['row']}, seed {job['seed']}", unit="commit"):
                    failed += editor.apply(requests[at : at + size]).failed
                record = {
                    "settings": editor.settings.to_dict(),
                    "editing": round(time.perf_counter() - begin, 1),
                    "cases": [request.id for request in requests],
                    "failed": failed,
                    "changes": changes(editor.model, self.base),
                }
                return record | self.scores(editor.model, drawn, kept, brief=job["row"] == "single")

    def store(self, seed: int) -> Path:
        """A store of this seed without edits, made once a run: second moments take minutes."""
        path = self.scratch / f"seed-{seed}"
        if not path.is_dir():
            model = self.chosen.model
            settings = settings_of(model, seed, self.chosen.set)
            text = self.given.text[: self.chosen.limit_text]
            prompts = [f"{p.question} {p.answer}" for p in self.given.prompts[: self.chosen.prompts]] or None
            LifelongEditor.create(path, model, settings, text, dtype=torch.float32, prompts=prompts).close()
        return path

    def scores(self, model: PreTrainedModel, drawn: Draw, kept: Sequence[int], brief: bool = False) -> Record:
        """Answers to the facts in three forms and to what is kept of the others; texts, and choices in running text."""
        facts, others = drawn.facts, [drawn.others[i] for i in kept]
        forms = {
            "efficacy": [[(fact.question, fact.new)] for fact in facts],
            "paraphrases": [[(prompt, fact.new) for prompt in fact.paraphrases] for fact in facts],
            "strange": [[(f"{s} {fact.question}", fact.new)] for s, fact in zip(drawn.strange, facts, strict=True)],
        }
        pairs = [pair for form in forms.values() for fact in form for pair in fact]
        found = iter(answers(model, self.tokenizer, [(other.question, other.answer) for other in others] + pairs))
        record: Record = {"others": [next(found) for _ in others]}
        record |= {name: [[next(found) for _ in fact] for fact in form] for name, form in forms.items()}
        if not brief:
            prompts = [fact.question for fact in facts]
            texts = greedy(model, self.tokenizer, [*STORIES, *prompts])
            own = texts[len(STORIES) :]
            record["begins"] = [t.startswith(f" {fact.new}") for t, fact in zip(own, facts, strict=True)]
            record["samples"] = dict(list(zip([*STORIES, *prompts], texts, strict=True))[: len(STORIES) + SAMPLES])
            record["text"] = first_choices(model, self.tokenizer, drawn.passages, PASSAGE)
        return record


def requested(fact: Fact, worded: bool) -> EditRequest:
    """The request as a user makes it; nothing that is scored is in it."""
    wordings = fact.wordings if worded else ()
    return EditRequest(fact.prompt, fact.subject, fact.new, id=f"case-{fact.case}", wordings=wordings)


def asked(drawn: Draw, kept: Sequence[int]) -> str:
    """A digest of what the base and an edited model are both asked."""
    return canonical_digest([[drawn.others[i].question for i in kept], drawn.passages])[:12]


def settings_of(model: Path, seed: int, options: Sequence[str]) -> EditorSettings:
    """The defaults, left open to the model's profile, but for `ridge=0.3`, `layers=[3,4,5]`, `target.clamp=0.5`."""
    usual = suited(EditorSettings(), model)
    groups = {"target": asdict(usual.recipe), "statistics": asdict(usual.statistics)}
    chosen: dict[str, Any] = {"seed": seed}
    for name, value in (option.split("=", 1) for option in options):
        group, _, inner = name.rpartition(".")
        place = chosen.setdefault(group, groups[group]) if group else chosen
        place[inner] = json.loads(value)
    return EditorSettings.from_choices(chosen)


def records(out: Path) -> list[Record]:
    """What was measured so far."""
    return [json.loads(line) for line in out.read_text("utf-8").splitlines()] if out.is_file() else []


def versions() -> dict[str, str]:
    """Of what decides the figures; the package's is a digest of its sources."""
    folder = Path(lifelong_edit.__file__).parent
    sources = b"".join(path.read_bytes() for path in sorted(folder.rglob("*.py")))
    digest = {"lifelong-edit": hashlib.sha256(sources).hexdigest()[:12]}
    return digest | {name: version(name) for name in ("torch", "transformers")}


def base_of(job: Job) -> Job:
    """The job that a job's answers are compared with."""
    return {"row": "base", **{name: job[name] for name in ("model", "pool", "seed")}}


def jobs(chosen: argparse.Namespace) -> Iterator[Job]:
    """What is to be measured, row by row; a single edit is a job of its own."""
    usual = {"prompts": GIVEN, "limit_text": None, "batch": BATCH}
    options = {name: getattr(chosen, name) for name, value in usual.items() if getattr(chosen, name) != value}
    options |= dict(option.split("=", 1) for option in chosen.set)
    for row, seed in ((row, seed) for row in ROWS if row in chosen.rows for seed in chosen.seeds):
        job = {"row": row, "model": chosen.model.name, "pool": chosen.pool, "seed": seed}
        if row in EDITED:
            job |= {"options": options, "batch": chosen.batch, "start": 0}
        if row == "single":
            yield from ({**job, "start": start, "count": 1} for start in range(len(range(seed, chosen.singles, SEEDS))))
        elif row in EDITED:
            yield {**job, "count": chosen.many if row == "many" else chosen.facts}
        else:
            yield job


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=Path("checkpoints/smollm2"))
    parser.add_argument("--out", type=Path, default=Path("real_quality.jsonl"))
    parser.add_argument("--rows", type=lambda text: text.split(","), default=list(ROWS), help=",".join(ROWS))
    parser.add_argument("--seeds", type=lambda text: list(map(int, text.split(","))), default=list(range(SEEDS)))
    parser.add_argument("--pool", choices=POOLS, default="test")
    parser.add_argument("--facts", type=int, default=60)
    parser.add_argument("--many", type=int, default=300)
    parser.add_argument("--singles", type=int, default=50, help="single edits, of the three seeds together")
    parser.add_argument("--batch", type=int, default=BATCH, help="facts a commit")
    parser.add_argument("--prompts", type=int, default=GIVEN, help="true prompts of others for the second moments")
    parser.add_argument("--limit-text", type=int, help="paragraphs of text for a store; all by default")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="a setting, as JSON")
    parser.add_argument("--table", action="store_true", help="only print the table of what was measured")
    chosen = parser.parse_args()
    if unknown := set(chosen.rows) - set(ROWS):
        parser.error(f"there is no row {', '.join(sorted(unknown))}; choose from {', '.join(ROWS)}")
    if not chosen.table:
        hide_loading_bars()
        with tempfile.TemporaryDirectory(prefix="real-quality-") as scratch:
            quality = Quality(chosen, Path(scratch))
            for job in jobs(chosen):
                quality.noted(job)
    print(table(records(chosen.out)))


if __name__ == "__main__":
    main()
