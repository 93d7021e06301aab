"""Where a subject ends and what a target's ids are, for every kind of tokenizer."""

from __future__ import annotations

from functools import lru_cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import normalizers

from lifelong_edit.errors import RequestError
from lifelong_edit.facts import EditRequest, TextRule
from lifelong_edit.model.tokens import Texts, continuation, encode, slot_ids, slot_key
from tests.models import TOKENIZERS, byte_level, sentence_piece

BYTES = [name for name in TOKENIZERS if name != "sentence_piece"]  # those without an unknown token
tokenizer_named = lru_cache(maxsize=None)(lambda name: TOKENIZERS[name]())

CASES = [  # prefix, prompt, subject, the text up to the subject's end
    ("", "{} was born in", "Ada Quill", "Ada Quill"),
    ("", "The mother tongue of {} is", "Ada Quill", "The mother tongue of Ada Quill"),
    ("", "Where does {}", "Bo Lund", "Where does Bo Lund"),
    ("", "Norvik moved. In 1912 {} moved", "Norvik", "Norvik moved. In 1912 Norvik"),
    ("Ada Quill lives. ", "Ada, {}'s mother, Ada Quill", "Ada Quill", "Ada Quill lives. Ada, Ada Quill"),
    ("He said: ", "{} works in", "Émile Zorn", "He said: Émile Zorn"),
    ("", "{}, he lives", "Ana María Díaz", "Ana María Díaz"),
    ("", "the {} river", " Ösel ", "the  Ösel"),
    ("", "{}", "Tarsis", "Tarsis"),
]
EMOJI = [
    ("", "{} was born in", "😀", "😀"),
    ("I. ", "is {}? He", "Ada 😀", "I. is Ada 😀"),
    ("", "is {}😀😀", "a😀", "is a😀"),
    ("", "is ({}), 東京", "東京 é", "is (東京 é"),
]


@pytest.fixture(params=TOKENIZERS)
def tokenizer(request):
    return tokenizer_named(request.param)


def ids_of(tokenizer, text):
    """The whole text's ids without what the tokenizer puts behind it."""
    ids = tokenizer(text)["input_ids"]
    return ids[:-1] if ids[-1] == tokenizer.eos_token_id else ids


def check(tokenizer, prefix, prompt, subject, until):
    request = EditRequest(prompt=prompt, subject=subject, target_new="Tarsis")
    encoded = encode(tokenizer, request, prefix=prefix)
    text = prefix + request.question
    assert list(encoded.prompt_ids) == ids_of(tokenizer, text)
    if not text.endswith(" "):  # one that ends the prompt stays its token, where the whole text has it in " Tarsis"
        assert list(encoded.ids) == ids_of(tokenizer, text + TextRule.kept.answered(text, "Tarsis"))
    spans = tokenizer(text, return_offsets_mapping=True)["offset_mapping"]
    first, last = spans[encoded.subject_last]
    assert first < len(until) <= last
    behind = spans[encoded.subject_last + 1 : encoded.prompt_length]
    assert all(first >= len(until) for first, _ in behind)


@pytest.mark.parametrize("case", CASES)
def test_the_subjects_last_token_covers_its_last_character(tokenizer, case):
    check(tokenizer, *case)


@pytest.mark.parametrize("name", BYTES)
@pytest.mark.parametrize("case", EMOJI)
def test_characters_of_several_tokens_end_with_the_last_of_them(name, case):
    check(tokenizer_named(name), *case)


names = st.text(st.characters(exclude_categories=("C", "Z")), min_size=1, max_size=8)
subjects = st.lists(names, min_size=1, max_size=3).map(" ".join)


@settings(max_examples=60)
@given(st.sampled_from(BYTES), subjects, st.sampled_from(["{} was", "is {}", "({}) in", "In {}, {}{}"]), st.booleans())
def test_any_subject_is_found(name, subject, prompt, prefixed):
    prompt = prompt.replace(", {}{}", f", {subject.replace('{}', '')}", 1)
    request = EditRequest(prompt=prompt, subject=subject, target_new="Tarsis")
    prefix = f"{subject} lives. " if prefixed else ""
    until = (prefix + request.question)[: len(prefix) + request.subject_start + len(subject)]
    check(tokenizer_named(name), prefix, prompt, subject, until)


@settings(max_examples=60)
@given(st.sampled_from(BYTES), subjects)
def test_a_target_has_one_space_however_it_is_spelled(name, target):
    tokenizer = tokenizer_named(name)
    request = EditRequest(prompt="{} was born in", subject="Ada Quill", target_new=target)
    encoded = encode(tokenizer, request)
    assert list(encoded.ids) == ids_of(tokenizer, f"Ada Quill was born in {target.strip()}")
    assert encode(tokenizer, request, target=f" {target} ") == encoded
    whole, prompt = (tokenizer.decode(ids, skip_special_tokens=True) for ids in (encoded.ids, encoded.prompt_ids))
    assert whole.encode() == f"{prompt} {target.strip()}".encode()


def test_the_same_words_have_the_same_ids_after_any_prompt(tokenizer):
    targets = [continuation(tokenizer, text, "Tarsis") for text in ("Ada was born in", "In 1912", "He", "Bo?")]
    assert all(ids == targets[0] for ids in targets)
    assert tokenizer.bos_token_id not in targets[0] and tokenizer.eos_token_id not in targets[0]


@pytest.mark.parametrize("name", BYTES)
@pytest.mark.parametrize(
    ("prompt", "target", "between"),
    [
        ("Town of {}:\n", "Tarsis", ""),
        ("Town of {}:", "Tarsis", " "),
        ("Town of {}:", "\nTarsis", ""),
        ("{} lives in ", "Tarsis", ""),
        ('{} is from "', "Tarsis", ""),
        ("{} (1912)", "Tarsis", " "),
        ("{}出生于", "Tarsis", ""),
    ],
)
def test_prompt_and_target_are_the_users_texts(name, prompt, target, between):
    tokenizer, request = tokenizer_named(name), EditRequest(prompt, "Ada Quill", target)
    encoded = encode(Texts(tokenizer), request)
    assert encode(tokenizer, request) == encoded  # a bare tokenizer has the rule of new stores
    assert list(encoded.prompt_ids) == ids_of(tokenizer, request.question)
    whole, asked = (tokenizer.decode(ids, skip_special_tokens=True) for ids in (encoded.ids, encoded.prompt_ids))
    assert whole == asked + between + target


def test_the_rule_of_old_stores_drops_blanks_and_puts_one(tokenizer):
    old = Texts(tokenizer, TextRule.stripped)
    plain = encode(tokenizer, EditRequest("Town of {}:", "Ada Quill", "Tarsis"))
    for prompt, target in (("Town of {}:\n", "Tarsis"), ("Town of {}: ", "\n Tarsis ")):
        request = EditRequest(prompt, "Ada Quill", target)
        assert encode(old, request) == plain


class Merging:
    """A tokenizer with one token that reaches over the border of prompt and target."""

    unk_token_id = None

    def __call__(self, text, **_):
        pieces = text.replace("in Tarsis", "\0").replace(". Oran", "\1").replace("in Oran", "\1")
        ids = [ord(piece) for piece in pieces]
        spans = [(i, i + 1) for i in range(len(ids))]
        return {"input_ids": ids, "offset_mapping": spans, "special_tokens_mask": [0] * len(ids)}


def test_a_token_over_the_border_leaves_the_prompt_its_own_ids():
    request = EditRequest(prompt="{} was in", subject="Ada", target_new="Tarsis")
    encoded = encode(Merging(), request)
    assert encoded.prompt_ids == tuple(map(ord, "Ada was in"))
    assert encoded.target_ids == tuple(map(ord, " Tarsis"))
    with pytest.raises(RequestError, match="no tokens of its own"):
        encode(Merging(), request, target="Oran")


def test_a_slot_is_the_ids_up_to_the_subject(tokenizer):
    def slot(prompt, target="Tarsis"):
        return slot_ids(encode(tokenizer, EditRequest(prompt=prompt, subject="Ada Quill", target_new=target)))

    assert slot("{} was born in") == slot("{} works in", "Oran")
    assert slot("{} was born in") != slot("In 1912 {} works in")
    keys = {slot_key(slot("{} was born in")), slot_key(slot("{} works in")), slot_key(slot("Is {} in"))}
    assert len(keys) == 2 and all(len(key) == 64 for key in keys)


def test_slot_keys_keep_ids_apart():
    assert slot_key((1, 23)) != slot_key((12, 3)) != slot_key((123,))


@pytest.mark.parametrize("subject", ["😀", "Ada 😀", "\u200b"])
def test_a_subject_the_tokenizer_does_not_know_is_refused(subject):
    with pytest.raises(RequestError, match="subject"):
        encode(sentence_piece(), EditRequest(prompt="is {} in", subject=subject, target_new="Tarsis"))


def test_a_subject_that_vanishes_is_refused():
    tokenizer = byte_level()
    tokenizer.backend_tokenizer.normalizer = normalizers.Replace("x", "")
    with pytest.raises(RequestError, match="subject"):
        encode(tokenizer, EditRequest(prompt="is {} in", subject="xx", target_new="Tarsis"))
    with pytest.raises(RequestError, match="target"):
        encode(tokenizer, EditRequest(prompt="is {} in", subject="Ada", target_new="xx"))


def test_a_target_the_tokenizer_does_not_know_is_refused():
    with pytest.raises(RequestError, match="target"):
        encode(sentence_piece(), EditRequest(prompt="{} in", subject="Ada", target_new="😀"))


def test_a_prompt_longer_than_the_context_is_refused(tokenizer):
    request = EditRequest(prompt="{} in" + " in" * 50, subject="Ada", target_new="Tarsis")
    length = len(encode(tokenizer, request).ids)
    assert len(encode(tokenizer, request, max_length=length).ids) == length
    with pytest.raises(RequestError, match=f"has {length} tokens, the model takes {length - 1}"):
        encode(tokenizer, request, max_length=length - 1)
