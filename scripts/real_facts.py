"""What the quality of edits on a real model is measured with: CounterFact facts, known facts of others, WikiText.

Every subject has one role, drawn by a digest of its name, so that nobody who is edited or measured is in what the
editor is given. Articles of WikiText have roles too. `LIFELONG_EDIT_DATA` names the folder of data sets.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import random
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

POOLS = ("dev", "test")
SEEDS = 3  # that draw disjoint facts, prompts and passages
WORDINGS, GIVEN = 3, 1_500  # wordings a fact; true prompts for the second moments
PASSAGE, PASSAGES = 128, 16  # tokens of a passage, passages a seed: 2,048 positions
RARE = 3  # cases that must share a template before it is one of its relation
ROLES = {"dev": 8, "test": 14, "given": 29, "dev others": 15, "test others": 34}  # percent of the subjects


@dataclass(frozen=True)
class Fact:
    """A CounterFact case; `wordings` are other templates of its relation, none of them scored."""

    case: int
    relation: str
    prompt: str
    subject: str
    new: str
    paraphrases: tuple[str, ...]
    wordings: tuple[str, ...]

    @property
    def question(self) -> str:
        return self.prompt.format(self.subject)


@dataclass(frozen=True)
class Known:
    """A true fact of a subject that nobody edits."""

    relation: str
    subject: str
    question: str
    answer: str


@dataclass(frozen=True)
class Draw:
    """What a seed measures: `strange[i]` goes before the prompt of `facts[i]`; `others` may be known to the base."""

    facts: list[Fact]
    strange: list[str]
    others: list[Known]
    passages: list[str]


@dataclass(frozen=True)
class Given:
    """What the editor is given beside its requests: generic text, and true prompts of half of the relations."""

    text: list[str]
    prompts: list[Known]
    relations: frozenset[str]


def lines_of(name: str) -> list[str]:
    """The lines of a gzipped text in the folder of data sets."""
    with gzip.open(Path(os.environ["LIFELONG_EDIT_DATA"]) / "data" / name, "rt", encoding="utf-8") as lines:
        return lines.read().splitlines()


def role(subject: str) -> str:
    """Who the subject is in every run: edited while choosing, edited in the test, given, or measured beside these."""
    place = int(hashlib.sha256(subject.casefold().encode()).hexdigest(), 16) % 100
    return next(name for name, end in zip(ROLES, accumulate(ROLES.values()), strict=True) if place < end)


def stands_in(wording: str, scored: Sequence[str]) -> bool:
    """Whether a scored prompt is the wording, or ends with it, in whatever case."""
    return any(text.casefold().endswith(wording.casefold()) for text in scored)


class Material:
    """The data sets, parted by role for one of the pools of facts."""

    def __init__(self, pool: str, tokenizer: PreTrainedTokenizerBase) -> None:
        self.pool, self.tokenizer = pool, tokenizer
        self.cases = [json.loads(line) for line in lines_of("counterfact_rome_format.jsonl.gz")]
        random.Random("cases").shuffle(self.cases)
        self.pararel: dict[str, Any] = defaultdict(lambda: {"patterns": [], "facts": []})
        self.pararel.update(json.loads("".join(lines_of("pararel.json.gz"))))
        self.templates = self._templates()

    def _templates(self) -> dict[str, list[str]]:
        """The templates of every relation: CounterFact's that are no misprint, and ParaRel's that end in the object."""
        counts: dict[str, Counter[str]] = defaultdict(Counter)
        for case in self.cases:
            counts[case["requested_rewrite"]["relation_id"]][case["requested_rewrite"]["prompt"]] += 1
        found = {relation: [t for t, n in own.items() if n >= RARE] for relation, own in counts.items()}
        for relation, own in found.items():
            patterns = (pattern.rstrip(" .") for pattern in self.pararel[relation]["patterns"])
            ended = [p.removesuffix(" [Y]").replace("[X]", "{}") for p in patterns if p.endswith(" [Y]")]
            spelled = {t.casefold(): t for t in (*ended, *own) if t.count("{}") == 1}
            found[relation] = sorted(spelled.values())
        return found

    def facts(self) -> list[Fact]:
        """The pool: distinct subjects that do not end at the first token, each with enough wordings."""
        found: dict[str, Fact] = {}
        for case in self.cases:
            edit = case["requested_rewrite"]
            subject, prompt = edit["subject"], edit["prompt"]
            front = prompt[: prompt.index("{}")] + subject
            if role(subject) != self.pool or subject in found or len(self.tokenizer(front).input_ids) < 2:
                continue
            scored = (prompt.format(subject), *case["paraphrase_prompts"])
            templates = self.templates[edit["relation_id"]]
            free = [t for t in templates if not stands_in(t.format(subject), scored)]
            if len(free) < WORDINGS or subject in prompt:
                continue
            wordings = tuple(random.Random(case["case_id"]).sample(free, WORDINGS))
            found[subject] = Fact(
                case["case_id"], edit["relation_id"], prompt, subject, edit["target_new"]["str"],
                tuple(case["paraphrase_prompts"]), wordings,
            )  # fmt: skip
        return list(found.values())

    def known(self, role_wanted: str) -> list[Known]:
        """A true fact about each subject of a role: CounterFact's, else one that GPT-2 XL knew, else ParaRel's."""
        edits = [case["requested_rewrite"] for case in self.cases]
        asked = [(e["relation_id"], e["subject"], e["prompt"], e["target_true"]["str"]) for e in edits]
        facts = [Known(relation, s, prompt.format(s), answer) for relation, s, prompt, answer in asked]
        listed = [json.loads(line) for line in lines_of("known_1000.jsonl.gz")]
        facts += [Known(k["relation_id"], k["subject"], k["prompt"].rstrip(), k["attribute"].strip()) for k in listed]
        more, draw = list[Known](), random.Random("templates")
        for relation, templates in sorted(self.templates.items()):
            pairs = self.pararel[relation]["facts"]
            more += [Known(relation, s, draw.choice(templates).format(s), answer) for s, answer in pairs]
        draw.shuffle(more)
        found: dict[str, Known] = {}
        for fact in (*facts, *more):
            if role(fact.subject) == role_wanted:
                found.setdefault(fact.subject.casefold(), fact)
        return list(found.values())

    def articles(self, part: str) -> list[str]:
        """The paragraphs of WikiText that are measured in a pool, or "given" to the editor."""
        number, found = -1, []
        for line in lines_of("text/wikitext2_valid.txt.gz"):
            number += bool(re.match(r" = [^=]", line))
            if {0: "test", 4: "dev"}.get(number % 8, "given") == part and len(line) > 80:
                found.append(line.strip())
        return found

    def draw(self, seed: int, facts: int) -> Draw:
        """What a seed edits and measures; seeds 0 to 2 of a pool have nothing in common."""
        if not 0 <= seed < SEEDS:
            raise SystemExit(f"A seed is a number from 0 to {SEEDS - 1}, not {seed}: the data sets hold no more facts.")
        edited, others = self.facts()[seed::SEEDS], self.known(f"{self.pool} others")[seed::SEEDS]
        passages = [p for p in self.articles(self.pool) if len(self.tokenizer(p).input_ids) >= PASSAGE][seed::SEEDS]
        if len(edited) < facts or len(passages) < PASSAGES:
            raise SystemExit(f"The {self.pool} pool has {len(edited)} facts and {len(passages)} passages for a seed.")
        book = "\n".join(lines_of("text/books_heldout.txt.gz"))
        sentences = sorted(set(re.findall(r"[A-Z][^.!?\n]{40,140}\.", book)))
        random.Random("strange").shuffle(sentences)
        strange = sentences[POOLS.index(self.pool) :: len(POOLS)][seed::SEEDS]
        return Draw(edited[:facts], strange[:facts], others, passages[:PASSAGES])

    def given(self) -> Given:
        """What goes into every store."""
        relations = sorted({case["requested_rewrite"]["relation_id"] for case in self.cases})
        half = frozenset(random.Random("relations").sample(relations, len(relations) // 2))
        prompts = [known for known in self.known("given") if known.relation in half][:GIVEN]
        return Given(self.articles("given"), prompts, half)


def check_disjoint(draw: Draw, given: Given) -> None:
    """Nothing that is measured is given: subjects, questions, passages, sentences; no wording is scored."""
    given_subjects = {known.subject.casefold() for known in given.prompts}
    edited = {fact.subject.casefold() for fact in draw.facts}
    others = {known.subject.casefold() for known in draw.others}
    assert not edited & others and not edited & given_subjects and not others & given_subjects
    text = "\n".join(given.text)
    assert not any(part in text for part in (*draw.passages, *draw.strange))
    for fact in draw.facts:
        wordings = {wording.format(fact.subject) for wording in fact.wordings}
        scored = (fact.question, *fact.paraphrases)
        assert len(wordings) == WORDINGS and not any(stands_in(wording, scored) for wording in wordings)
