"""What is refused is refused before anything changed: neither in the store nor in the model."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from lifelong_edit.engine import LifelongEditor
from lifelong_edit.errors import RequestError, StoreError, StoreReadOnly
from lifelong_edit.model.fingerprint import fingerprint
from tests.engine.editors import BATCHES, LAND, WORK, base_model, edited
from tests.reliability.audit import contents
from tests.samples import REQUESTS

Act = Callable[[LifelongEditor], object]
CHANGES: dict[str, Act] = {
    "apply": lambda editor: editor.apply([LAND]),
    "apply what is known": lambda editor: editor.apply(REQUESTS[:1]),
    "protect": lambda editor: editor.protect([LAND]),
    "replace": lambda editor: editor.replace("emile", "Oran"),
    "revert": lambda editor: editor.revert("emile"),
    "revert and rewrite": lambda editor: editor.revert("ada"),
    "revert a commit": lambda editor: editor.revert(commit=1),
    "revert to": lambda editor: editor.revert(to=1),
    "restore": lambda editor: editor.restore("norvik"),
    "measure": lambda editor: editor.measure(),
}
AT_THE_HEAD: dict[str, Act] = {
    **CHANGES,
    "preview": lambda editor: editor.preview_revert("ada"),
    "blame": lambda editor: editor.blame("Ada Quill was born in"),
}
NEED_A_WRITER: dict[str, Act] = {**CHANGES, "tag": lambda editor: editor.tag("mine"), "gc": lambda editor: editor.gc()}
NAMES: dict[str, tuple[str, Act]] = {
    "no fact": ("Name the facts", lambda editor: editor.revert()),
    "two ways": ("Name the facts", lambda editor: editor.revert("ada", to=1)),
    "twice": ("each once", lambda editor: editor.revert("ada", "ada")),
    "unknown": ("'nobody' is unknown", lambda editor: editor.revert("ada", "nobody")),
    "a short beginning": ("'emi' is unknown", lambda editor: editor.revert("emi")),
    "unknown replaced": ("'nobody' is unknown", lambda editor: editor.replace("nobody", "Oran")),
    "reverted before": ("'norvik' is reverted since seq 4", lambda editor: editor.revert("ada", "norvik")),
    "superseded before": ("'bo' is superseded since seq 5", lambda editor: editor.revert("bo")),
    "reverted replaced": ("'norvik' is reverted since", lambda editor: editor.replace("norvik", "Oran")),
    "superseded replaced": ("'bo' is superseded since", lambda editor: editor.replace("bo", "Oran")),
    "active restored": ("'ada' is active since seq 1", lambda editor: editor.restore("norvik", "ada")),
    "nothing restored": ("Name the facts", lambda editor: editor.restore()),
    "unknown restored": ("unknown", lambda editor: editor.restore("norvik", "nobody")),
    "no commit": ("names no entry", lambda editor: editor.revert(commit=99)),
    "a commit of nothing": ("wrote no fact", lambda editor: editor.revert(commit=4)),
    "to the head": ("nothing to revert", lambda editor: editor.revert(to=5)),
    "an empty target": ("target", lambda editor: editor.replace("ada", " ")),
    "a bad request": ("supersedes", lambda editor: editor.apply([LAND, replace(LAND, id="x", target_new="Marn")])),
    "previewed": ("'nobody' is unknown", lambda editor: editor.preview_revert("nobody")),
}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store in which norvik is reverted, bo superseded, and ada older than work in one slot."""
    root = tmp_path_factory.mktemp("refusals") / "store"
    with edited(root, [*BATCHES[:2], [WORK]]) as editor:
        editor.revert("norvik")
        editor.replace("bo", "Marn")
    return root


@contextmanager
def unchanged(editor: LifelongEditor, root: Path) -> Iterator[None]:
    before = contents(root), fingerprint(editor.editable), editor.head, editor.facts()
    yield
    assert (contents(root), fingerprint(editor.editable), editor.head, editor.facts()) == before


@pytest.mark.parametrize(("told", "act"), NAMES.values(), ids=NAMES)
def test_what_is_wrongly_named_changes_nothing(told: str, act: Act, root: Path) -> None:
    with (
        LifelongEditor.open(root, base_model()) as editor,
        unchanged(editor, root),
        pytest.raises(RequestError, match=told),
    ):
        act(editor)


@pytest.mark.parametrize("act", AT_THE_HEAD.values(), ids=AT_THE_HEAD)
def test_away_from_the_head_nothing_is_changed(act: Act, root: Path) -> None:
    with LifelongEditor.open(root, base_model()) as editor:
        editor.checkout(2)
        with unchanged(editor, root), pytest.raises(RequestError, match=r"shows seq 2.*checkout\(\)"):
            act(editor)


@pytest.mark.parametrize("act", NEED_A_WRITER.values(), ids=NEED_A_WRITER)
def test_a_reader_changes_nothing(act: Act, root: Path) -> None:
    with (
        LifelongEditor.open(root, base_model(), read_only=True) as reader,
        unchanged(reader, root),
        pytest.raises(StoreReadOnly),
    ):
        act(reader)


@pytest.mark.parametrize("act", CHANGES.values(), ids=CHANGES)
def test_without_a_model_nothing_is_changed(act: Act, root: Path) -> None:
    before = contents(root)
    with LifelongEditor.open(root) as reader, pytest.raises(RequestError, match="without a model"):
        act(reader)
    assert contents(root) == before


MODEL_NEEDED: dict[str, Act] = {
    "preview": lambda reader: reader.preview_revert("ada"),
    "at": lambda reader: reader.at(1),
    "checkout": lambda reader: reader.checkout(1),
    "diff": lambda reader: reader.diff(0, 1),
    "blame": lambda reader: reader.blame("Ada"),
    "model": lambda reader: reader.model,
}


@pytest.mark.parametrize("act", MODEL_NEEDED.values(), ids=MODEL_NEEDED)
def test_what_needs_the_model_says_so(act: Act, root: Path) -> None:
    with LifelongEditor.open(root) as reader, pytest.raises(RequestError, match="without a model"):
        act(reader)


@pytest.mark.parametrize("act", CHANGES.values(), ids=CHANGES)
def test_a_closed_editor_changes_nothing(act: Act, root: Path) -> None:
    with LifelongEditor.open(root, base_model()) as editor:
        pass
    with unchanged(editor, root), pytest.raises(StoreError, match="closed"):
        act(editor)


def test_a_refusal_does_not_stand_in_the_way_of_the_next_change(root: Path, tmp_path: Path) -> None:
    with LifelongEditor.open(shutil.copytree(root, tmp_path / "store"), base_model()) as editor:
        for told, act in NAMES.values():
            with pytest.raises(RequestError, match=told):
                act(editor)
        assert editor.revert("ada").rewritten == ("work",)
        assert editor.verify(replay=True).problems == ()
