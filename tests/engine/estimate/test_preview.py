"""A preview says what the commits then do, and does nothing."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import pytest
import torch

from lifelong_edit.algebra.system import Columns
from lifelong_edit.algebra.telemetry import collisions
from lifelong_edit.datasets.jsonl import MAX_LINE, SourcedRequest, micro_batches, read_requests
from lifelong_edit.engine import LifelongEditor
from lifelong_edit.engine.estimate.preview import Preview
from lifelong_edit.engine.estimate.sources import survey
from lifelong_edit.errors import RequestError
from lifelong_edit.facts import EditRequest
from lifelong_edit.kinds.kernel import forecast
from lifelong_edit.model.tokens import encode
from lifelong_edit.tracking.generation import answer
from lifelong_edit.tracking.scores import score_continuations
from tests.engine.editors import WORK, edited
from tests.samples import REQUESTS

OTHER = EditRequest("{} was born in", "Ada Quill", "Oran", id="other")  # contradicts "ada"
NAMES = [f"Dr {letter}el" for letter in "ABCDEFGHIJKLMNOPQRSTUVWXYZ"]
LATER = [*REQUESTS[3:], OTHER, WORK]


def lines_of(requests: Sequence[EditRequest]) -> bytes:
    return "".join(json.dumps(request.to_dict()) + "\n" for request in requests).encode()


def planned(editor: LifelongEditor, data: bytes, size: int | None = None) -> Preview:
    rows = survey(io.BytesIO(data), "rows.jsonl")
    batches = [list(rows.requests)] if size is None else list(micro_batches(rows.requests, size))
    return editor.preview(rows, batches)


@pytest.fixture
def editor(tmp_path: Path) -> LifelongEditor:
    return edited(tmp_path / "store", [REQUESTS[:3]])


@pytest.mark.parametrize("memory", ["joint", "batch"])
def test_the_commits_do_what_was_foretold(tmp_path: Path, memory: str) -> None:
    editor = edited(tmp_path / "store", [REQUESTS[:3]], memory=memory)
    found = planned(editor, lines_of([REQUESTS[0], *LATER]), size=3)
    before, size = len(editor.history()), sum(f.stat().st_size for f in editor.store.layout.objects.rglob("*"))
    done = [editor.apply(batch) for batch in ([REQUESTS[0], *LATER[:2]], LATER[2:])]
    assert [(c.write, c.skipped, c.superseded) for c in found.commits] == [
        (tuple(fact.id for fact in commit.facts), commit.skipped, commit.superseded) for commit in done
    ]
    entries = editor.history()[before:]
    assert found.columns == sum(len(entry.body["columns"]) for entry in entries)
    (shared,) = found.shared
    assert set(shared) == {"other", "work"}
    for weight, read in editor.telemetry().items():
        now, after = found.capacity[weight]
        assert after == pytest.approx(read.capacity, rel=1e-6) and 0 < now < after
    grown = sum(f.stat().st_size for f in editor.store.layout.objects.rglob("*")) - size
    assert found.cost is not None and found.cost.seconds > 0
    assert grown / 3 < found.cost.disk < 3 * grown  # at this size half of a file is its header


def test_nothing_is_changed(editor: LifelongEditor) -> None:
    head, weights = editor.head, [p.clone() for p in editor.model.parameters()]
    planned(editor, lines_of(LATER), size=2)
    assert editor.head == head and all(
        torch.equal(now, then) for now, then in zip(editor.model.parameters(), weights, strict=True)
    )


def test_every_bad_row_is_found_with_its_line(editor: LifelongEditor) -> None:
    used = EditRequest("{} lives in", "Bo Lund", "Oran", id="ada")
    strange = EditRequest("{} lives in", "\u2603\u2603", "Oran", id="strange")
    rows = [b"{}\n", lines_of(REQUESTS[3:4]), b"\n", b"nonsense\n", lines_of([used, REQUESTS[3], strange, REQUESTS[4]])]
    found = planned(editor, b"".join(rows))
    assert [row.line for row in found.bad][:4] == [1, 4, 5, 6] and found.rows == 7
    reasons = [row.reason for row in found.bad]
    assert "missing fields" in reasons[0] and "not JSON" in reasons[1] and "used at seq 1" in reasons[2]
    assert "shares its id with line 2" in reasons[3] and not any("rows.jsonl" in reason for reason in reasons)
    assert {fact.id: fact.line for fact in found.facts if fact.id != "strange"} == {"norvik": 2, "ana": 8}
    assert [(r.line, r.first, r.shares) for r in found.repeats] == [(6, 2, "id")]


def test_what_contradicts_an_active_fact_or_an_earlier_row_is_told(editor: LifelongEditor) -> None:
    again = EditRequest("{} was born in", "Ada Quill", "Tarsis", id="again")
    found = planned(editor, lines_of([OTHER, again]), size=10)
    assert [(c.line, c.fact, c.superseded, c.was, c.target) for c in found.contradictions] == [
        (1, "other", "ada", "Marn", "Oran"),
        (2, "again", "other", "Oran", "Tarsis"),
    ]


def test_the_token_is_the_last_of_the_subject_and_what_is_said_already_is_told(editor: LifelongEditor) -> None:
    answers = {name: answer(editor.editable, f"{name} was born in", length=1) for name in NAMES}
    pairs = [(f"{name} was born in", said) for name, said in answers.items()]
    scores = score_continuations(editor.model, editor.editable.tokenizer, pairs)
    name, said = next(pair for pair, score in zip(answers.items(), scores, strict=True) if score.argmax)
    new = EditRequest("{} was born in", name, said, id="new")
    found = planned(editor, lines_of([new, REQUESTS[4]]))
    assert found.facts[0].said and found.said[0].id == "new"
    encoded = encode(editor.editable.tokenizer, new)
    assert found.facts[0].position == encoded.subject_last and name.endswith(found.facts[0].token.strip())


def test_near_keys_are_those_that_the_commit_has(editor: LifelongEditor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forecast, "collisions", partial(collisions, limit=0.0))
    found = planned(editor, lines_of(REQUESTS[3:5]))
    editor.apply(REQUESTS[3:5])
    layer = next(iter(editor.state.layers.values()))
    names = [min(placed.value.facts) for placed in layer.placed]
    expected = {(names[c.earlier], names[c.later]): c.cosine for c in collisions(layer.whole, names, 0.0, start=3)}
    assert {(pair.earlier, pair.later): pair.cosine for pair in found.near} == pytest.approx(expected, rel=1e-6)
    assert [abs(pair.cosine) for pair in found.near] == sorted((abs(c) for c in expected.values()), reverse=True)
    assert all(0 < pair.apart < 1 for pair in found.near)


def test_the_ridge_holds_back_what_tells_two_near_values_apart() -> None:
    """With C = I and keys of length one, the difference of two values goes through as e / (e + ridge), e = 1 - cos."""
    keys = torch.tensor([[1.0, 0.999], [0.0, (1 - 0.999**2) ** 0.5]], dtype=torch.float64)
    wanted = torch.tensor([[1.0, -1.0]], dtype=torch.float64)
    pair = Columns(keys, keys, wanted, torch.full((2,), 0.5, dtype=torch.float64), ("a", "b"))
    written = wanted @ torch.linalg.solve(keys.T @ keys + pair.ridge.diag(), keys.T) @ keys
    assert forecast._apart(pair) == pytest.approx(written[0, 0].item(), rel=1e-9)
    assert forecast._apart(Columns(keys, keys, wanted, torch.zeros(2).double(), ("a", "b"))) == 1.0


def test_a_survey_of_a_sound_source_is_what_an_editor_reads() -> None:
    data = lines_of(REQUESTS) + b"\n" + lines_of([OTHER])
    rows = survey(io.BytesIO(data), "rows.jsonl")
    assert rows.bad == () and list(rows.requests) == list(read_requests(io.BytesIO(data), "rows.jsonl"))


def test_a_line_that_is_too_long_is_one_bad_row() -> None:
    data = b"x" * (3 * MAX_LINE) + b"\n" + lines_of(REQUESTS[:1]) + b"x" * (2 * MAX_LINE)
    rows = survey(io.BytesIO(data), "rows.jsonl")
    assert [row.line for row in rows.bad] == [1, 3] and [sourced.line for sourced in rows.requests] == [2]


def test_a_method_that_cannot_take_the_batch_is_refused(editor: LifelongEditor) -> None:
    rows = survey(io.BytesIO(lines_of(LATER)), "rows.jsonl")
    with pytest.raises(RequestError, match="rome edits 1 fact at a time"):
        editor.preview(rows, [list(rows.requests)], "rome")


def test_rows_that_are_all_known_cost_nothing(editor: LifelongEditor) -> None:
    row = SourcedRequest(REQUESTS[0], "rows.jsonl", 1)
    found = editor.preview(survey(io.BytesIO(lines_of(REQUESTS[:1])), "rows.jsonl"), [[row]])
    assert found.cost is None and found.columns == 0 and found.near == ()
    assert all(now == after for now, after in found.capacity.values())


def test_progress_counts_to_the_end(editor: LifelongEditor) -> None:
    rows, told = survey(io.BytesIO(lines_of(LATER)), "rows.jsonl"), list[tuple[int, int]]()
    editor.preview(rows, [list(rows.requests)], progress=lambda done, wanted: told.append((done, wanted)))
    assert told[-1] == (len(LATER), len(LATER))


def test_a_store_without_facts_has_room_for_all(tmp_path: Path) -> None:
    editor = edited(tmp_path / "store", [])
    found = planned(editor, lines_of(REQUESTS))
    assert {now for now, _ in found.capacity.values()} == {0.0} and len(found.facts) == len(REQUESTS)
