"""Turn what a row says about an edit (a draft) into a checked request, or into an error with the reason first."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from lifelong_edit.datasets.jsonl import MAX_LINE
from lifelong_edit.datasets.rows import KINDS, kind_of
from lifelong_edit.errors import RequestError
from lifelong_edit.facts import LIMITS, EditRequest, with_slot


@dataclass(frozen=True, slots=True)
class Draft:
    """An edit as its row has it, before any check.

    `prompt` and `wordings` have ``{}`` or the subject itself; texts may be null, targets an object with `str`; in the
    lists null and empty texts stand for nothing, and so do pairs without an answer. `checks` are (prompt, answer)
    pairs. `relation` names what the prompt says of its subject, where the data set does. `messages`, with ``{}``, may
    stand in place of the prompt.
    """

    prompt: Any
    subject: Any
    target_new: Any
    target_true: Any = None
    id: str | None = None
    paraphrases: Any = ()
    neighbours: Any = ()
    checks: Iterable[tuple[Any, Any]] = ()
    generations: Any = ()
    wordings: Any = ()
    relation: Any = None
    messages: Any = None
    end: Any = None


def request_of(draft: Draft) -> EditRequest:
    """Check a draft and make its request; a `RequestError` begins with a short reason and a colon.

    Blanks around subject, targets and answers are taken off, and ``{}`` is put where the subject stands.
    """
    # Checked here and not by EditRequest alone, so that a rejection begins with a reason that can be counted.
    texts = {"prompt": draft.prompt, "subject": draft.subject, "target_new": target(draft.target_new)}
    if draft.messages and not draft.prompt:  # the model's chat template makes it, when the request is applied
        del texts["prompt"]
    for name, value in texts.items():
        if value is None or (isinstance(value, str) and not value.strip()):
            raise RequestError(
                f"no {name}: it is missing or empty. An edit needs a prompt, a subject and a target_new."
            )
        if not isinstance(value, str):
            raise RequestError(f"{name} is {kind_of(value)}: {str(value)[:80]!r}. Write a text.")
        if name in LIMITS and len(value.strip()) > LIMITS[name]:
            raise RequestError(
                f"{name} is too long: {len(value.strip())} characters, the limit is {LIMITS[name]}. Shorten it."
            )
    # Data sets write targets with their leading blank and fill the subject in; requests have neither.
    subject, new = texts["subject"].strip(), texts["target_new"].strip()
    prompt, true = with_slot(texts["prompt"], subject) if "prompt" in texts else "", target(draft.target_true)
    try:
        request = EditRequest(
            prompt,
            subject,
            new,
            _trimmed(true) or None,
            draft.id,
            _told(draft.paraphrases),
            _told(draft.neighbours),
            tuple((prompt, _trimmed(answer)) for prompt, answer in draft.checks if _says(prompt) and _says(answer)),
            _told(draft.generations),
            _with_slots(_told(draft.wordings), subject),
            draft.messages or (),
            draft.end,
        )
    except RequestError as error:
        raise RequestError(f"not a sound request: {error}") from None
    check_line(request)
    return request


def check_line(request: EditRequest) -> None:
    """Refuse a request that could not be read again as a line, by a `RequestError`."""
    if len(line_of(request)) > MAX_LINE:
        raise RequestError(f"too long for a line: over {MAX_LINE} bytes. Leave out some of the texts that measure it.")


def line_of(request: EditRequest) -> bytes:
    """Write the request as a line of JSON, without the line break."""
    return json.dumps(request.to_dict(), ensure_ascii=False).encode()


def case_id(dataset: str, case: Any) -> str | None:
    """Make the id ``dataset-case``; None for a row that has no case number."""
    if case is None or case == "":
        return None
    if isinstance(case, bool) or not isinstance(case, (int, str)):
        raise RequestError(f"the case id is {kind_of(case)}: {str(case)[:80]!r}. Write a whole number or a text.")
    return f"{dataset}-{str(case).strip()}"


def part(row: Mapping[str, Any], name: str, kind: type) -> Any:
    """Get the object or list that a row holds under a name; `RequestError` when it is missing or of another type."""
    value = row.get(name)
    if not isinstance(value, kind):
        raise RequestError(f"no {name}: it is {kind_of(value)}, not {KINDS[kind]}. Is this row of the same format?")
    return value


def items(holder: Mapping[str, Any], name: str) -> list[Any]:
    """Get the list under a name, empty when there is none; `RequestError` when it is no list."""
    value = holder.get(name)
    if not isinstance(value, list | None):
        raise RequestError(f"not a sound request: {name} is {kind_of(value)}. Write a list.")
    return value or []


def first_text(value: Any) -> Any:
    """Get the first spelling of an answer out of nested lists; None of an empty list."""
    while isinstance(value, list):
        value = value[0] if value else None
    return value


def target(value: Any) -> Any:
    """Get the text of a target, which CounterFact writes as an object with `str`."""
    return value.get("str") if isinstance(value, dict) else value


def _told(texts: Any) -> Any:
    """Texts as a tuple without empty ones; anything else stays as it is, for `EditRequest` to refuse."""
    listed = (texts,) if texts is None or isinstance(texts, str) else texts
    return tuple(filter(_says, listed)) if isinstance(listed, (list, tuple)) else listed


def _with_slots(texts: Any, subject: str) -> Any:
    if not isinstance(texts, tuple):
        return texts
    return tuple(with_slot(text, subject) if isinstance(text, str) else text for text in texts)


def _trimmed(text: Any) -> Any:
    return text.strip() if isinstance(text, str) else text


def _says(text: Any) -> bool:
    return text is not None and not (isinstance(text, str) and not text.strip())
