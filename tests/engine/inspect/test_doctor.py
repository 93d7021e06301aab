"""Doctor: it lists what is odd with advice, is content with a sound store, and changes nothing."""

from __future__ import annotations

import shutil
from collections import namedtuple
from pathlib import Path

import pytest
import torch

from lifelong_edit.engine import Reader
from lifelong_edit.engine.inspect.doctor import Finding
from lifelong_edit.model.fingerprint import fingerprint
from lifelong_edit.store.schema import FORMAT
from tests.engine.editors import base_model, edited
from tests.reliability.audit import contents
from tests.samples import REQUESTS
from tests.store.stores import old_store

Usage = namedtuple("Usage", "total used free")


def by_name(editor: Reader) -> dict[str, Finding]:
    found = editor.doctor()
    named = {finding.about: finding for finding in found}
    assert len(named) == len(found)
    return named


def test_a_sound_store_gets_no_advice_and_is_not_touched(tmp_path: Path) -> None:
    with edited(tmp_path / "store", [REQUESTS[:2]]) as editor:
        before = contents(tmp_path / "store"), fingerprint(editor.editable)
        found = by_name(editor)
        assert {finding.advice for finding in found.values()} == {""}
        assert found.keys() >= {"format", "torch", "machine", "threads", "strays", "disk", "base model"}
        assert (contents(tmp_path / "store"), fingerprint(editor.editable)) == before


def test_without_a_model_the_base_is_not_judged(tmp_path: Path) -> None:
    edited(tmp_path / "store", [REQUESTS[:2]]).close()
    with Reader.open(tmp_path / "store") as reader:
        assert "base model" not in by_name(reader)
    with Reader.open(tmp_path / "store", base_model(), read_only=True) as reader:
        assert by_name(reader)["base model"].advice == ""


def test_other_software_than_at_the_last_entry_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with edited(tmp_path / "store", [REQUESTS[:2]]) as editor:
        monkeypatch.setattr(torch, "get_num_threads", lambda: 99)
        monkeypatch.setattr("platform.machine", lambda: "pdp11")
        found = by_name(editor)
        assert {name for name, finding in found.items() if finding.advice} == {"machine", "threads"}
        assert "99 here" in found["threads"].found and "pdp11 here" in found["machine"].found


def test_files_of_a_crash_are_counted_and_gc_is_advised(tmp_path: Path) -> None:
    with edited(tmp_path / "store", [REQUESTS[:2]]) as editor:
        record = str(editor.head.record)
        stray = tmp_path / "store" / "objects" / record[:2] / f"{record[:2]}{'0' * 62}.safetensors"
        stray.write_bytes(b"12345")
        finding = by_name(editor)["strays"]
        assert finding.found.startswith("1 files of 5 bytes") and "gc" in finding.advice
        assert [found.path for found in editor.gc(dry_run=True)] == [stray] and stray.exists()
        assert [found.path for found in editor.gc()] == [stray] and not stray.exists()
        assert by_name(editor)["strays"].advice == ""


def test_a_disk_without_room_for_the_next_commits_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with edited(tmp_path / "store", [REQUESTS[:2], REQUESTS[2:3]]) as editor:
        objects = editor.store.objects
        largest = max(objects.path(str(entry.record)).stat().st_size for entry in editor.history()[1:])
        for free, advice in ((20 * largest, ""), (20 * largest - 1, "Make room.")):
            monkeypatch.setattr(shutil, "disk_usage", lambda _path, free=free: Usage(0, 0, free))
            assert by_name(editor)["disk"] == Finding("disk", f"{free} bytes free, largest record {largest}", advice)


def test_an_old_format_read_as_it_is_is_told(tmp_path: Path) -> None:
    with Reader.open(old_store(tmp_path / "store")) as reader:
        finding = by_name(reader)["format"]
        assert finding.found == f"format 1, this version writes {FORMAT}" and "next open for writing" in finding.advice


def test_a_missing_record_does_not_stop_it(tmp_path: Path) -> None:
    with edited(tmp_path / "store", [REQUESTS[:2]]) as editor:
        shutil.rmtree(tmp_path / "store" / "objects")
        assert "largest record 0" in by_name(editor)["disk"].found
