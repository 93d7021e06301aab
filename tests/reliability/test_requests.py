"""Goal 14: whatever stands on a line of edit requests, it is a valid request or refused with the line's number."""

from __future__ import annotations

import io
import json
import sys
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any
from unicodedata import category

import pytest
from hypothesis import example, given, seed, settings
from hypothesis import strategies as st

from lifelong_edit.datasets.jsonl import MAX_LINE, micro_batches, read_requests
from lifelong_edit.errors import RequestError
from lifelong_edit.facts import MAX_PROMPT, MAX_TARGET, EditRequest, canonical_json

pytestmark = pytest.mark.reliability
SEED = 14
LINES = 2_000
NAMES = ("prompt", "subject", "target_new", "target_true", "id")
LISTS = ("paraphrase_prompts", "neighborhood_prompts", "generation_prompts")
HEAD = b'{"prompt": "{} is in", "subject": "Ada", "target_new": "Oran"}\n\n'  # two lines before the one in question
FACT = {"prompt": "{} was born in", "subject": "Ada Quill", "target_new": "Marn"}


def written(**changes: Any) -> bytes:
    return json.dumps({**FACT, **changes}).encode()


def replaced(old: str, new: str) -> bytes:
    """The plain request with one place of its spelling changed; a lone surrogate is written as its three bytes."""
    return json.dumps(FACT).replace(old, new).encode("utf-8", "surrogatepass")


ACCEPTED = {
    "plain": written(),
    "crlf": written() + b"\r\n",
    "blanks around": b" \t" + written() + b"  ",
    "escaped pair": replaced("Ada", r"\ud83d\ude00 Ada"),
    "not ascii": replaced("Ada", "Ève 李 😀"),
    "other braces": written(prompt="{0} {x.__class__} {!r} %s ${y} {} was {{"),
    "braces in braces": written(prompt="{{}} was born in"),
    "braces of the subject": written(subject="{} {0.__class__}"),
    "blank before the target": written(prompt="{} was born in ", target_new=" Marn "),
    "prompt at its limit": written(prompt="{}" + "x" * (MAX_PROMPT - 2)),
    "target at its limit": written(target_new="x" * MAX_TARGET),
    "null for a text that may lack": written(target_true=None, id=None),
    "all fields": written(target_true="Oran", id="r-1", paraphrase_prompts=["Ada"], attribute_prompts=[["Ada", "x"]]),
    "neighbour with its own answer": written(neighborhood_prompts=["Bo was born in", ["Ana was born in", "Oran"]]),
    "braces in a wording": written(wordings=["{0} {x.__class__} {} %s ${y} {{"]),
}
REFUSED = {  # line, and what its error says
    "bad utf-8": (b'{"prompt": "\xff"}', "not UTF-8"),
    "latin-1": (replaced("Ada", "Éva").decode().encode("latin-1"), "not UTF-8"),
    "overlong utf-8": (b'{"prompt": "\xc0\x80"}', "not UTF-8"),
    "surrogate in utf-8": (replaced("Ada", "\ud800"), "not UTF-8"),
    "cut in a character": (replaced("Marn", "é").rpartition(b"\xa9")[0], "not UTF-8"),
    "utf-16": (written().decode().encode("utf-16"), "not UTF-8"),
    "utf-16 without a mark": (written().decode().encode("utf-16-le"), "not JSON"),
    "byte order mark": (b"\xef\xbb\xbf" + written(), "byte order mark"),
    "only a byte order mark": (b"\xef\xbb\xbf", "byte order mark"),
    "escaped surrogate": (replaced("Ada", r"\ud800"), "lone surrogate"),
    "escaped pair the wrong way": (replaced("Marn", r"\udc00\ud800"), "lone surrogate"),
    "surrogate as a field": (replaced('{"prompt"', r'{"\ud800": "x", "prompt"'), "unknown fields"),
    "nul": (replaced("Ada", "\0"), "control character"),
    "nul between": (replaced(", ", ",\0"), "not JSON"),
    "escaped nul": (replaced("Ada", r"A\u0000da"), r"control character '\x00'"),
    "escaped carriage return": (replaced("Marn", r"Marn\r"), r"control character '\r'"),
    "escape of a terminal": (replaced("Ada", r"\u001b[2J"), "control character"),
    "eight-bit escape of a terminal": (replaced("Ada", r"\u009b2J"), "control character"),
    "delete": (replaced("Ada", "\x7f"), "control character"),
    "nan": (replaced('"Marn"', "NaN"), "NaN is not JSON"),
    "infinity": (replaced('"Marn"', "-Infinity"), "-Infinity is not JSON"),
    "number beyond float": (replaced('"Marn"', "1e999"), "must be a text"),
    "number": (written(subject=3), "must be a text"),
    "number of 5,000 digits": (replaced('"Marn"', "1" * 5_000), "must be a text"),
    "true": (written(target_new=True), "must be a text"),
    "null": (written(prompt=None), "must be a text"),
    "list for a text": (written(prompt=["{} is"]), "must be a text"),
    "object for a text": (written(subject={"name": "Ada"}), "must be a text"),
    "number for an id": (written(id=7), "must be a text"),
    "text for a list": (written(paraphrase_prompts="Ada"), "must be a list of texts"),
    "object for a list": (written(generation_prompts={}), "must be a list of texts"),
    "null for a list": (written(neighborhood_prompts=None), "must be a list of texts"),
    "list in a list": (written(paraphrase_prompts=[["Ada"]]), "must be a text"),
    "texts for groups": (written(attribute_prompts=["Ada", "x"]), "lists of 2 texts"),
    "neighbour of three": (written(neighborhood_prompts=[["Bo", "x", "y"]]), "must be a list of texts or lists of 2"),
    "group of three": (written(attribute_prompts=[["Ada", "x", "y"]]), "lists of 2 texts"),
    "too many paraphrases": (written(paraphrase_prompts=["a"] * 9_000), "9000 items"),
    "nested 30,000 deep": (b"[" * 30_000 + b"]" * 30_000, "nested too deeply"),
    "objects nested 9,000 deep": (b'{"a":' * 9_000 + b"1" + b"}" * 9_000, "nested too deeply"),
    "nested 500 deep": (
        written()[:-1] + b', "attribute_prompts": ' + b"[" * 500 + b"]" * 500 + b"}",
        "lists of 2 texts",
    ),
    "field twice": (replaced('"subject"', '"subject": "Bo", "subject"'), "'subject' stands twice"),
    "field twice, once escaped": (replaced('"subject"', r'"subjec\u0074": "Bo", "subject"'), "'subject' stands twice"),
    "field twice further in": (written(extra={}).replace(b"{}}", b'{"a": 1, "a": 2}}'), "'a' stands twice"),
    "unknown field": (written(target="Marn"), "unknown fields ['target']"),
    "4,000 unknown fields": (written(**{f"f{n}": n for n in range(4_000)}), "unknown fields ['f0'"),
    "missing field": (b'{"prompt": "{} is", "subject": "Ada"}', "missing fields ['target_new']"),
    "no field": (b"{}", "missing fields ['prompt', 'subject', 'target_new']"),
    "list": (b"[" + written() + b"]", "it is a list"),
    "text": (b'"{} was born in"', "it is a str"),
    "null alone": (b"null", "it is a NoneType"),
    "no slot": (written(prompt="Ada was born in"), "exactly once"),
    "two slots": (written(prompt="{} and {} are in"), "exactly once"),
    "slot with a number": (written(prompt="{0} was born in"), "exactly once"),
    "wording without a slot": (written(wordings=["Ada is from"]), "each of the wordings must hold {} exactly once"),
    "wording that is scored": (written(wordings=["{} is"], paraphrase_prompts=["Ada Quill is"]), "measures the edit"),
    "wording with a control character": (written(wordings=["{} \x1b"]), "wordings holds the control character"),
    "text for wordings": (written(wordings="{} is from"), "must be a list of texts"),
    "too many wordings": (written(wordings=["{} is"] * 21), "21 items, the limit is 20"),
    "empty prompt": (written(prompt=""), "prompt is empty"),
    "empty target": (written(target_new=""), "target_new is empty"),
    "blank target": (written(target_new=" \n\t"), "target_new is empty"),
    "target of other blanks": (written(target_new="\u3000\u00a0\u2028"), "target_new is empty"),
    "blank subject": (written(subject=" "), "subject is empty"),
    "empty id": (written(id=""), "id is empty"),
    "id on two lines": (written(id="r\n1"), "on one line"),
    "id with a blank at its end": (written(id="r-1 "), "on one line"),
    "prompt too long": (written(prompt="{}" + "x" * (MAX_PROMPT - 1)), "the limit is 2000"),
    "target too long": (written(target_new="x" * (MAX_TARGET + 1)), "the limit is 200"),
    "subject too long": (written(subject="x" * 501), "the limit is 500"),
    "line too long": (written().ljust(MAX_LINE + 1), "65536 bytes"),
    "cut": (written()[:-1], "not JSON"),
    "two objects": (written() + written(), "not JSON"),
    "comma behind": (written() + b",", "not JSON"),
    "comma at the end": (written()[:-1] + b",}", "not JSON"),
    "comment": (b"// " + written(), "not JSON"),
    "single quotes": (b"{'prompt': '{}'}", "not JSON"),
    "bad escape": (replaced("Ada", r"\x41da"), "not JSON"),
    "csv": (b"{} was born in,Ada Quill,Marn", "not JSON"),
}

TEXTS = st.one_of(
    st.sampled_from(["{} is in", "Ada", " ", "", "{}{}", "{0}", "x" * 201, "{}" + "x" * 2_000]),
    st.text(st.characters(exclude_categories=[]), max_size=20),
)
VALUES = st.recursive(
    TEXTS | st.none() | st.booleans() | st.integers() | st.floats(), lambda v: st.lists(v) | st.dictionaries(TEXTS, v)
)
SOUND_TEXTS = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=40).filter(
    lambda text: text.strip() and "{}" not in text
)
SOUND_PAIRS = st.lists(SOUND_TEXTS, min_size=2, max_size=2)
SOUND = st.fixed_dictionaries(
    {"prompt": SOUND_TEXTS.map("{{}} {}".format), "subject": SOUND_TEXTS, "target_new": SOUND_TEXTS},
    optional={
        "target_true": SOUND_TEXTS | st.none(),
        "id": SOUND_TEXTS.map(lambda text: " ".join(text.split())),
        **dict.fromkeys(LISTS, st.lists(SOUND_TEXTS, max_size=4)),
        "attribute_prompts": st.lists(SOUND_PAIRS, max_size=3),
        "neighborhood_prompts": st.lists(SOUND_TEXTS | SOUND_PAIRS, max_size=4),
        "wordings": st.lists(
            SOUND_TEXTS.map("In other words, {{}} {}".format),
            max_size=3,
            unique_by=lambda text: " ".join(text.split()).casefold(),
        ),
    },
)


@st.composite
def objects(draw: st.DrawFn) -> bytes:
    """A sound request with some fields of any value."""
    wrong = draw(
        st.dictionaries(st.sampled_from([*FACT, *NAMES, *LISTS, "attribute_prompts", "wordings"]) | TEXTS, VALUES)
    )
    text = json.dumps({**draw(SOUND), **wrong}, ensure_ascii=draw(st.booleans()))
    return text.encode("utf-8", "surrogatepass")


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A sound request with some bytes replaced by others."""
    line = written(**draw(SOUND))
    for _ in range(draw(st.integers(1, 3))):
        at, size = draw(st.integers(0, len(line))), draw(st.integers(0, 4))
        line = line[:at] + draw(st.binary(max_size=4)) + line[at + size :]
    return line


def outcome(line: bytes) -> str:
    """What comes of a line behind two good ones; fails when that is neither a valid request nor a located error."""
    try:
        found = list(read_requests(io.BytesIO(HEAD + line), "edits.jsonl"))
    except RequestError as error:
        message = str(error)
        assert message.startswith("edits.jsonl:3: ") and len(message) < 1_000, message
        assert message.encode() and message.isprintable(), ascii(message)
        with pytest.raises(RequestError):  # the good request before it is not given away alone
            next(micro_batches(read_requests(io.BytesIO(HEAD + line), "edits.jsonl"), 3))
        return "refused"
    if len(found) == 1:
        assert not line.strip()
        return "blank"
    assert [each.where for each in found] == ["edits.jsonl:1", "edits.jsonl:3"]
    check_request(found[1].request, json.loads(line))
    return "accepted"


def check_request(request: EditRequest, said: dict[str, Any]) -> None:
    """The request is what the line says, nothing dropped, changed or let through."""
    kept = json.loads(canonical_json(request.to_dict()).encode())
    expected = {name: value for name, value in said.items() if value not in (None, [])}
    assert kept == {**expected, "id": said.get("id") or request.id}
    assert EditRequest.from_dict(kept) == request
    for prompt in (request.prompt, *request.wordings):
        assert prompt.count("{}") == 1 and len(prompt) <= MAX_PROMPT
    assert request.question[request.subject_start :].startswith(request.subject.rstrip())
    assert request.target_new.strip() and len(request.target_new) <= MAX_TARGET
    assert request.id and request.id.strip() == request.id
    assert not any(category(c) in ("Cc", "Cs") and c not in "\t\n" for text in texts_of(kept) for c in text)


def texts_of(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    else:
        for inner in value.values() if isinstance(value, dict) else value:
            yield from texts_of(inner)


@pytest.mark.parametrize("name", ACCEPTED)
def test_a_line_that_looks_odd_is_accepted(name: str) -> None:
    assert outcome(ACCEPTED[name]) == "accepted"


@pytest.mark.parametrize("name", REFUSED)
def test_a_malformed_line_is_refused_for_what_it_is(name: str) -> None:
    line, reason = REFUSED[name]
    assert outcome(line) == "refused"
    with pytest.raises(RequestError) as caught:
        list(read_requests([line], "edits.jsonl"))
    assert reason in str(caught.value)


def test_generated_lines_are_requests_or_refused() -> None:
    counts: Counter[str] = Counter()

    @seed(SEED)
    @settings(max_examples=LINES, database=None)
    @given(objects() | damaged() | st.binary(max_size=200) | VALUES.map(lambda value: json.dumps(value).encode()))
    @example(b"")
    def check(line: bytes) -> None:
        counts[outcome(line.replace(b"\n", b" "))] += 1

    @seed(SEED)
    @settings(max_examples=LINES // 4, database=None)
    @given(SOUND, st.booleans())
    def check_sound(values: dict[str, Any], ascii_only: bool) -> None:
        assert outcome(json.dumps(values, ensure_ascii=ascii_only).encode()) == "accepted"
        counts["sound"] += 1

    check()
    check_sound()
    generated = counts["refused"] + counts["accepted"] + counts["blank"]
    assert generated >= LINES and counts["sound"] >= LINES // 4
    assert counts["refused"] > LINES // 4 and counts["accepted"] > LINES // 40
    print(
        f"goal 14: seed {SEED}, {generated} generated lines: {counts['accepted']} requests, {counts['refused']} "
        f"refused with their line, {counts['blank']} blank, 0 otherwise; {counts['sound']} sound ones all accepted; "
        f"corpus of {len(ACCEPTED)} odd and {len(REFUSED)} malformed lines"
    )


def test_a_prompt_of_a_megabyte_is_refused_unread() -> None:
    prompt = "{} " + "x" * 1_000_000
    stream = io.BytesIO(written(prompt=prompt))
    begun = time.perf_counter()
    with pytest.raises(RequestError, match=r"^edits.jsonl:1: .*65536 bytes"):
        list(read_requests(stream, "edits.jsonl"))
    read = time.perf_counter()
    with pytest.raises(RequestError, match=r"1000003 characters, the limit is 2000"):
        EditRequest(prompt, "Ada", "Marn")
    made = time.perf_counter()
    assert stream.tell() <= MAX_LINE + 2
    print(
        f"goal 14: 1 MB prompt refused in {(read - begun) * 1e3:.2f} ms from a line, {(made - read) * 1e3:.2f} ms made"
    )


def test_nesting_is_refused_whatever_the_depth() -> None:
    for depth in range(1, sys.getrecursionlimit() + 50, 7):
        deep = b"[" * depth + b"]" * depth
        assert outcome(written()[:-1] + b', "attribute_prompts": [' + deep + b"]}") == "refused"
        assert outcome(deep) == "refused"
