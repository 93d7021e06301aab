"""A request as token ids: where its subject ends, where its prompt ends, which ids its target has."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from lifelong_edit.errors import RequestError
from lifelong_edit.facts import EditRequest
from lifelong_edit.text_rule import TextRule

NEUTRAL_CONTEXT = "."
REMEMBERED = 1_024  # texts, a few hundred bytes each


@dataclass(frozen=True, slots=True)
class Encoded:
    """A prompt and its target: `ids` holds the prompt's ids, then the target's."""

    ids: tuple[int, ...]
    subject_last: int  # index of the subject's last token
    prompt_length: int  # in tokens, specials in front included

    @property
    def prompt_ids(self) -> tuple[int, ...]:
        return self.ids[: self.prompt_length]

    @property
    def target_ids(self) -> tuple[int, ...]:
        return self.ids[self.prompt_length :]


class Texts:
    """A tokenizer under a text rule, which remembers the last texts: one edit asks for the same one dozens of times."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, rule: TextRule = TextRule.kept) -> None:
        self.unk_token_id = tokenizer.unk_token_id
        self.rule = rule
        self._tokenizer = tokenizer
        self._known: OrderedDict[str, tuple[list[int], list[tuple[int, int]]]] = OrderedDict()

    def tokens(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        """What `tokens` gives; the lists are the caller's own."""
        try:
            ids, spans = self._known.pop(text)
        except KeyError:
            ids, spans = tokens(self._tokenizer, text)
        self._known[text] = ids, spans  # at the end, where it is forgotten last
        if len(self._known) > REMEMBERED:
            self._known.popitem(last=False)
        return list(ids), list(spans)


Tokenizer = PreTrainedTokenizerBase | Texts


def encode(
    tokenizer: Tokenizer,
    request: EditRequest,
    target: str | None = None,
    prefix: str = "",
    max_length: int | None = None,
) -> Encoded:
    """`prefix` + the request's question + `target` (by default the request's own) as token ids, under the text rule.

    The prompt's ids are the tokenizer's own, with its BOS and without anything it puts after the text. The target's
    ids are those `continuation` gives; the two are concatenated and never decoded. `RequestError` when the tokenizer
    leaves nothing of the subject or the target, or when all is longer than `max_length` tokens.
    """
    target = request.target_new if target is None else target
    text = prefix + rule_of(tokenizer).asked(request.question)
    ids, spans = tokens(tokenizer, text)
    start = len(prefix) + request.subject_start
    subject_last = _last_inside(tokenizer, request, ids, spans, start)
    target_ids = continuation(tokenizer, text, target)
    if max_length is not None and len(ids) + len(target_ids) > max_length:
        raise RequestError(
            f"{text[:60]!r} with its target has {len(ids) + len(target_ids)} tokens, the model takes {max_length}. "
            "Shorten the prompt."
        )
    return Encoded(tuple(ids + target_ids), subject_last, len(ids))


def rule_of(tokenizer: Tokenizer) -> TextRule:
    """The rule of the texts; a bare tokenizer has that of new stores."""
    return tokenizer.rule if isinstance(tokenizer, Texts) else TextRule.kept


def continuation(tokenizer: Tokenizer, text: str, target: str) -> list[int]:
    """The ids of `target` as a continuation of `text`, with a blank before it where the text rule puts one.

    They are what the whole text has after the ids of `text`: nothing is tokenised at the start of a text, so no
    tokenizer adds a BOS or a second space. Where the whole text does not begin with the ids of `text` (a token reaches
    over the border), the same is done behind a neutral context, and the prompt keeps its own ids.
    """
    answer = rule_of(tokenizer).answered(text, target)
    blanks = len(answer) - len(answer.lstrip())
    for context in (text, NEUTRAL_CONTEXT):
        head, (whole, spans) = tokens(tokenizer, context)[0], tokens(tokenizer, context + answer)
        if whole[: len(head)] == head:
            ids, written = whole[len(head) :], any(last > len(context) + blanks for _, last in spans[len(head) :])
            return _known(tokenizer, ids if written else [], target)
    raise RequestError(f"The target {target[:60]!r} has no tokens of its own after {text[-40:]!r}. Reword it.")


def slot_ids(encoded: Encoded) -> tuple[int, ...]:
    """The ids up to and including the subject's last token; those of the bare prompt name the slot of a fact."""
    return encoded.ids[: encoded.subject_last + 1]


def slot_key(ids: Sequence[int]) -> str:
    """SHA-256 of the token ids, as 64 hex digits."""
    return hashlib.sha256(" ".join(map(str, ids)).encode()).hexdigest()


def tokens(tokenizer: Tokenizer, text: str) -> tuple[list[int], list[tuple[int, int]]]:
    """Ids and character spans as the tokenizer has them, without the specials it puts after the text."""
    if isinstance(tokenizer, Texts):
        return tokenizer.tokens(text)
    encoding = tokenizer(
        text, return_offsets_mapping=True, return_special_tokens_mask=True, truncation=False, verbose=False
    )
    ids, spans, special = encoding["input_ids"], encoding["offset_mapping"], encoding["special_tokens_mask"]
    end = max((i + 1 for i, added in enumerate(special) if not added), default=0)
    return list(ids[:end]), list(spans[:end])


def _last_inside(
    tokenizer: Tokenizer,
    request: EditRequest,
    ids: list[int],
    spans: list[tuple[int, int]],
    start: int,
) -> int:
    """Index of the last token that covers a character of the subject, which begins at character `start`.

    A span may include the space before a word or leave it out, and may be shared by the several tokens of one
    character; specials and bare spaces may have empty ones.
    """
    end = start + len(request.subject.rstrip())
    start += len(request.subject) - len(request.subject.lstrip())
    inside = [i for i, (first, last) in enumerate(spans) if first < end and last > start]
    if not inside or tokenizer.unk_token_id in (ids[i] for i in inside):
        raise RequestError(
            f"The tokenizer has no tokens for the subject {request.subject[:60]!r} in {request.question[:60]!r}. "
            "Spell it with characters the model knows: unknown ones make different subjects look the same."
        )
    return inside[-1]


def _known(tokenizer: Tokenizer, ids: list[int], target: str) -> list[int]:
    if not ids or tokenizer.unk_token_id in ids:
        raise RequestError(
            f"The tokenizer has no tokens for the target {target[:60]!r}. Spell it with characters the model knows."
        )
    return ids
