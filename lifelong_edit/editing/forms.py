"""The texts in which a fact is to be said: its prompt, bare and behind prefixes, other wordings, prompts with gaps.

A target that is fitted to one sentence says the fact in that sentence; what it is fitted to decides where it holds.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

from lifelong_edit.editing.contexts import prefixes_for
from lifelong_edit.errors import RequestError
from lifelong_edit.facts import SUBJECT_SLOT, EditRequest
from lifelong_edit.model.tokens import Encoded, Texts, encode, slot_ids, slot_key

PREFIXES = 3  # of a fact
KEPT_WORDS = 0.7  # of a prompt that loses words


class Form(NamedTuple):
    """A request, in its own words or other ones, and the prefix it stands behind."""

    request: EditRequest
    prefix: str = ""

    def encoded(self, texts: Texts, max_length: int | None = None) -> Encoded:
        """The token ids of prefix, question and target."""
        return encode(texts, self.request, prefix=self.prefix, max_length=max_length)


Forms = Callable[[Texts, EditRequest], Sequence[Form]]
"""Gives the forms of a fact, the bare prompt first."""


def prefixed(contexts: Sequence[str]) -> Forms:
    """The bare prompt, then the prompt behind every one of the contexts (MEMIT, arXiv 2210.07229)."""
    return lambda _texts, request: [Form(request, prefix) for prefix in ("", *contexts)]


def reworded(pool: Sequence[str], gaps: int = 4) -> Forms:
    """The prompt and its wordings, each bare and behind a prefix out of `pool`; the prompt behind one more.

    Where a request has no wordings, `gaps` copies of its prompt that lack some words stand for them, by turns bare and
    behind a prefix. What is drawn depends on the slot and on `pool` alone. A form whose subject would end at the first
    token stands behind a prefix: what a model computes at its first token is nearly the same whatever the word is.
    """

    def forms(texts: Texts, request: EditRequest) -> list[Form]:
        slot = slot_ids(encode(texts, request))
        prefixes, draw = prefixes_for(pool, slot, PREFIXES) or ("",), random.Random(slot_key(slot))
        behind = [prefixes[i % len(prefixes)] for i in range(2 + max(gaps, len(request.wordings)))]
        found = [Form(request), *(Form(request, prefix) for prefix in behind[:2])]
        for i, prompt in enumerate(request.wordings):
            found += [Form(replace(request, prompt=prompt, wordings=()), prefix) for prefix in ("", behind[i])]
        for i in range(0 if request.wordings else gaps):
            gapped = replace(request, prompt=_with_gaps(request.prompt, draw), wordings=())
            found.append(Form(gapped, behind[i] if i % 2 else ""))
        return list(dict.fromkeys(_off_the_start(texts, form, prefixes[0]) for form in found))

    return forms


def _with_gaps(prompt: str, draw: random.Random) -> str:
    """The prompt without some of its words, but with the subject."""
    return " ".join(word for word in prompt.split(" ") if SUBJECT_SLOT in word or draw.random() < KEPT_WORDS)


def _off_the_start(texts: Texts, form: Form, prefix: str) -> Form:
    if form.encoded(texts).subject_last > 0:
        return form
    if not prefix:
        raise RequestError(
            f"The subject of {form.request.question[:60]!r} is the first token, where a model computes nearly the same "
            "for every word. Put some words before it in the prompt, or make the store with contexts."
        )
    return form._replace(prefix=prefix)
