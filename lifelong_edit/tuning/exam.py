"""What every trial is asked: facts in the words they are written in and in others, and what no edit is about.

A shift that turns no answer over is seen as well: an answer counts by its odds p / (p + q), p the probability of its
weakest token and q that of the likeliest other one, so .5 is a tie. On twenty facts, shares of answers would move in
steps of a twentieth.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from lifelong_edit.facts import EditRequest
from lifelong_edit.model.editable import EditableModel
from lifelong_edit.model.tokens import Leads, answer_leads, continuation, fitting, leads, tokens

PASSAGE = 128  # tokens of a passage of running text


@dataclass(frozen=True)
class Exam:
    """`facts` are edited; `sentences`, one a fact or none, stand before their prompts; the rest no edit is about."""

    facts: tuple[EditRequest, ...]
    sentences: tuple[str, ...]
    prompts: tuple[str, ...]
    passages: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Figures:
    """What a trial came to; shares of answers, and the two means of odds that settings are chosen by.

    - `efficacy`, `wording`, `behind`: facts said by the prompt, by paraphrase prompts, by the prompt behind a sentence.
    - `prompts`, `text`: first choices that are the base's, behind prompts about others and in running text.
    - `said`: the mean of the odds of the first three. `kept`: the mean share of their odds that the base's first
      choices keep, over prompts and text alike.

    None where the exam asks nothing of the kind.
    """

    efficacy: float
    wording: float | None
    behind: float | None
    prompts: float
    text: float
    said: float
    kept: float

    def score(self, weight: float) -> float:
        """`said`, less `weight` times what is not `kept`."""
        return self.said - weight * (1 - self.kept)


@dataclass(frozen=True)
class Base:
    """The base's first choices behind prompts, and at every place of passages."""

    prompts: Sequence[Leads]
    passages: Sequence[Leads]

    @classmethod
    def of(cls, editable: EditableModel, exam: Exam) -> Base:
        """Ask the base, which must be the live model."""
        return cls(*(leads(editable.model, *rows) for rows in _untouched(editable, exam)))


def graded(editable: EditableModel, exam: Exam, base: Base) -> Figures:
    """The figures of the live model."""
    pairs: dict[str, list[tuple[str, str]]] = {
        "efficacy": [(fact.question, fact.target_new) for fact in exam.facts],
        "wording": [(prompt, fact.target_new) for fact in exam.facts for prompt in fact.paraphrase_prompts],
        "behind": [
            (sentence + fact.question, fact.target_new)
            for sentence, fact in zip(exam.sentences, exam.facts, strict=False)
        ],
    }
    odds = {name: answered(editable, own) for name, own in pairs.items() if own}
    kept = [
        _kept(leads(editable.model, *rows, [lead.ids.tolist() for lead in before]), before)
        for rows, before in zip(_untouched(editable, exam), (base.prompts, base.passages), strict=True)
    ]
    shares = {name: fmean(one > 0.5 for one in own) for name, own in odds.items()}
    return Figures(
        efficacy=shares["efficacy"],
        wording=shares.get("wording"),
        behind=shares.get("behind"),
        prompts=kept[0][0],
        text=kept[1][0],
        said=fmean(fmean(own) for own in odds.values()),
        kept=fmean(own for _, own in kept),
    )


def answered(editable: EditableModel, pairs: Sequence[tuple[str, str]]) -> list[float]:
    """The odds of each (prompt, answer)."""
    found = []
    for prompt, answer in pairs:
        asked = editable.texts.rule.asked(prompt)
        head, target = tokens(editable.texts, asked)[0], continuation(editable.texts, asked, answer)
        fitting(head + target[:-1], prompt, editable.context_length)
        found.append((head, target))
    return [_odds(float(lead.margins.min())) for lead in answer_leads(editable.model, found)]


def _untouched(editable: EditableModel, exam: Exam) -> tuple[tuple[list[list[int]], list[int]], ...]:
    """Rows and the place from which each is asked: prompts at their end, passages everywhere."""
    prompts = [tokens(editable.texts, editable.texts.rule.asked(prompt))[0] for prompt in exam.prompts]
    longest = min(PASSAGE, editable.context_length)
    passages = [tokens(editable.texts, passage)[0][:longest] for passage in exam.passages]
    return (prompts, [len(row) - 1 for row in prompts]), (passages, [0] * len(passages))


def _kept(now: Sequence[Leads], base: Sequence[Leads]) -> tuple[float, float]:
    """The share of first choices that are the base's, and the mean share of their odds that is left."""
    pairs = [
        (float(margin), float(before))
        for one, other in zip(now, base, strict=True)
        for margin, before in zip(one.margins, other.margins, strict=True)
    ]
    same = fmean(margin > 0 or margin == before for margin, before in pairs)
    return same, fmean(min(1.0, _odds(margin) / _odds(before)) for margin, before in pairs)


def _odds(margin: float) -> float:
    """p / (p + q) of a margin log p - log q; 0 where a broken model gives none."""
    return 0.0 if math.isnan(margin) else 1 / (1 + math.exp(-max(margin, -700.0)))
