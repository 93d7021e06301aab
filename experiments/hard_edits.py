"""Find the requests that hurt the bundled model most, by measurement, and see what they do and what catches them.

    python experiments/hard_edits.py          # docs/hard_edits.md, and the set itself: docs/hard_edits.jsonl

In the spirit of HardEdit (arXiv 2402.09656): candidates of several kinds, one to four requests each, are written one
after the other by plain ROME in batch memory, and taken out again. What an edit costs facts about other people, in
log-probability of their answers, is a candidate's damage; how many of its own requests the model does not say in the
end, and the condition of their system, is its conflict. The worst in damage and the worst in conflict are the set. Then
the set and as many ordinary requests are streamed, with a health budget that warns. Facts that the search, the budget
and the tables look at are different ones.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean as mean
from typing import Any

import torch
from tqdm import tqdm

from collapse import MEMORIES, Run, created, ending, stopped, watch_of
from lifelong_edit.engine import LifelongEditor
from lifelong_edit.errors import SolveError
from lifelong_edit.facts import EditRequest
from lifelong_edit.tracking.budget import Budget, OnRed
from lifelong_edit.tracking.health import Band
from lifelong_edit.tracking.scores import Question, score_continuations
from lifelong_edit.world.generator import BUNDLED_SEED, World, WorldFact
from lifelong_edit.world.requests import edit_requests, untouched_facts
from lifelong_edit.world.skills import CATEGORIES, DAYS, WORDS
from lifelong_edit.world.tasks import held_out_stories
from results import markdown, spearman, write_below

SEARCHED, WATCHED, MEASURED, ORDINARY, STEP = 150, 200, 300, 600, 5
OPENINGS = ("Now", "Then", "So", "And")
PUBLISHED, DEFAULT = MEMORIES["batch"], MEMORIES["joint"]
STREAMS: dict[str, tuple[dict[str, Any], str, int]] = {
    "ROME, batch memory, one by one": (PUBLISHED, "rome", 1),
    "EMMET, batch memory, tens": (PUBLISHED, "emmet", 10),
    "EMMET, joint memory, tens": (DEFAULT, "emmet", 10),
    "MEMIT, joint memory, tens (default)": (DEFAULT, "memit", 10),
}
Row = dict[str, Any]
MARKER = "<!-- hard_edits.py writes what follows -->"


@dataclass(frozen=True)
class Candidate:
    """Requests that are tried together, one after the other."""

    kind: str
    requests: tuple[EditRequest, ...]


@dataclass(frozen=True)
class Trial:
    """What a candidate did.

    `damage` in nats, `preservation` loss (predicted, no forward pass) and `norm`, |D| / |W_0|, are those of an edit.
    `kept` is the share of the other facts that is said after all of it, `lost` that of its own requests that is not.
    """

    candidate: Candidate
    damage: float
    preservation: float
    norm: float
    kept: float
    lost: float
    condition: float


def candidates(world: World, count: int, seed: int) -> Iterator[Candidate]:
    """`count` candidates of every kind, about subjects that are no person of the facts that are measured."""
    rng = random.Random(f"hard {world.seed} {seed}")
    ordinary = edit_requests(world, ORDINARY, seed)
    people, facts = [request.subject for request in ordinary], world.facts_by_subject()
    strangers = [name for name in World.generate(world.seed + 1).entities["person"] if name not in facts]
    letters = ["".join(rng.choices("bcdfgjkqvwxzBCDFGJKQVWXZ0123456789-", k=rng.randint(1, 5))) for _ in range(count)]
    known = sorted({*WORDS, *DAYS, *(word for words in CATEGORIES.values() for word in words)})
    singles = {
        "word": known,
        "rare name": strangers,
        "rare letters": sorted(set(letters)),
        "first name": sorted({name.split()[0] for name in people}),
        "surname": sorted({name.split()[1] for name in people}),
        "company": world.entities["company"],
        "city": world.entities["city"],
        "initial": people,
    }
    yield from (Candidate("ordinary", (request,)) for request in rng.sample(ordinary, count))
    for kind, names in singles.items():
        chosen = rng.sample(names, min(count, len(names)))
        yield from (Candidate(kind, (initial(world, name, rng),)) for name in chosen)
    for person in rng.sample(people, count):
        own = facts[person]
        asked_of = [asked(world, fact, "first", rng) for fact in own]
        fronted = (replace(r, prompt=f"{front} {r.prompt}") for front, r in zip(OPENINGS, asked_of, strict=True))
        yield Candidate("relations of one", tuple(asked(world, fact, "middle", rng) for fact in own))
        yield Candidate("openings of one", tuple(fronted))
        yield Candidate("contradiction", tuple(contradictions(world, rng.choice(own), rng)))
    yield from (Candidate("one surname", group) for group in namesakes(world, people, count, rng))


def initial(world: World, subject: str, rng: random.Random) -> EditRequest:
    """A short prompt that begins with the subject, and an answer that it does not have."""
    kind = next((kind for kind, names in world.entities.items() if subject in names), "person")
    relation = rng.choice(world.schema.about(kind))
    return asked(
        world, WorldFact(subject, relation.name, world.lookup().get((subject, relation.name), "")), "first", rng
    )


def asked(world: World, fact: WorldFact, style: str, rng: random.Random) -> EditRequest:
    """A request in one of the shortest two templates of a style for another object than the fact's."""
    relation = world.relation(fact)
    prompts = sorted((text for kind, text in relation.templates if kind == style), key=len)[:2]
    target = rng.choice([value for value in world.objects(relation) if value != fact.object])
    return EditRequest(rng.choice(prompts), fact.subject, target, fact.object or None)


def contradictions(world: World, fact: WorldFact, rng: random.Random) -> Iterator[EditRequest]:
    """One fact asked in four ways, with another answer each."""
    relation = world.relation(fact)
    answers = rng.sample([value for value in world.objects(relation) if value != fact.object], 4)
    prompts = rng.sample([text for style, text in relation.templates if style != "first"], 4)
    for prompt, answer in zip(prompts, answers, strict=True):
        yield EditRequest(prompt, fact.subject, answer, fact.object)


def namesakes(world: World, people: Sequence[str], count: int, rng: random.Random) -> list[tuple[EditRequest, ...]]:
    """People of one surname, up to four: their keys are taken at the same tokens."""
    by_name: dict[str, list[str]] = {}
    for person in people:
        by_name.setdefault(person.split()[1], []).append(person)
    groups = sorted((names[:4] for names in by_name.values() if len(names) > 1), key=len, reverse=True)[:count]
    return [tuple(initial(world, name, rng) for name in names) for names in groups]


def trials(editor: LifelongEditor, every: Sequence[Candidate], facts: Sequence[Question]) -> Iterator[Trial]:
    """Write every candidate into the unedited model, measure, and take it out. The store is empty before and after."""

    def asked(pairs: Sequence[Question]) -> tuple[float, float]:
        scores = score_continuations(editor.model, editor.editable.tokenizer, pairs)
        return mean(score.nll for score in scores), mean(score.argmax for score in scores)

    base, _ = asked(facts)
    for candidate in tqdm(every, unit="candidate"):
        start, size = editor.head.seq, len(candidate.requests)
        for request in candidate.requests:
            editor.apply([request], "rome")
        (weight,) = editor.telemetry().values()
        nll, kept = asked(facts)
        _, own = asked([(request.question, request.target_new) for request in candidate.requests])
        figures = ((nll - base) / size, weight.preservation / size, weight.relative_norm / size)
        yield Trial(candidate, *figures, kept, 1 - own, weight.condition)
        editor.revert(to=start, probe=0)


def worst(found: Sequence[Trial], count: int) -> list[Trial]:
    """Two thirds of `count` requests by damage, the others by conflict; none asks what another did."""
    by_damage = sorted(found, key=lambda trial: -trial.damage)
    by_conflict = sorted((t for t in found if len(t.candidate.requests) > 1), key=lambda t: (-t.lost, -t.condition))
    chosen: list[Trial] = []
    seen: set[tuple[str, str]] = set()
    for ranked, limit in ((by_damage, 2 * count // 3), (by_conflict, count)):
        for trial in ranked:
            own = {request.statement for request in trial.candidate.requests}
            if not own & seen and len(seen | own) <= limit:
                chosen.append(trial)
                seen |= own
    return chosen


def streamed(
    editor: LifelongEditor,
    requests: Sequence[EditRequest],
    method: str,
    size: int,
    facts: list[Question],
    texts: list[str],
) -> Iterator[Row]:
    """A row every five edits, or every batch: what is said, what is left of the rest, what the checks say."""
    run = Run(editor, [(request.question, request.target_new) for request in requests], facts, texts)
    budget, refused = Budget(every=max(1, 5 // size), on_red=OnRed.warn), list[str]()
    for end in range(size, len(requests) + 1, size):
        try:
            editor.apply(requests[end - size : end], method, budget=budget)
        except SolveError as error:
            refused.append(f"{end}: {error}")
        if end % STEP == 0:
            yield {**run.figures(end), **signs(editor), "refused": list(refused)}


def signs(editor: LifelongEditor) -> Row:
    """The reds of the newest reading, and the conditioning of the system and its collisions so far."""
    reds = [sign.name for sign in editor.health().signs if sign.band == Band.red]
    (weight,) = editor.telemetry().values()
    bodies = [body for entry in editor.history() for body in entry.body.get("telemetry", {}).values()]
    return {
        "red": reds,
        "condition": weight.condition,
        "collisions": sum(len(body["collisions"]) for body in bodies),
        "norm": weight.relative_norm,
    }


def search_table(found: Sequence[Trial], chosen: Sequence[Trial]) -> str:
    """Damage by kind, and how many requests of each the set has."""
    kept = Counter[str]()
    for trial in chosen:
        kept[trial.candidate.kind] += len(trial.candidate.requests)
    lines: list[list[Any]] = []
    for kind in dict.fromkeys(trial.candidate.kind for trial in found):
        own = sorted((trial for trial in found if trial.candidate.kind == kind), key=lambda trial: -trial.damage)
        figures = [1e3 * mean(t.damage for t in own), 1e3 * own[0].damage, min(t.kept for t in own)]
        figures += [mean(t.lost for t in own), mean(t.condition for t in own), mean(t.preservation for t in own)]
        example = own[0].candidate.requests[0]
        lines.append([kind, len(own), *figures, mean(t.norm for t in own), kept[kind], f"{example.question} …"])
    lines.sort(key=lambda line: -line[2])
    heads = [
        "kind", "tried", "damage / 1000", "its worst", "others said, worst", "own lost", "condition", "preservation",
        "norm", "in the set", "the worst one",
    ]  # fmt: skip
    return markdown(lines, heads, ".3g")


def stream_table(rows: Sequence[Row]) -> str:
    """Each stream at its end, and where the budget first turned red."""
    lines = []
    for way in STREAMS:
        for name in dict.fromkeys(row["set"] for row in rows):
            own = [row for row in rows if (row["way"], row["set"]) == (way, name)]
            red = next((row for row in own if row["red"]), None)
            last = own[-1]
            told = f"{red['facts']}: {', '.join(red['red'])} (untouched {red['untouched']:.3f})" if red else "never"
            ill = next((row["facts"] for row in own if row["untouched"] < 0.95 or row["perplexity"] > 1.2), "never")
            figures = [last[key] for key in ("efficacy", "untouched", "perplexity", "norm", "condition", "collisions")]
            lines.append([way, name, last["facts"], *figures, ill, told, len(last["refused"])])
    heads = [
        "stream", "set", "edits", "efficacy", "untouched", "perplexity ratio", "norm", "condition", "collisions",
        "untouched < .95 or perplexity > 1.2 at", "red from", "batches refused",
    ]  # fmt: skip
    return markdown(lines, heads, ".3g")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=Path("checkpoints/tiny-world"))
    parser.add_argument("--count", type=int, default=25, help="candidates of a kind")
    parser.add_argument("--keep", type=int, default=60, help="requests in the set")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("docs"))
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # the budget warns at every reading
    world = World.generate(BUNDLED_SEED)
    facts = untouched_facts(world, SEARCHED + WATCHED + MEASURED, ORDINARY, chosen.seed)
    watch, model = watch_of(world, facts[SEARCHED : SEARCHED + WATCHED], chosen.seed), chosen.model
    with tempfile.TemporaryDirectory() as folder, created(folder, model, PUBLISHED, watch) as editor:
        found = list(trials(editor, list(candidates(world, chosen.count, chosen.seed)), facts[:SEARCHED]))
    kept = worst(found, chosen.keep)
    random.Random(chosen.seed).shuffle(kept)
    hard = [request for trial in kept for request in trial.candidate.requests]
    lines = [json.dumps(request.to_dict(), ensure_ascii=False) + "\n" for request in hard]
    (chosen.out / "hard_edits.jsonl").write_text("".join(lines), encoding="utf-8")
    sets = {"hard": hard, "ordinary": edit_requests(world, len(hard), chosen.seed)}
    stories, rows = held_out_stories(world, 60, chosen.seed), list[Row]()
    for way, (choices, method, size) in STREAMS.items():
        for name, requests in sets.items():
            with tempfile.TemporaryDirectory() as folder, created(folder, model, choices, watch) as editor:
                own = streamed(editor, requests, method, size, facts[SEARCHED + WATCHED :], stories)
                rows += [{"way": way, "set": name, **row} for row in tqdm(own, desc=f"{way}, {name}")]
    with tempfile.TemporaryDirectory() as folder, created(folder, model, PUBLISHED, watch) as editor:
        run = Run(editor, [], facts[SEARCHED + WATCHED :], stories)
        stop = stopped(run, hard, "rome", 1, Budget(every=1))
    write(chosen.out, found, kept, rows, stop)


def write(out: Path, found: Sequence[Trial], kept: Sequence[Trial], rows: Sequence[Row], stop: Row) -> None:
    """The tables below the page's own text."""
    refusals = [f"- {row['way']}, {row['set']}: {text}" for row in rows for text in row["refused"][:1]]
    parts = [
        search_table(found, kept),
        f"Rank correlation of damage with the predicted preservation loss, over {len(found)} candidates: "
        f"{spearman([t.damage for t in found], [t.preservation for t in found]):.2f}.",
        stream_table(rows),
        "\n".join(dict.fromkeys(refusals)),
        f"The first of these streams, read at every edit. {ending(stop)}",
    ]
    write_below(out / "hard_edits.md", MARKER, "\n\n".join(part for part in parts if part))


if __name__ == "__main__":
    main()
