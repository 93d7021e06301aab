"""Cut a sentence that says a fact in other words down to a wording of its request: a prompt that ends at the answer."""

from __future__ import annotations

import re
from dataclasses import replace

from lifelong_edit.datasets.drafts import check_line
from lifelong_edit.errors import RequestError
from lifelong_edit.facts import LETTER, SUBJECT_SLOT, EditRequest, with_slot

LONGEST = 20  # words of a wording
CLOSED = re.compile(r"\s*(?:$|[.,;:!?]+(?:\s|$))")  # what may stand behind the answer: nothing, or a mark
ENDED = re.compile(r"[.!]\s")  # a question may stand before its answer
ARTICLE = re.compile(r"\ban?$", re.IGNORECASE)


def cut_down(request: EditRequest, sentence: str, answer: str) -> str:
    """The sentence up to `answer`, with ``{}`` where the subject stands.

    Raises `RequestError`, which begins with the reason and a colon, for a sentence that does not hold the subject once
    and the answer at the end of a clause behind it, for a wording that tells the new or the old target or is too long,
    and for one that the request refuses: its prompt, one of its wordings, what measures it.
    """
    text = with_slot(sentence.strip(), request.subject)
    shown = repr(sentence[:200])
    places = [place for place in _places(answer, text) if place.start() > text.find(SUBJECT_SLOT)]
    if not places:
        raise RequestError(f"the answer does not follow the subject: {answer!r} in {shown}.")
    wording = text[: places[0].start()].rstrip()
    if not CLOSED.match(text, places[0].end()):
        raise RequestError(f"the answer ends no clause: {answer!r} in {shown}.")
    for target in (request.target_new, request.target_true):
        if target and _places(target.strip(), wording, whole=False):  # nor as a part: Japan tells Japanese
            raise RequestError(f"the wording tells an answer: {target.strip()!r} in {wording[:200]!r}.")
    if ENDED.search(wording):
        raise RequestError(f"the wording is more than one sentence: {wording[:200]!r}.")
    if len(wording.split()) > LONGEST:
        raise RequestError(f"the wording is too long: over {LONGEST} words, {wording[:200]!r}.")
    if (article := ARTICLE.search(wording)) and (len(article[0]) == 2) != (
        request.target_new.strip()[0] in "aeiouAEIOU"
    ):
        raise RequestError(f"the article does not fit the target: {wording[:200]!r}, {request.target_new!r}.")
    try:
        check_line(replace(request, wordings=(*request.wordings, wording)))
    except RequestError as error:
        raise RequestError(f"the request refuses it: {error}") from None
    return wording


def _places(answer: str, text: str, whole: bool = True) -> list[re.Match[str]]:
    """Where the answer stands in a text as words, or as what a word begins with, in whatever capitals."""
    letter = LETTER.pattern
    end = rf"(?!{letter})" if whole else ""
    return list(re.finditer(rf"(?<!{letter}){re.escape(answer)}{end}", text, re.IGNORECASE))
