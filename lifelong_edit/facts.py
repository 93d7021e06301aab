"""What a user asks for: edit requests, checked and canonical before anything is computed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Any

from lifelong_edit.errors import RequestError

MAX_PROMPT = 2_000
MAX_TARGET = 200
MAX_NAME = 500  # of a subject or an id
SUBJECT_SLOT = "{}"


@dataclass(frozen=True, slots=True)
class EditRequest:
    """One fact to write, in CounterFact's terms.

    `prompt` holds ``{}`` once, where the subject goes, and ends where the target begins; `target_new` is the
    wanted continuation without its leading space. The other texts are only used to measure the edit:
    `paraphrase_prompts` and `attribute_prompts` are whole prompts about the subject, `neighborhood_prompts` are
    prompts about other subjects whose answer is `target_true`.

    Raises `RequestError` on construction when a text is empty, too long, not valid Unicode, holds control
    characters, or when the prompt has no single ``{}``.
    """

    prompt: str
    subject: str
    target_new: str
    target_true: str | None = None
    id: str | None = None
    paraphrase_prompts: tuple[str, ...] = ()
    neighborhood_prompts: tuple[str, ...] = ()
    attribute_prompts: tuple[tuple[str, str], ...] = ()
    generation_prompts: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("prompt", "subject", "target_new"):
            _check_text(self, name, getattr(self, name))
        for name in ("target_true", "id"):
            if getattr(self, name) is not None:
                _check_text(self, name, getattr(self, name))
        for name in ("paraphrase_prompts", "neighborhood_prompts", "attribute_prompts", "generation_prompts"):
            object.__setattr__(self, name, _frozen(getattr(self, name)))
            _check_texts(self, name, 2 if name == "attribute_prompts" else None)
        if self.prompt.count(SUBJECT_SLOT) != 1:
            raise RequestError(
                f"{self._where()}: the prompt must hold {{}} exactly once, where the subject goes: "
                f"{self.prompt[:80]!r}. Write the subject's place as {{}}."
            )
        if len(self.prompt) > MAX_PROMPT:
            raise RequestError(
                f"{self._where()}: the prompt has {len(self.prompt)} characters, the limit is {MAX_PROMPT}. "
                "Shorten it to the sentence that states the fact."
            )
        for name in ("subject", "id"):
            if len(getattr(self, name) or "") > MAX_NAME:
                raise RequestError(f"request about {self.subject[:40]!r}: {name} has more than {MAX_NAME} characters.")
        for name in ("target_new", "target_true"):
            target = getattr(self, name)
            if target is not None and len(target) > MAX_TARGET:
                raise RequestError(
                    f"{self._where()}: {name} has {len(target)} characters, the limit is {MAX_TARGET}. "
                    "An edit writes a short answer, not a text."
                )

    @property
    def question(self) -> str:
        """The prompt with the subject in its place, without trailing blanks."""
        return self.prompt.replace(SUBJECT_SLOT, self.subject).rstrip()

    @property
    def subject_start(self) -> int:
        """Character offset of the subject inside `question`."""
        return self.prompt.index(SUBJECT_SLOT)

    def canonical(self) -> dict[str, Any]:
        """The fields that say what is edited, in one spelling: what the id is a digest of."""
        return {
            "prompt": self.prompt.rstrip(),
            "subject": self.subject,
            "target_new": self.target_new.strip(),
        }

    def to_dict(self) -> dict[str, Any]:
        """All fields that are set, as plain JSON values."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return {name: value for name, value in values.items() if value not in (None, ())}

    @classmethod
    def from_dict(cls, values: dict[str, Any], where: str = "request") -> EditRequest:
        """The request a JSON object describes; an unknown or missing field is a `RequestError`."""
        known = {f.name for f in fields(cls)}
        unknown = sorted(set(values) - known)
        missing = sorted({"prompt", "subject", "target_new"} - set(values))
        if unknown or missing:
            raise RequestError(
                f"{where}: unknown fields {unknown}, missing fields {missing}. "
                f"A request has the fields {', '.join(sorted(known))}."
            )
        return cls(**values)

    def resolved_id(self) -> str:
        """The idempotency key: the given id, or the digest of the canonical request."""
        return self.id or canonical_digest(self.canonical())[:16]

    def _where(self) -> str:
        name = self.id or (self.subject[:40] if isinstance(self.subject, str) else "?")
        return f"request {name!r}"


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
                f"({other.question[:60]!r} and {request.question[:60]!r}). Give each request its own id."
            )
    return batch


def _frozen(value: Any) -> Any:
    """Lists, and lists in them, as tuples."""
    return tuple(map(_frozen, value)) if isinstance(value, (list, tuple)) else value


def _check_texts(request: EditRequest, name: str, size: int | None) -> None:
    """A list of texts, or with `size` a list of groups of so many texts."""
    listed: object = getattr(request, name)
    groups = (listed,) if size is None else listed
    if not isinstance(groups, tuple) or not all(isinstance(g, tuple) and size in (None, len(g)) for g in groups):
        kind = "a list of texts" if size is None else f"a list of lists of {size} texts"
        raise RequestError(f"{request._where()}: {name} must be {kind}, not {str(listed)[:60]!r}.")
    for text in (text for group in groups for text in group):
        _check_text(request, name, text)


def _check_text(request: EditRequest, name: str, text: object) -> None:
    if not isinstance(text, str):
        raise RequestError(f"{request._where()}: {name} must be a text, not {type(text).__name__}.")
    if not text.strip():
        raise RequestError(f"{request._where()}: {name} is empty. Give the {name.replace('_', ' ')}.")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise RequestError(
            f"{request._where()}: {name} holds a lone surrogate at character {error.start}; "
            "it is not valid Unicode. Decode the source as UTF-8."
        ) from None
    if any(ord(c) < 32 and c not in "\n\t" for c in text):
        raise RequestError(f"{request._where()}: {name} holds a control character. Remove it.")
