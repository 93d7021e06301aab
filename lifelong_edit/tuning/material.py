"""What a search is made of: a user's facts, true prompts and text, each parted into what is given to the editor, what
settings are chosen by, and what is reported. A subject, a prompt or a paragraph has one of these uses.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from heapq import nsmallest

from lifelong_edit.editing.contexts import drawn_sentences
from lifelong_edit.errors import RequestError
from lifelong_edit.facts import EditRequest, canonical_digest, parted
from lifelong_edit.tuning.exam import Exam

FACTS, PROMPTS, PASSAGES = 20, 200, 8  # of an exam
LEAST_FACTS, LEAST_PROMPTS, LEAST_PASSAGES = 4, 20, 2
PARAPHRASES = 2  # of a fact that are asked
READABLE = 200  # characters of a paragraph that is measured


@dataclass(frozen=True)
class Material:
    """`chosen` decides between settings, `reported` is asked in the end; `text` and `prompts` go to the editor."""

    chosen: Exam
    reported: Exam
    text: tuple[str, ...]
    prompts: tuple[str, ...]


def material(
    requests: Sequence[EditRequest], text: Sequence[str], statements: Sequence[str], seed: int, facts: int = FACTS
) -> Material:
    """Part what a user gives; equal seeds part it alike, whatever its order.

    At most `facts` facts go to each exam, no two of one subject. Prompts about others are the true statements without
    their last word, then the neighbourhood prompts of the requests; those that name an edited subject are left out.
    `RequestError` when there is too little of anything.
    """
    by_subject = {request.subject.strip().casefold(): request for request in reversed(requests)}
    edited = [_examined(by_subject[subject]) for subject in _shuffled(by_subject, seed)]
    count = min(facts, len(edited) // 2)
    if count < LEAST_FACTS:
        raise RequestError(
            f"The requests are about {len(edited)} subjects, {2 * LEAST_FACTS} are needed: one half chooses settings, "
            "the other is reported. Give more requests."
        )
    edited = edited[: 2 * count]
    subjects = [request.subject.strip().casefold() for request in edited]

    own = [s for s in _shuffled(statements, seed) if parted(s) and not _names(s, subjects)]
    near = [prompt for request in edited for prompt, _ in request.neighbours if not _names(prompt, subjects)]
    held, given = own[: min(2 * PROMPTS, len(own) // 2)], own[min(2 * PROMPTS, len(own) // 2) :]
    others = list(dict.fromkeys([*(_asked(statement) for statement in held), *_shuffled(near, seed)]))[: 2 * PROMPTS]
    if len(others) < 2 * LEAST_PROMPTS:
        raise RequestError(
            f"There are {len(others)} prompts about other subjects to see what edits disturb, {2 * LEAST_PROMPTS} are "
            "needed. Give true statements, one a line (prompts), of which half are kept for that, or requests with "
            "neighbourhood prompts."
        )

    readable = [part for part in _shuffled(text, seed) if len(part) >= READABLE and not _names(part, subjects)]
    passages = readable[: min(2 * PASSAGES, len(readable) // 8 * 2)]
    if len(passages) < 2 * LEAST_PASSAGES:
        raise RequestError(
            f"The text has {len(readable)} paragraphs of {READABLE} characters that name no edited subject, "
            f"{8 * LEAST_PASSAGES} are needed: half are measured or stand before prompts, the editor reads the others. "
            "Give more text."
        )
    unread = readable[len(passages) : 2 * len(passages)]  # what facts are asked behind is not what they are fitted to
    sentences = drawn_sentences(unread, 2 * count, seed)

    def half(of: int) -> Exam:
        return Exam(
            facts=tuple(edited[of::2]),
            sentences=tuple(sentences[of::2]),
            prompts=tuple(others[of::2]),
            passages=tuple(passages[of::2]),
        )

    read = tuple(part for part in text if part not in passages and part not in unread)
    return Material(half(0), half(1), read, tuple(given))


def _examined(request: EditRequest) -> EditRequest:
    """The request with a few paraphrases to ask; where it has none, its last wording is asked and not written."""
    request = replace(request, id=None, paraphrase_prompts=request.paraphrase_prompts[:PARAPHRASES])
    if request.paraphrase_prompts or not request.wordings:
        return request
    *written, asked = request.wordings
    prompt = replace(request, prompt=asked, wordings=(), messages=()).question
    return replace(request, wordings=tuple(written), paraphrase_prompts=(prompt,))


def _asked(statement: str) -> str:
    prompt, _ = parted(statement) or (statement, "")
    return prompt


def _names(text: str, subjects: Iterable[str]) -> bool:
    text = text.casefold()
    return any(subject in text for subject in subjects)


def _shuffled(choices: Collection[str], seed: int) -> list[str]:
    """The distinct choices in an order that depends on the seed and on themselves alone."""
    return nsmallest(len(choices), set(choices), key=lambda choice: canonical_digest([seed, choice]))
