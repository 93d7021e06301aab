"""Context prefixes: short texts that stand before a prompt, so that an edit holds behind other text as well.

They are sentences of the user's own text, or sampled from the base model. Drawn once per store from its seed and kept
in the ledger; a resumed run edits with the same ones. The published procedures (MEMIT, arXiv 2210.07229) sample them
anew in every process.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from heapq import nsmallest

import torch

from lifelong_edit.facts import canonical_digest
from lifelong_edit.model.editable import EditableModel
from lifelong_edit.model.tokens import tokens

OPENINGS = ("The", "Therefore", "Because", "I", "You")
TOKENS, CHOICES = 10, 50

SENTENCE_WORDS = range(5, 26)
WORD = r"[^\W_]+(?:['’-][^\W_]+|[.,]\d+)*"  # letters and digits: "don't", "well-known", "1,500"
SENTENCE = re.compile(rf"{WORD}(?:,? {WORD})*\.")
# A capitalised or short word before a full stop may be an abbreviation ("Mr.", "etc."): it ends no sentence.
SENTENCE_END = re.compile(r"([^\W\d_]{4,})[.!?][\"'”’)]*$")
# WikiText parts "well @-@ known", "Marn ," and "Ada 's" by blanks.
TOKENISED = ((re.compile(r" @(.)@ "), r"\1"), (re.compile(r" +(?=[,.;:!?]|'s\b|n't\b)"), ""))


@torch.no_grad()
def sample_contexts(editable: EditableModel, count: int, seed: int) -> tuple[str, ...]:
    """`count` prefixes of about ten sampled tokens, each ending in ``". "``; equal seeds give equal prefixes.

    Sampled on the CPU from the 50 likeliest tokens, so that the device does not matter.
    """
    rows = [tokens(editable.texts, OPENINGS[number % len(OPENINGS)])[0] for number in range(count)]
    generator, choices = torch.Generator().manual_seed(seed), min(CHOICES, int(editable.model.config.vocab_size))
    # Of tokens that wait for exponential times, at the rates of their probabilities, the first is drawn by these.
    waits = [[torch.empty(choices).exponential_(generator=generator) for _ in range(TOKENS)] for _ in rows]
    contexts = [""] * count
    for length in {len(row) for row in rows}:  # such rows are read together, and need no padding
        numbers = [number for number, row in enumerate(rows) if len(row) == length]
        ids = torch.tensor([rows[number] for number in numbers])
        for step in range(TOKENS):
            read = editable.model(input_ids=ids.to(editable.device), use_cache=False, logits_to_keep=1)
            best = read.logits[:, -1].float().cpu().topk(choices)
            own = torch.stack([waits[number][step] for number in numbers])
            drawn = (best.values.softmax(-1) / own).argmax(-1, keepdim=True)
            ids = torch.cat([ids, best.indices.gather(1, drawn)], dim=1)
        for number, row in zip(numbers, ids[:, length:], strict=True):
            sampled = str(editable.tokenizer.decode(row, skip_special_tokens=True))
            text = OPENINGS[number % len(OPENINGS)] + sampled
            contexts[number] = " ".join(text.replace("\ufffd", "").split()).rstrip(" .") + ". "
    return tuple(contexts)


def drawn_sentences(texts: Iterable[str], count: int, seed: int) -> tuple[str, ...]:
    """Draw `count` different sentences from the texts, or all of them when there are fewer; each ends in ``". "``.

    Only whole, plain sentences of 5 to 25 words are drawn: no markup, brackets or quotes. Equal seeds draw equal ones,
    whatever the order of the texts.
    """
    found = {sentence for text in texts for sentence in _sentences(text)}
    return tuple(f"{sentence} " for sentence in _drawn(found, count, [seed]))


def prefixes_for(pool: Sequence[str], slot_ids: tuple[int, ...], count: int) -> tuple[str, ...]:
    """Draw `count` prefixes of the pool for a slot (its token ids); all of the pool when it has no more than that.

    Equal slots get equal prefixes, whatever else is edited: the facts of a slot share them.
    """
    return tuple(pool) if len(pool) <= count else tuple(_drawn(pool, count, slot_ids))


def _drawn(choices: Iterable[str], count: int, seed: Sequence[int]) -> list[str]:
    """The `count` choices whose digests with the seed are smallest: a draw that does not depend on their order."""
    return nsmallest(count, choices, key=lambda choice: canonical_digest([*seed, choice]))


def _sentences(text: str) -> Iterator[str]:
    """The plain sentences of a text."""
    for tokenised, plain in TOKENISED:
        text = tokenised.sub(plain, text)
    words: list[str] = []
    for line in text.splitlines():
        # A line that does not go on in lower case may follow a heading or a list item: no sentence spans the two.
        if words and not line.lstrip()[:1].islower():
            words.append("\n")
        for word in line.split():
            words.append(word)
            if (end := SENTENCE_END.search(word)) and end[1].islower():
                sentence = " ".join(words)
                if len(words) in SENTENCE_WORDS and words[0][0].isupper() and SENTENCE.fullmatch(sentence):
                    yield sentence
                words = []
