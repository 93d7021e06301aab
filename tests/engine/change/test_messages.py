"""A request told in messages is kept as the text that was edited; what it is known by are its messages."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from lifelong_edit.editing.settings import EditorSettings
from lifelong_edit.engine import LifelongEditor
from lifelong_edit.engine.estimate.sources import survey
from lifelong_edit.errors import RequestError
from lifelong_edit.facts import EditRequest, Message
from lifelong_edit.store import Entry
from tests.engine.editors import base_model
from tests.samples import REQUESTS, TEXT, new_editor, write_requests

DATED = "[{{ today }}]\n{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '\n' }}{% endfor %}model: "
BORN = EditRequest(subject="Ada Quill", target_new="Marn", messages=(Message("user", "Where was {} born?"),))
LIVES = EditRequest(subject="Bo Lund", target_new="Oran", messages=(Message("user", "Where does {} live?"),), id="bo")


def on(editor: LifelongEditor, day: str) -> None:
    """The template as it renders on a day."""
    editor.kind.bench.tokenizer.chat_template = DATED.replace("{{ today }}", day)


@pytest.fixture
def editor(tmp_path: Path) -> Iterator[LifelongEditor]:
    with new_editor(tmp_path / "store", base_model()) as editor:
        on(editor, "Monday")
        yield editor


def requests_in(entry: Entry | None) -> list[dict[str, object]]:
    assert entry is not None
    return [fact["request"] for fact in entry.body["facts"] if isinstance(fact, dict)]


def test_the_ledger_has_the_text_and_needs_no_template(editor: LifelongEditor, tmp_path: Path) -> None:
    written = requests_in(editor.apply([BORN]).entry)
    prompt = "[Monday]\nuser: Where was {} born?\nmodel: "
    assert written == [{**BORN.to_dict(), "prompt": prompt, "messages": [BORN.messages[0]._asdict()]}]
    # The same text given as a prompt is the same edit, bit for bit.
    with new_editor(tmp_path / "other", base_model()) as other:
        other.apply([EditRequest(prompt, "Ada Quill", "Marn")])
        assert other.head.weights == editor.head.weights
    editor.kind.bench.tokenizer.chat_template = None
    (fact,) = editor.facts().values()
    assert fact.question == "[Monday]\nuser: Where was Ada Quill born?\nmodel: "
    (replaced,) = editor.replace(fact.id, "Oran").facts
    assert replaced.request == replace(fact.request, target_new="Oran")


def test_what_a_template_makes_of_messages_on_another_day_is_the_same_request(editor: LifelongEditor) -> None:
    (fact,) = editor.apply([BORN]).facts
    on(editor, "Tuesday")
    assert editor.apply([BORN]).skipped == (fact.id,)
    done = editor.apply([replace(BORN, target_new="Oran")])
    assert done.superseded == (fact.id,) and done.facts[0].question.startswith("[Tuesday]")


def test_a_stream_of_messages_is_planned_and_goes_on_where_it_was(editor: LifelongEditor, tmp_path: Path) -> None:
    source = write_requests(tmp_path / "chat.jsonl", [BORN, LIVES, replace(LIVES, target_new="Marn", id="later")])
    rows = survey(io.BytesIO(Path(source).read_bytes()), "chat.jsonl")
    found = editor.preview(rows, [list(rows.requests[:2]), list(rows.requests[2:])])
    assert [(f.line, f.question.splitlines()[1]) for f in found.facts] == [
        (1, "user: Where was Ada Quill born?"),
        (2, "user: Where does Bo Lund live?"),
        (3, "user: Where does Bo Lund live?"),
    ]
    done = list(editor.stream(source, batch=10, relax=0))
    assert [commit.superseded for commit in done] == [(), ("bo",)]  # one commit each: the later answers the same
    on(editor, "Tuesday")
    assert all(commit.entry is None for commit in editor.stream(source, batch=10, relax=0))


def test_without_a_template_nothing_is_written(editor: LifelongEditor) -> None:
    editor.kind.bench.tokenizer.chat_template = None
    head = editor.head
    with pytest.raises(RequestError, match=r"'bo'.*chat_template\.jinja"):
        editor.apply([REQUESTS[0], LIVES])
    assert editor.head == head and not editor.facts()


def test_a_store_can_be_made_to_protect_messages(tmp_path: Path) -> None:
    editable, settings = base_model(), EditorSettings(layers=(0,))
    editable.tokenizer.chat_template = DATED
    with LifelongEditor.create(tmp_path / "store", editable, settings, TEXT, protect=[LIVES]) as made:
        assert made.history()[0].body["protected"][0]["prompt"].startswith("[]\nuser: Where does {} live?")
