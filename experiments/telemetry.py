"""How well stored keys and values tell which facts the model has forgotten, and which edit did it.

    python experiments/telemetry.py      # docs/telemetry.md; the raw rows beside it, measured rows are kept

Streams on the bundled model in batches of 10. At 200, 300, ..., 600 facts all facts are asked; those said right after
their edit and no longer are forgotten. They are ranked by the predicted residual and by the risk (`algebra.risk`).
Then, for forgotten facts, the edit that `forgotten` names is left out, and beside it another later one.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from lifelong_edit.defaults import EFFICACY
from lifelong_edit.editing.settings import EditorSettings
from lifelong_edit.editing.targets import TargetSettings
from lifelong_edit.engine import LifelongEditor
from lifelong_edit.tracking.generation import answer
from lifelong_edit.tracking.scores import score_continuations
from lifelong_edit.world.generator import BUNDLED_SEED, World
from lifelong_edit.world.requests import edit_requests
from lifelong_edit.world.text import Writer
from results import markdown, rows_of, spearman, write_below

BATCH, FACTS, STOPS, ACCUSED = 10, 600, range(200, 601, 100), 30
MARKER = "<!-- telemetry.py writes what follows -->"
Row = dict[str, Any]


@dataclass(frozen=True)
class Stream:
    """One stream: its name, settings and method."""

    name: str
    seed: int
    settings: dict[str, Any] = field(default_factory=dict)
    method: str = "memit"


FIXED = {"halvings": 0, "memory": "batch", "targets": "base"}
STREAMS = [
    Stream("batch, base, ridge 0.1", 0, {**FIXED, "ridge": 0.1}),
    Stream("batch, base, ridge 0.5", 1, {**FIXED, "ridge": 0.5}),
    Stream("batch, live, layer 2, no ridge", 0, {"memory": "batch", "targets": "live", "layers": (2,)}, "emmet"),
    Stream("batch, base, eased ridges", 2, {"memory": "batch"}),
    Stream("joint, base, ridge 0.5", 0, {"halvings": 0, "ridge": 0.5}),
]


def auc(scores: Tensor, positive: Tensor) -> float:
    """The probability that a forgotten fact is ranked above one that is not."""
    order = scores.argsort()
    ranks = torch.empty(len(scores), dtype=torch.float64)
    ranks[order] = torch.arange(1, len(scores) + 1, dtype=torch.float64)
    p, n = int(positive.sum()), int((~positive).sum())
    return float((ranks[positive].sum() - p * (p + 1) / 2) / (p * n)) if p and n else float("nan")


def measure(model: Path, stream: Stream) -> Iterator[Row]:
    """A row at each stop, and one for the accused edits at the end."""
    world, settings = World.generate(BUNDLED_SEED), EditorSettings(target=TargetSettings(), **stream.settings)
    requests = edit_requests(world, FACTS, stream.seed)
    text = [document.text for document in Writer(world, "statistics").one_pass()] if settings.layers else None
    with (
        tempfile.TemporaryDirectory() as folder,
        LifelongEditor.create(Path(folder) / "store", model, settings, text, dtype=torch.float32) as editor,
    ):
        learnt: dict[str, bool] = {}
        for start in tqdm(range(0, FACTS, BATCH), desc=stream.name, unit="batch"):
            entry = editor.apply(requests[start : start + BATCH], stream.method).entry
            learnt |= {id: score == 1.0 for id, score in (entry.body["scores"][EFFICACY] if entry else {}).items()}
            if start + BATCH in STOPS:
                row, gone = ranking(editor, learnt)
                yield {"at": start + BATCH, **row}
        yield {"at": FACTS, **accused(editor, gone, random.Random(stream.seed))}


def ranking(editor: LifelongEditor, learnt: dict[str, bool]) -> tuple[Row, list[str]]:
    """The figures of the ranking over all learnt facts, and the forgotten ones."""
    ids = [id for id, said in learnt.items() if said]
    facts = editor.facts()
    pairs = [(facts[id].question, facts[id].request.target_new) for id in ids]
    scores = score_continuations(editor.model, editor.editable.tokenizer, pairs)
    lost = torch.tensor([not score.argmax for score in scores])
    loss = torch.tensor([score.nll for score in scores])
    risks = editor.kind.risks(editor.standing.history, editor.state)  # predicted, whatever the ledger knows
    count = int(lost.sum())
    row: Row = {"learnt": len(ids), "forgotten": count}
    for name, found in (("residual", editor.residuals()), ("risk", risks)):
        ranked = torch.tensor([found[id] for id in ids])
        top = ranked.argsort(descending=True)[: 2 * count]
        row |= {f"{name} auc": auc(ranked, lost), f"{name} spearman": spearman(ranked, loss)}
        row[f"{name} top"] = float(lost[top].sum() / max(count, 1))
    flagged = torch.tensor([risks[id] > 0 for id in ids])
    row |= {"flagged": int(flagged.sum()), "found": float((flagged & lost).sum() / max(count, 1))}
    return row, [id for id, gone in zip(ids, lost.tolist(), strict=True) if gone]


def accused(editor: LifelongEditor, gone: list[str], rng: random.Random) -> Row:
    """How often a forgotten fact is said again without the edit that is named, and without another later one."""
    named = others = tried = 0
    for id in rng.sample(gone, min(ACCUSED, len(gone))):
        found = editor.forgotten(id)
        if len(found.suspects) > 1 and not found.said:
            other = rng.choice(found.suspects[1:]).seq
            with editor.kind.showing(editor.kind.without(editor.standing, seq=other)) as editable:
                others += answer(editable, editor.facts()[id].question).startswith(found.target)
            named, tried = named + found.confirmed, tried + 1
    return {"accused": tried, "named": named, "others": others}


def text_of(rows: list[Row]) -> str:
    """The two tables as Markdown."""
    figures = ["residual auc", "residual top", "risk auc", "risk spearman", "risk top"]
    lines = [
        [row["stream"], row["seed"], row["at"], row["forgotten"] / row["learnt"], *(row[name] for name in figures),
         row["found"], row["flagged"] / max(row["forgotten"], 1)]
        for row in rows if "learnt" in row and row["forgotten"]
    ]  # fmt: skip
    heads = ["stream", "seed", "facts", "forgotten", "AUC residual", "in its top 2x", "AUC risk", "Spearman with loss"]
    heads += ["in its top 2x", "found at risk > 0", "flagged / forgotten"]
    first = markdown(lines, heads, ".2f")
    blamed = [[row["stream"], row["accused"], row["named"], row["others"]] for row in rows if row.get("accused")]
    heads = [
        "stream",
        "forgotten facts tried",
        "said without the edit that is named",
        "said without another later edit",
    ]
    return f"{first}\n\n{markdown(blamed, heads, 'g')}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=Path("checkpoints/tiny-world"))
    parser.add_argument("--out", type=Path, default=Path("docs"))
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    raw, page = chosen.out / "telemetry.jsonl", chosen.out / "telemetry.md"
    for stream in STREAMS:
        if stream.name not in {row["stream"] for row in rows_of(raw)}:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                rows = list(measure(chosen.model, stream))
            with raw.open("a", encoding="utf-8") as file:
                file.writelines(json.dumps({"stream": stream.name, "seed": stream.seed, **row}) + "\n" for row in rows)
    write_below(page, MARKER, text_of(rows_of(raw)))


if __name__ == "__main__":
    main()
