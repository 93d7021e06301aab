"""Run `lifelong-edit demo`: stream edits into the bundled model in two ways, score both, and revert one fact."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

import torch
import typer
from tabulate import tabulate
from tqdm import tqdm

from lifelong_edit.algebra.system import Memory
from lifelong_edit.cli.measure import shares_table
from lifelong_edit.cli.options import hide_loading_bars
from lifelong_edit.cli.text import entry_document, print_result
from lifelong_edit.datasets.drafts import line_of
from lifelong_edit.editing.settings import EditorSettings
from lifelong_edit.editing.targets import TargetSettings
from lifelong_edit.engine import LifelongEditor
from lifelong_edit.facts import EditRequest
from lifelong_edit.model.editable import EditableModel
from lifelong_edit.outputs import new_file
from lifelong_edit.store import Entry
from lifelong_edit.tracking.budget import Scope
from lifelong_edit.tracking.drift import perplexity
from lifelong_edit.tracking.generation import answer
from lifelong_edit.tracking.honest import Shares
from lifelong_edit.tracking.scores import EditScores, argmax_rate, score_edits
from lifelong_edit.world.generator import BUNDLED_SEED, World
from lifelong_edit.world.requests import edit_requests, untouched_facts
from lifelong_edit.world.tasks import downstream_tasks, held_out_stories

BATCH, EDITS, QUICK_EDITS = 10, 300, 60
EXAM, QUICK_EXAM = (400, 200, 100), (150, 50, 25)  # untouched facts, stories, questions of each task
COHORT = 30
ASKED = Scope(newest=False, oldest=0, sample=20, flagged=0)  # a free answer costs as much as hundreds of forced ones
FREE = ("exact", "contains", "begins", "choice", "kept")  # the bundled model reads no long text, and has no Yes and No
DEFAULT = EditorSettings(target=TargetSettings())
OTHER = replace(DEFAULT, memory=Memory.batch, targets="live", ridge=0.5, halvings=0)  # the published procedure


@dataclass(frozen=True)
class Exam:
    """The questions that no edit is about: facts of people who are not edited, held-out stories, downstream tasks."""

    untouched: list[tuple[str, str]]
    stories: list[str]
    tasks: dict[str, list[tuple[str, str]]]

    def drift(self, editable: EditableModel) -> list[float]:
        """Measure recall of untouched facts, perplexity of the stories, mean accuracy over the downstream tasks."""
        model, tokenizer = editable.model, editable.tokenizer
        accuracies = [argmax_rate(model, tokenizer, task) for task in self.tasks.values()]
        return [
            argmax_rate(model, tokenizer, self.untouched),
            perplexity(model, tokenizer, self.stories),
            sum(accuracies) / len(accuracies),
        ]


def run(model: Path, stores: Path, quick: bool, seed: int, as_json: bool) -> None:
    """Make both stores, stream the edits into them, and print scores, ledger and revert."""
    hide_loading_bars()
    # Counterfactual edits of the bundled model's own world, and an exam that none of them is about.
    world, count = World.generate(BUNDLED_SEED), QUICK_EDITS if quick else EDITS
    requests = edit_requests(world, count, seed)
    facts, stories, questions = QUICK_EXAM if quick else EXAM
    exam = Exam(
        untouched_facts(world, facts, count, seed),
        held_out_stories(world, stories, seed),
        downstream_tasks(world, questions, seed),
    )
    folder = stores / f"demo-{datetime.now():%Y%m%d-%H%M%S}"
    edits = folder / "edits.jsonl"
    with new_file(edits) as file:
        file.write_bytes(b"".join(line_of(request) + b"\n" for request in requests))
    base = EditableModel.open(model, dtype=torch.float32)
    if not as_json:
        typer.echo(f"{count} edits in batches of {BATCH}, method memit. The stores are made in {folder}")
    # The same stream by the default and by the published procedure, scored alike.
    rows = [["base", "all", *_figures(score_edits(base, requests)), *exam.drift(base)]]
    for settings in (DEFAULT, OTHER):
        name = f"{settings.memory.value}, {settings.targets}"
        with LifelongEditor.create(folder / settings.memory.value, model, settings, dtype=torch.float32) as editor:
            _stream(editor, edits, requests, name)
            rows += _measured(editor, requests, exam, name)
    if not as_json:
        typer.echo(tabulate(rows, ["memory, targets", "facts", *HEADERS], floatfmt=".3f", missingval=""))
        typer.echo(LEGEND)
    with LifelongEditor.open(folder / DEFAULT.memory.value, model, dtype=torch.float32) as editor:
        shares = {name: own for name, own in editor.honest(ASKED, "").shares.items() if name in FREE}
        entries = editor.history()
        taken = _take_back(editor, base, requests[len(requests) // 2])
    named = [dict(zip(["kind", "facts", *HEADERS], row, strict=False)) for row in rows]
    ledger = [entry_document(entry, {}) for entry in entries]
    document = {"stores": folder, "scores": named, "honest": shares, "ledger": ledger, "revert": taken}
    print_result(as_json, document, "\n".join([_honest_text(shares), _ledger_text(entries), _taken_text(taken)]))


HEADERS = ["ES", "PS", "NS", "EA", "PA", "NA", "AA", "untouched", "ppl", "tasks"]
LEGEND = (
    "ES, PS, NS: CounterFact's probability comparisons for rewrites, paraphrases, neighbours. EA, PA, NA: all target\n"
    "tokens are the first choice; AA: the subject's other facts. untouched: recall of facts about people not edited.\n"
    "ppl: perplexity of held-out stories. tasks: mean accuracy over in-context skills and two-hop questions.\n"
)


def _stream(editor: LifelongEditor, edits: Path, requests: Sequence[EditRequest], name: str) -> None:
    """Stream the file of the requests under a bar that shows the efficacy of the newest and of the oldest facts."""
    batch, done = requests[:BATCH], 0
    with tqdm(total=len(requests), unit="edit", desc=f"{name:12}") as bar:
        for commit in editor.stream(edits, BATCH, actor="demo"):
            batch, done = requests[done : done + commit.requests] or batch, done + commit.requests
            newest, first = _said(editor, batch), _said(editor, requests[: min(COHORT, done)])
            bar.set_postfix(newest=f"{newest:.2f}", oldest=f"{first:.2f}", refresh=False)
            bar.update(commit.requests)


def _said(editor: LifelongEditor, requests: Sequence[EditRequest]) -> float:
    """Share of the requests whose target is the model's first choice."""
    pairs = [(request.question, request.target_new) for request in requests]
    return argmax_rate(editor.model, editor.editable.tokenizer, pairs)


def _measured(
    editor: LifelongEditor, requests: Sequence[EditRequest], exam: Exam, name: str
) -> list[list[str | float | None]]:
    cohorts = {"newest 30": requests[-COHORT:], "oldest 30": requests[:COHORT], "all": requests}
    rows: list[list[str | float | None]] = [
        [name, cohort, *_figures(score_edits(editor.editable, facts))] for cohort, facts in cohorts.items()
    ]
    rows[-1] += exam.drift(editor.editable)
    return rows


def _figures(scores: EditScores) -> list[float | None]:
    return [scores.es, scores.ps, scores.ns, scores.ea, scores.pa, scores.na, scores.aa]


def _honest_text(shares: Mapping[str, Shares]) -> str:
    return (
        f"Free answers about {ASKED.sample} facts of the first store, beside the base that is told them (retrieval):\n"
        f"{shares_table(shares)}\n"
    )


def _ledger_text(entries: Sequence[Entry]) -> str:
    rows = [
        [e.seq, e.kind, e.time[:19], len(e.body.get("facts", [])), e.digest[:12], (e.weights or "")[:12]]
        for e in entries
    ]
    told = tabulate(rows, ["seq", "kind", "time", "facts", "entry", "weights"])
    return f"The ledger of the first store, {len(entries)} entries:\n{told}"


@dataclass(frozen=True)
class TakenBack:
    """A fact that was reverted, and what the model said before its edit, with it, and without it again."""

    fact: str
    seq: int
    question: str
    target: str
    before: str
    edited: str
    reverted: str
    reverted_by: int


def _take_back(editor: LifelongEditor, base: EditableModel, request: EditRequest) -> TakenBack:
    """Revert one fact from the middle of the stream."""
    fact = next(fact for fact in editor.facts().values() if fact.request.subject == request.subject)
    question = request.question
    before, edited = answer(base, question), answer(editor.editable, question)
    editor.revert(fact.id, actor="demo", reason="shown in the demo")
    reverted = answer(editor.editable, question)
    return TakenBack(fact.id, fact.seq, question, request.target_new, before, edited, reverted, editor.head.seq)


def _taken_text(taken: TakenBack) -> str:
    return (
        f"\nReverting fact {taken.fact}, edited at seq {taken.seq}: {taken.question!r} -> {taken.target!r}\n"
        f"  before the edit   {taken.before!r}\n  after the edit    {taken.edited!r}\n"
        f"  after the revert  {taken.reverted!r}   (ledger seq {taken.reverted_by})"
    )
