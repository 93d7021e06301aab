"""Stages of a fact's way from its target to what the model says: at each, how far its prompts are answered with it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch

from lifelong_edit.errors import RequestError
from lifelong_edit.model.editable import EditableModel
from lifelong_edit.model.tokens import continuation, fitting, next_tokens, tokens

HOLDS = 0.5  # of a stage's prompts: a fact that most of them bring out is not lost there


@dataclass(frozen=True, slots=True)
class Stage:
    """How a fact fares at one stage, over the prompts that are asked there.

    `said` is the share of prompts whose target tokens are all the first choice, `probability` the geometric mean over
    prompts and tokens, `margin` the mean over prompts of how far, in nats, the token that is worst off lies above the
    likeliest other one: below 0 it is not said. `possible` is the share in which the unedited model keeps its own
    answer in such surroundings: no edit can be asked for more. `advice` says what would mend a stage that does not
    hold.
    """

    name: str
    said: float
    probability: float
    margin: float
    advice: str | None = None
    possible: float = 1.0

    @property
    def holds(self) -> bool:
        """Whether at least half of the prompts are answered with the fact, as far as that is possible."""
        return self.said >= HOLDS * self.possible

    def mended_by(self, advice: Callable[[], str]) -> Stage:
        """The stage with advice, where it does not hold."""
        return self if self.holds else replace(self, advice=advice())


def asked(editable: EditableModel, name: str, prompts: Sequence[str], target: str) -> Stage:
    """The stage `name` as this model answers the prompts, at least one; `RequestError` for one that does not fit."""
    if not prompts:
        raise RequestError(f"There is no prompt to ask at the stage {name!r}. Give at least one.")
    rows, wanted, owners = [], [], []
    for owner, prompt in enumerate(prompts):
        text = editable.texts.rule.asked(prompt)
        ids = tokens(editable.texts, text)[0]
        answer = continuation(editable.texts, text, target)
        rows += [fitting(ids + answer[:i], text, editable.context_length) for i in range(len(answer))]
        wanted += answer
        owners += [owner] * len(answer)
    # One row for every target token, teacher-forced: the whole distribution tells what comes next to it.
    own, lead, first = torch.zeros(3, len(rows))
    for numbers, logs in next_tokens(editable.model, rows):
        token = torch.tensor([wanted[number] for number in numbers])[:, None]
        own[numbers] = logs.gather(1, token)[:, 0]
        lead[numbers] = own[numbers] - logs.scatter(1, token, -math.inf).amax(1)
        first[numbers] = ((logs.argmax(1) == token[:, 0]) & ~own[numbers].isnan()).float()
    # A prompt is answered as its worst token is, and every prompt counts alike, however long the target is behind it.
    owner_of = torch.tensor(owners)
    said, margin, likely = (
        torch.zeros(len(prompts)).scatter_reduce(0, owner_of, values, how, include_self=False)
        for values, how in ((first, "amin"), (lead, "amin"), (own, "mean"))
    )
    return Stage(name, float(said.mean()), math.exp(float(likely.mean())), float(margin.mean()))
