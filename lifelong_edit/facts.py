"""What a user asks for: edit requests, checked and canonical before anything is computed.

A text rule says how a prompt and its answer become one text.
"""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass, fields
from enum import Enum
from typing import Any, NamedTuple

from lifelong_edit.errors import RequestError

MAX_PROMPT = 2_000
MAX_TARGET = 200
MAX_NAME = 500  # of a subject or an id
MAX_TEXTS = 100  # in a list that measures the edit; CounterFact has 10
MAX_WORDINGS = 20
MAX_MESSAGES = 20
MAX_END = 40
SUBJECT_SLOT = "{}"
REQUIRED = ("prompt", "subject", "target_new")
LIMITS = {"subject": MAX_NAME, "id": MAX_NAME, "target_new": MAX_TARGET, "target_true": MAX_TARGET, "end": MAX_END}
TEXTS, PAIRS = "texts", "lists of 2 texts"
LISTS = {  # what each is a list of
    "paraphrase_prompts": (TEXTS,),
    "neighborhood_prompts": (TEXTS, PAIRS),
    "attribute_prompts": (PAIRS,),
    "generation_prompts": (TEXTS,),
    "wordings": (TEXTS,),
}
LETTER = re.compile(r"[^\W\u2e80-\U0003ffff]")  # of scripts that part words by blanks
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")  # all but tab and line feed: they steer a terminal
STOPS = ".,;:!?%\u2026\u061f\u060c\u061b\u0964\u0965\u0589"  # marks after a sentence or a part of one
QUOTES = "\"'"
# Scripts of narrow characters that part no words by blanks, by how the names of their characters begin.
UNPARTED = ("THAI ", "LAO ", "KHMER ", "MYANMAR ", "TIBETAN ", "TAI ", "NEW TAI ")


class TextRule(str, Enum):
    """A choice of how a prompt and its answer become one text; a store keeps the one that it was made with.

    `kept`: the prompt is the user's to the last character, and a blank goes before the answer where a word needs one.
    `stripped`, of stores made before there was a choice: blanks that end a prompt are dropped, and one blank goes
    before every answer.
    """

    kept = "kept"
    stripped = "stripped"

    def asked(self, prompt: str) -> str:
        """The prompt as the model is asked it."""
        return prompt.rstrip() if self is TextRule.stripped else prompt

    def answered(self, prompt: str, target: str) -> str:
        """The target as it follows the prompt: with a blank before it, or without.

        Kept, a blank goes before it where the prompt ends in a letter, a digit or a mark that closes something, of a
        script that parts words by blanks; never where the target begins with white space itself.
        """
        if self is TextRule.stripped:
            return " " + target.strip()
        target = target.rstrip()
        return target if target[:1].isspace() or not _ends_a_word(prompt) else " " + target


def _ends_a_word(prompt: str) -> bool:
    last = prompt[-1:]
    if not last or _is_unparted(last):
        return False
    if last in QUOTES:  # the same mark opens and closes; inside a word it is an apostrophe
        return len(re.findall(rf"\B{last}|{last}\B", prompt)) % 2 == 0
    category = unicodedata.category(last)
    return category[0] in "LMN" or category in ("Pe", "Pf") or last in STOPS


def _is_unparted(character: str) -> bool:
    """Whether it belongs to a script without blanks: a wide one, Hangul aside, or one of `UNPARTED`."""
    name = unicodedata.name(character, "")
    wide = unicodedata.east_asian_width(character) in ("W", "F", "H") and "HANGUL" not in name
    return wide or name.startswith(UNPARTED)


class Message(NamedTuple):
    """A message of a conversation: whose it is (``system``, ``user``, ``assistant``), and its text."""

    role: str
    content: str


@dataclass(frozen=True, slots=True)
class EditRequest:
    """One fact to write, in CounterFact's terms.

    `prompt` holds ``{}`` once, where the subject goes, and ends where the target begins; `target_new` is the
    wanted continuation: `TextRule` puts a blank before it where a word needs one. `wordings` are further prompts of
    the same form that the edit is written through, so that it holds in other words too.

    `messages`, a conversation, may stand in place of the prompt, with the ``{}`` in one of them (objects of `role` and
    `content`, or pairs). The store's tokenizer makes the prompt of them when the edit is applied (`model.chat`); where
    both are given, the prompt is what was made of them.

    `end` is what the answer ends with, so that a model stops there instead of going on: a text that is written and
    scored behind the target, as ``"."``, or True for the model's own, which becomes a text when the edit is applied.

    The other texts are only used to measure the edit: `paraphrase_prompts` are whole prompts about the subject,
    `attribute_prompts` whole prompts with an answer of their own that the edit should leave, `neighborhood_prompts`
    prompts about other subjects: a text, whose answer is `target_true`, or a prompt with an answer of its own.

    Raises `RequestError` on construction when a text is none, empty, too long, not valid Unicode or holds control
    characters, when a list is too long, when the prompt, the messages or a wording have no single ``{}``, or when a
    wording is the prompt, another wording, or what a prompt that measures the edit ends with.
    """

    prompt: str = ""
    subject: str = ""
    target_new: str = ""
    target_true: str | None = None
    id: str | None = None
    paraphrase_prompts: tuple[str, ...] = ()
    neighborhood_prompts: tuple[str | tuple[str, str], ...] = ()
    attribute_prompts: tuple[tuple[str, str], ...] = ()
    generation_prompts: tuple[str, ...] = ()
    wordings: tuple[str, ...] = ()
    messages: tuple[Message, ...] = ()
    end: str | bool | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "messages", _messages(self, self.messages))
        for name in _required(bool(self.messages and self.prompt == "")):
            _check_text(self, name, getattr(self, name))
        object.__setattr__(self, "end", None if self.end is False else self.end)
        for name in ("target_true", "id", *(("end",) if self.end is not True else ())):
            if getattr(self, name) is not None:
                _check_text(self, name, getattr(self, name))
        for name, shapes in LISTS.items():
            object.__setattr__(self, name, _frozen(getattr(self, name), 2 if PAIRS in shapes else 1))
            _check_texts(self, name)
        if self.messages:
            _check_slot(self, "the whole of the messages", "\n".join(message.content for message in self.messages))
        if self.prompt:
            _check_slot(self, "the prompt", self.prompt)
        _check_wordings(self)
        if isinstance(self.end, str) and self.end != self.end.rstrip():
            raise RequestError(f"{self._where()}: end ends in white space, as no target does. Write a mark, as '.'.")
        if self.id is not None and self.id != " ".join(self.id.split()):
            raise RequestError(
                f"{self._where()}: the id begins or ends with a blank, or holds a line break, a tab or two blanks in "
                "a row. Write it on one line with single blanks."
            )

    @property
    def needs_template(self) -> bool:
        """Whether its prompt or its end is yet to be told by the tokenizer of a model."""
        return not self.prompt or self.end is True

    @property
    def question(self) -> str:
        """The prompt with the subject in its place, as the user wrote it; `RequestError` where it has messages only."""
        if not self.prompt:
            raise RequestError(
                f"{self._where()}: its messages are no text yet: the model's chat template makes one. Apply it to a "
                "store, or give the prompt itself."
            )
        return self.prompt.replace(SUBJECT_SLOT, self.subject)

    @property
    def answer(self) -> str:
        """What is written behind the question, and scored: the new target with its end."""
        return self.ended(self.target_new)

    def ended(self, target: str) -> str:
        """A target with the end that an answer to this request has; `RequestError` where a model's own is not known."""
        if self.end is True:
            raise RequestError(
                f"{self._where()}: its end is the model's own, and no text yet. Apply it to a store, or give the end."
            )
        return target.rstrip() + self.end if self.end else target

    @property
    def subject_start(self) -> int:
        """Character offset of the subject inside `question`."""
        return self.prompt.index(SUBJECT_SLOT)

    @property
    def neighbours(self) -> tuple[tuple[str, str | None], ...]:
        """The neighbourhood prompts, each with its answer: its own, else `target_true`."""
        return tuple((n, self.target_true) if isinstance(n, str) else n for n in self.neighborhood_prompts)

    @property
    def statement(self) -> tuple[str, str]:
        """Prompt and subject in one spelling: of two requests that share it, the later one supersedes the other.

        Messages stand for their prompt here, which need not be the same on another day: templates put the date into it.
        """
        if self.messages:
            return canonical_json(self.messages), self.subject
        return statement_of(self.prompt, self.subject)

    def canonical(self, rule: TextRule = TextRule.kept) -> dict[str, Any]:
        """The fields that say what is edited, in one spelling for one text: what the id is a digest of."""
        if self.messages:
            told = [message._asdict() for message in self.messages]
            return {"messages": told, "subject": self.subject, "target_new": self.target_new.rstrip()}
        prompt, subject = self.statement if rule is TextRule.stripped else (self.prompt, self.subject)
        written, plain = (rule.answered(self.question, target) for target in (self.target_new, self.target_new.strip()))
        target = self.target_new.strip() if written == plain else written
        return {"prompt": prompt, "subject": subject, "target_new": target}

    def to_dict(self) -> dict[str, Any]:
        """All fields that are set, as plain JSON values."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        values["messages"] = tuple(message._asdict() for message in self.messages)
        return {name: value for name, value in values.items() if value not in (None, (), "")}

    @classmethod
    def from_dict(cls, values: dict[str, Any], where: str = "request") -> EditRequest:
        """The request a JSON object describes; another value, an unknown or a missing field is a `RequestError`."""
        if not isinstance(values, dict):
            raise RequestError(f"{where}: it is a {type(values).__name__}. A request is an object with named fields.")
        known = {f.name for f in fields(cls)}
        unknown = [str(name)[:40] for name in values if name not in known]
        missing = [name for name in _required("messages" in values) if name not in values]
        if unknown or missing:
            raise RequestError(
                f"{where}: unknown fields {unknown[:5]}, missing fields {missing}. "
                f"A request has the fields {', '.join(sorted(known))}."
            )
        return cls(**values)

    def resolved_id(self, rule: TextRule = TextRule.kept) -> str:
        """The idempotency key: the given id, or the digest of the canonical request."""
        return self.id or canonical_digest(self.canonical(rule))[:16]

    def _where(self) -> str:
        names = [name[:40] for name in (self.id, self.subject) if isinstance(name, str) and name.strip()]
        return f"request {names[0]!r}" if names else "request"


def statement_of(prompt: str, subject: str) -> tuple[str, str]:
    """Prompt and subject without the blanks that end the question: they ask for the same answer otherwise written."""
    prompt = prompt.rstrip()
    return prompt, subject.rstrip() if prompt.endswith(SUBJECT_SLOT) else subject


def with_slot(prompt: str, subject: str) -> str:
    """The prompt with ``{}`` where the subject stands in it, as a word, in the same capitals; one with ``{}`` as it is.

    Raises `RequestError`, which begins with the reason and a colon, when there is no such place or more than one.
    """
    if SUBJECT_SLOT in subject:
        raise RequestError(f"the subject holds {{}}: {subject[:80]!r}. Write the subject itself.")
    if SUBJECT_SLOT in prompt or not subject.strip():  # an empty subject is the request's to refuse
        return prompt
    shown = f"{subject[:80]!r} in {prompt[:200]!r}"
    pieces = prompt.split(subject)
    around = [(subject.join(pieces[:n]), subject.join(pieces[n:])) for n in range(1, len(pieces))]
    places = [(head, tail) for head, tail in around if not LETTER.match(head[-1:]) and not LETTER.match(tail[:1])]
    if len(places) == 1:
        return SUBJECT_SLOT.join(places[0])
    if places:
        raise RequestError(f"the subject stands in the prompt twice: {shown}. Write {{}} for the one that is meant.")
    if around:
        raise RequestError(f"the subject is part of a longer word: {shown}. Write {{}} in its place.")
    if subject.casefold() in prompt.casefold():
        raise RequestError(f"the subject has other capitals in the prompt: {shown}. Write them alike.")
    raise RequestError(
        f"the subject is not in the prompt: {shown}. Write {{}} where it goes, or the text it has there."
    )


def parted(statement: str) -> tuple[str, str] | None:
    """A true statement as a prompt and its answer, the last word; None where blanks part no word off."""
    prompt, _, word = statement.strip().rstrip(".!").rpartition(" ")
    return (prompt.rstrip(), word) if prompt.strip() and word else None


def canonical_json(value: Any) -> str:
    """One text for one value: sorted keys, no blanks, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def canonical_digest(value: Any) -> str:
    """SHA-256 of the canonical JSON, as 64 hex digits."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def distinct(requests: Iterable[EditRequest]) -> list[EditRequest]:
    """The batch as a list; `RequestError` when two requests carry the same id."""
    batch = list(requests)
    for number, request in enumerate(batch):
        if not isinstance(request, EditRequest):
            raise RequestError(f"item {number} of the batch is a {type(request).__name__}. Give EditRequest objects.")
    seen: dict[str, EditRequest] = {}
    for request in batch:
        other = seen.setdefault(request.resolved_id(), request)
        if other is not request:
            raise RequestError(
                f"request id {request.resolved_id()!r} stands twice in the batch "
                f"({other.statement[0][:60]!r} and {request.statement[0][:60]!r}). Give each request its own id."
            )
    return batch


def _required(told_in_messages: bool) -> tuple[str, ...]:
    """The fields that a request cannot be without."""
    return tuple(name for name in REQUIRED if not (told_in_messages and name == "prompt"))


def _messages(request: EditRequest, listed: object) -> tuple[Message, ...]:
    """The messages of a list of objects or pairs."""
    if not isinstance(listed, (list, tuple)) or len(listed) > MAX_MESSAGES:
        raise RequestError(f"{request._where()}: messages must be a list of at most {MAX_MESSAGES} messages.")
    found = []
    for told in listed:
        own = tuple(map(told.get, Message._fields)) if isinstance(told, dict) else told
        if not isinstance(own, tuple) or len(own) != 2 or (isinstance(told, dict) and len(told) != 2):
            raise RequestError(
                f"{request._where()}: one of the messages is no object of a role and a content. "
                'Write {"role": "user", "content": "..."}.'
            )
        _check_text(request, "a role in messages", own[0])
        _check_characters(request, "a content in messages", own[1])  # an empty one may stand: no system prompt
        found.append(Message(*own))
    return tuple(found)


def _frozen(value: Any, depth: int) -> Any:
    """Lists, and the lists in them down to `depth`, as tuples."""
    return tuple(_frozen(v, depth - 1) for v in value) if depth and isinstance(value, (list, tuple)) else value


def _check_texts(request: EditRequest, name: str) -> None:
    """A list of what `LISTS` says."""
    listed: object = getattr(request, name)
    if not isinstance(listed, tuple) or not all(_shape(item) in LISTS[name] for item in listed):
        raise RequestError(f"{request._where()}: {name} must be a list of {' or '.join(LISTS[name])}.")
    limit, use = (MAX_WORDINGS, "written") if name == "wordings" else (MAX_TEXTS, "measured after every edit")
    if len(listed) > limit:
        raise RequestError(
            f"{request._where()}: {name} has {len(listed)} items, the limit is {limit}. "
            f"Each of them is {use}; keep the telling ones."
        )
    for text in (text for item in listed for text in (item if isinstance(item, tuple) else (item,))):
        _check_text(request, name, text)


def _shape(item: object) -> str | None:
    """What an item makes its list a list of; whether a text is one is checked where its error says more."""
    return TEXTS if not isinstance(item, tuple) else PAIRS if len(item) == 2 else None


def _check_text(request: EditRequest, name: str, text: object) -> None:
    _check_characters(request, name, text)
    if isinstance(text, str) and not text.strip():
        raise RequestError(f"{request._where()}: {name} is empty. Give the {name.replace('_', ' ')}.")


def _check_characters(request: EditRequest, name: str, text: object) -> None:
    if not isinstance(text, str):
        raise RequestError(f"{request._where()}: {name} must be a text, not {type(text).__name__}.")
    limit = LIMITS.get(name, MAX_PROMPT)
    if len(text) > limit:  # before anything that reads the whole text
        raise RequestError(
            f"{request._where()}: {name} has {len(text)} characters, the limit is {limit}. "
            "An edit writes one short statement, not a text; shorten it."
        )
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise RequestError(
            f"{request._where()}: {name} holds a lone surrogate at character {error.start + 1}; "
            "it is not valid Unicode. Decode the source as UTF-8."
        ) from None
    if control := CONTROL.search(text):
        raise RequestError(
            f"{request._where()}: {name} holds the control character {control.group()!r} at character "
            f"{control.start() + 1}. Remove it."
        )


def _check_slot(request: EditRequest, name: str, prompt: str) -> None:
    if prompt.count(SUBJECT_SLOT) != 1:
        raise RequestError(
            f"{request._where()}: {name} must hold {{}} exactly once, where the subject goes: "
            f"{prompt[:80]!r}. Write the subject's place as {{}}."
        )


def _check_wordings(request: EditRequest) -> None:
    """Every wording adds a text to write, and none is scored: a score of what was written would say nothing new."""
    answered = (prompt for prompt, _ in (*request.neighbours, *request.attribute_prompts))
    scored = *request.paraphrase_prompts, *answered, *request.generation_prompts
    endings = [f" {_spelt(prompt)}" for prompt in scored]
    written = {_spelt(request.question): "the prompt itself"} if request.prompt else {}
    for wording in request.wordings:
        _check_slot(request, "each of the wordings", wording)
        text = _spelt(wording.replace(SUBJECT_SLOT, request.subject))
        if text in written:
            raise RequestError(
                f"{request._where()}: one of the wordings, {wording[:80]!r}, is {written[text]}. Leave it out."
            )
        written[text] = "there twice"
        # Behind a sentence, as CounterFact puts its paraphrases, it is still the text that was written.
        if measured := next((prompt for prompt in endings if prompt.endswith(f" {text}")), None):
            raise RequestError(
                f"{request._where()}: one of the wordings, {wording[:80]!r}, stands in {measured[1:81]!r}, which "
                "measures the edit. Leave one of the two out: a score of a prompt that was written says nothing new."
            )


def _spelt(text: str) -> str:
    """The text in one spelling of blanks and capitals, in which two prompts are compared."""
    return " ".join(text.split()).casefold()
