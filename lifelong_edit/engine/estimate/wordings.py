"""Draft wordings of requests for review: an instruct model says each fact in other words, and is measured on them.

The model is shown the fact with its known answer, so that it has something true to say, and its sentences are cut
before that answer (`datasets.rewordings`). A wording that is about something else than the prompt shows in the model
itself: asked without any instruction, it gives the known answer less often there than behind the prompt.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from lifelong_edit.datasets.rewordings import cut_down
from lifelong_edit.defaults import DRAWS
from lifelong_edit.errors import ModelError, RequestError
from lifelong_edit.facts import MAX_WORDINGS, SUBJECT_SLOT, EditRequest, Message
from lifelong_edit.model.chat import chat_text
from lifelong_edit.model.editable import EditableModel
from lifelong_edit.tracking.generation import sampled
from lifelong_edit.tracking.scores import score_continuations

INSTRUCTION = "Say it in other words: {}."
STATED = (  # what the model is shown to have said in other words
    "The mother tongue of Danielle Darrieux is French",
    "Lyon is a twin city of Birmingham",
    "Windows 95 was developed by Microsoft",
    "Edwin Land works in the field of optics",
)
# How its sentences begin, and its answers to `STATED` that begin so: a model of any size follows what it is shown.
REWORDED = {
    SUBJECT_SLOT: (
        "Danielle Darrieux is a native speaker of French",
        "Lyon is twinned with Birmingham",
        "Windows 95 is a product of Microsoft",
        "Edwin Land is known for his work in optics",
    ),
    "The": (
        "The native language of Danielle Darrieux is French",
        "The sister city of Lyon is Birmingham",
        "The developer of Windows 95 is Microsoft",
        "The field of Edwin Land is optics",
    ),
}
LENGTH, TOP = 24, 5  # tokens of a sentence, first choices that each is drawn from
SHARE = 0.5  # of the known answer's probability behind the prompt: what a wording must have


@dataclass(frozen=True, slots=True)
class Reworded:
    """A sentence that the model wrote, and the `wording` cut out of it; `refused` says why the request did not get it.

    `share` is the probability of the known answer behind the wording, by that behind the prompt (the geometric means
    over the answer's tokens); None where no true target is known, or no wording was found.
    """

    sentence: str
    wording: str | None = None
    refused: str | None = None
    share: float | None = None


@dataclass(frozen=True, slots=True)
class Drafted:
    """A request with the wordings that it got, and every distinct sentence behind them, the best first."""

    request: EditRequest
    sentences: tuple[Reworded, ...]

    @property
    def given(self) -> tuple[Reworded, ...]:
        """The sentences whose wordings the request got."""
        return tuple(one for one in self.sentences if one.refused is None)


def drafted(
    editable: EditableModel, requests: Sequence[EditRequest], count: int, draws: int = DRAWS, seed: int = 0
) -> Iterator[Drafted]:
    """Give every request up to `count` wordings more, out of `draws` sentences that an unedited instruct model writes.

    What a request gets depends on it, the model and the seed alone. Raises `ModelError` for a model that has no chat
    template, `RequestError` for a fact that does not fit into its context, or is told in messages.
    """
    if not editable.tokenizer.chat_template:
        raise ModelError("The model has no chat template, so it cannot be asked for wordings. Give an instruct model.")
    return (_drafted(editable, request, count, draws, seed) for request in requests)


def _drafted(editable: EditableModel, request: EditRequest, count: int, draws: int, seed: int) -> Drafted:
    answer = (request.target_true or request.target_new).strip()
    sentences = list(dict.fromkeys(_sentences(editable, request, answer, draws, seed)))
    found = [_cut(request, sentence, answer) for sentence in sentences]
    if request.target_true is not None:
        found = _measured(editable, request, found)
    found.sort(key=_rank)
    limit = min(len(request.wordings) + count, MAX_WORDINGS)
    for number, one in enumerate(found):
        if one.wording is None or one.refused is not None:
            continue
        if len(request.wordings) == limit:
            found[number] = replace(one, refused="enough others go before it.")
            continue
        try:
            request = replace(request, wordings=(*request.wordings, one.wording))
        except RequestError as error:  # another sentence was cut down to it
            found[number] = replace(one, refused=str(error))
    return Drafted(request, tuple(found))


def _rank(one: Reworded) -> tuple[bool, float, int]:
    """The order of what is given: likely enough is enough, and of those the shorter ones say less besides."""
    return one.refused is not None, -min(1.0, one.share or 0.0), len((one.wording or "").split())


def _sentences(editable: EditableModel, request: EditRequest, answer: str, draws: int, seed: int) -> list[str]:
    """Sentences that say the fact, as the model writes them in its own chat template behind an opening."""
    rule = editable.texts.rule
    statement = (rule.asked(request.question) + rule.answered(request.question, answer)).rstrip(" .")
    begun = {
        _asked(editable, statement, reworded) + opening.replace(SUBJECT_SLOT, request.subject): opening
        for opening, reworded in REWORDED.items()
    }
    own = -(-draws // len(begun))
    said = sampled(editable, list(begun), LENGTH, TOP, seed, own, editable.tokenizer.eos_token_id)
    openings = [opening.replace(SUBJECT_SLOT, request.subject) for opening in begun.values() for _ in range(own)]
    return [(opening + text).strip().split("\n")[0] for opening, text in zip(openings, said, strict=True)]


def _asked(editable: EditableModel, statement: str, reworded: Sequence[str]) -> str:
    """The statement to be said in other words, behind the examples, in the model's own chat template."""
    turns = []
    for said, answer in zip((*STATED, statement), (*reworded, None), strict=True):
        turns.append(Message("user", INSTRUCTION.replace("{}", said)))
        turns += [] if answer is None else [Message("assistant", f"{answer}.")]
    return chat_text(editable.tokenizer, turns)


def _cut(request: EditRequest, sentence: str, answer: str) -> Reworded:
    try:
        return Reworded(sentence, cut_down(request, sentence, answer))
    except RequestError as error:
        return Reworded(sentence, refused=str(error))


def _measured(editable: EditableModel, request: EditRequest, found: list[Reworded]) -> list[Reworded]:
    """The same, each wording with its share; one with too small a share is refused."""
    wordings = [one.wording for one in found if one.wording is not None]
    asked = [request.question, *(wording.replace(SUBJECT_SLOT, request.subject) for wording in wordings)]
    pairs = [(prompt, str(request.target_true)) for prompt in asked]
    prompt, *others = (score.nll for score in score_continuations(editable.model, editable.texts, pairs))
    shares = dict(zip(wordings, (math.exp(prompt - nll) for nll in others), strict=True))
    return [one if one.wording is None else _weighed(one, one.wording, shares[one.wording]) for one in found]


def _weighed(one: Reworded, wording: str, share: float) -> Reworded:
    less = (
        f"it does not ask for the same: {wording!r} gives the known answer {share:.2f} times as likely as the prompt."
    )
    return replace(one, share=share, refused=less if share < SHARE else None)
