"""Second moments of the edited weights' inputs over any local text: budgeted, resumable, and named by their causes."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from itertools import islice

import torch

from lifelong_edit.algebra.second_moment import RunningSecondMoment
from lifelong_edit.errors import RequestError
from lifelong_edit.facts import canonical_digest
from lifelong_edit.model.editable import EditableModel
from lifelong_edit.model.hooks import captured
from lifelong_edit.model.tokens import right_padded

TEXTS_PER_PASS = 32


@dataclass(frozen=True, slots=True)
class StatisticsSettings:
    """Stop after `tokens` tokens; every text is cut at `max_length` tokens.

    A key of more than `outlier` times the median mass |k|^2 is counted as if it had that much, for a layer may give the
    first token of every text a key 300,000 times as heavy as others; None counts every key as it is.
    """

    tokens: int = 200_000
    max_length: int = 256
    outlier: float | None = 32.0

    def __post_init__(self) -> None:
        if self.tokens < 1 or self.max_length < 1:
            raise RequestError(f"Second moments need at least one token and one token a text, not {self}.")
        if self.outlier is not None and not 1 <= self.outlier < float("inf"):
            raise RequestError(f"An outlier is a key of at least once the median mass, or None, not {self.outlier}.")


@dataclass(frozen=True)
class Collected:
    """Sums so far, a running moment to each layer, and how many texts went into them: all that resuming needs."""

    moments: dict[int, RunningSecondMoment]
    texts: int

    @property
    def tokens(self) -> int:
        return next(iter(self.moments.values())).count


def statistics_key(fingerprint: str, layer: int, text_digest: str, settings: StatisticsSettings) -> str:
    """The name of a second moment: a digest of everything its value depends on."""
    return canonical_digest({"model": fingerprint, "layer": layer, "text": text_digest, **asdict(settings)})


def digest_of(texts: Iterable[str]) -> str:
    """SHA-256 over the texts in order."""
    digest = hashlib.sha256()
    for number, text in enumerate(texts):
        try:
            data = text.encode()
        except UnicodeEncodeError as error:
            raise RequestError(
                f"text {number} holds a lone surrogate at character {error.start}. Decode it as UTF-8."
            ) from None
        digest.update(len(data).to_bytes(8, "big") + data)
    return digest.hexdigest()


def begin(editable: EditableModel, layers: Sequence[int]) -> Collected:
    """Nothing collected yet."""
    return Collected({layer: RunningSecondMoment(editable.shape(layer)[1]) for layer in sorted(layers)}, 0)


@torch.no_grad()
def collect(
    editable: EditableModel, texts: Iterable[str], settings: StatisticsSettings, start: Collected
) -> Iterator[Collected]:
    """Go on from `start` through `texts` (all of them, from the first), and tell how far it is after every pass.

    The forward pass ends at the highest layer wanted. Keep any value it yields to resume there; the last one is the
    result. Raises `RequestError` when the texts hold no token.
    """
    state, rest = start, iter(texts)
    for _ in islice(rest, start.texts):
        pass
    top = max(start.moments)
    while state.tokens < settings.tokens:
        batch = list(islice(rest, TEXTS_PER_PASS))
        if not batch:
            break
        kept = editable.tokenizer(
            batch, truncation=True, max_length=min(settings.max_length, editable.context_length)
        ).input_ids
        state = Collected(state.moments, state.texts + len(batch))
        _add(editable, [ids for ids in kept if ids], state, top, settings)
        yield state
    if state.tokens == 0:
        raise RequestError("The text for the second moments holds no token. Give a file with some text in it.")


def _add(
    editable: EditableModel, rows: Sequence[Sequence[int]], state: Collected, top: int, settings: StatisticsSettings
) -> None:
    """Count every token of `rows` at every layer, up to the budget; the first rows decide what an outlier is."""
    if not rows:
        return
    ids, mask = (padded.to(editable.device) for padded in right_padded(rows))
    with ExitStack() as stack:
        seen = {layer: stack.enter_context(captured(editable.write(layer))) for layer in state.moments}
        with editable.stop_after(top):
            editable.model(input_ids=ids, attention_mask=mask)
    for layer, moment in state.moments.items():
        keys = seen[layer].input[mask.bool()][: settings.tokens - moment.count]  # [n, d_in]
        if moment.count == 0 and settings.outlier is not None:
            moment.bound = settings.outlier * keys.double().square().sum(dim=1).median().item()
        moment.add(keys)
