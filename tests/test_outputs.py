"""An output is there whole or not at all, and never in place of what is not ours."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from lifelong_edit.errors import RequestError, StoreError
from lifelong_edit.outputs import new_file, new_folder
from tests.obstacles import OTHERS, inventory

New = Callable[[Path], AbstractContextManager[Path]]


@pytest.mark.parametrize("make", OTHERS.values(), ids=OTHERS)
@pytest.mark.parametrize("new", [new_file, new_folder])
def test_what_somebody_else_has_there_stays(new: New, make: Callable[[Path], object], tmp_path: Path):
    make(tmp_path / "out")
    before = inventory(tmp_path)
    with pytest.raises(RequestError, match="is there already"), new(tmp_path / "out"):
        pytest.fail("nothing should be written")
    assert inventory(tmp_path) == before


@pytest.mark.parametrize("make", OTHERS.values(), ids=OTHERS)
@pytest.mark.parametrize("folder", [False, True], ids=["file", "folder"])
def test_what_comes_while_an_output_is_written_stays(folder: bool, make: Callable[[Path], object], tmp_path: Path):
    new = new_folder if folder else new_file
    with pytest.raises((RequestError, StoreError)), new(tmp_path / "out") as written:
        (written / "inner" if folder else written).write_text("ours")
        make(tmp_path / "out")
        before = {name: told for name, told in inventory(tmp_path).items() if "partial" not in name}
    assert inventory(tmp_path) == before


def test_an_output_is_whole_or_not_there(tmp_path: Path) -> None:
    with new_file(tmp_path / "made" / "file") as written:
        written.write_text("ours")
        assert not (tmp_path / "made" / "file").exists()
    (tmp_path / "made" / "folder").mkdir()  # an empty one gives way
    with new_folder(tmp_path / "made" / "folder") as filled:
        (filled / "inner").write_text("ours")
    before = inventory(tmp_path)
    assert {name for name, _ in before.items()} == {"made", "made/file", "made/folder", "made/folder/inner"}
    for new in (new_file, new_folder):
        with pytest.raises(ZeroDivisionError), new(tmp_path / "made" / "other"):
            raise ZeroDivisionError
    assert inventory(tmp_path) == before


def test_an_earlier_output_gives_way_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "page"
    for text in ("<page> one", "<page> two"):
        with new_file(path, earlier=b"<page>") as written:
            written.write_text(text)
    assert path.read_text() == "<page> two"
    path.write_text("<other>")
    with pytest.raises(RequestError, match="a file that is not written over"), new_file(path, earlier=b"<page>"):
        pytest.fail("nothing should be written")
    assert path.read_text() == "<other>"


@pytest.mark.parametrize("name", ["", ".", "/", "file/inner", "n" * 300])
@pytest.mark.parametrize("new", [new_file, new_folder])
def test_what_cannot_be_written_is_an_error_of_ours(new: New, name: str, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("kept")
    before = inventory(tmp_path)
    with pytest.raises((RequestError, StoreError), match=r"cannot be written|names no file"), new(Path(name)):
        pytest.fail("nothing should be written")
    assert inventory(tmp_path) == before


def test_a_file_system_without_links_takes_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_paths: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refused)
    with new_file(tmp_path / "out") as written:
        written.write_text("ours")
    assert (tmp_path / "out").read_text() == "ours"
    with pytest.raises(RequestError, match="is there already"), new_file(tmp_path / "late") as written:
        written.write_text("ours")
        (tmp_path / "late").write_text("kept")
    assert (tmp_path / "late").read_text() == "kept"
