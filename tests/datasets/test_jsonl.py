"""A stream of requests is read lazily, named by what was read so far, and cut where a fact is superseded."""

from __future__ import annotations

import hashlib
import io
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lifelong_edit.datasets.jsonl import (
    MAX_LINE,
    SourcedRequest,
    micro_batches,
    open_source,
    read_requests,
    read_text,
    source_name,
)
from lifelong_edit.errors import RequestError
from lifelong_edit.facts import EditRequest, canonical_digest
from tests.obstacles import endless, in_memory_of


def line(subject: str = "Ada", target: str = "Marn", **more: object) -> bytes:
    return json.dumps({"prompt": "{} lives in", "subject": subject, "target_new": target, **more}).encode()


def read(data: bytes) -> list[SourcedRequest]:
    return list(read_requests(io.BytesIO(data), "edits.jsonl"))


def ids(data: bytes) -> list[str]:
    return [sourced.request.resolved_id() for sourced in read(data)]


def sourced(subject: str, id: str, number: int) -> SourcedRequest:
    return SourcedRequest(EditRequest("{} lives in", subject, f"Marn {number}", id=id), "edits.jsonl", number)


STREAMS = st.lists(st.tuples(st.sampled_from("abcd"), st.sampled_from("uvwxyz")), max_size=24).map(
    lambda pairs: [sourced(subject, id, number) for number, (subject, id) in enumerate(pairs)]
)


def test_requests_come_with_their_place_and_blank_lines_count() -> None:
    found = read(b"\n" + line("Ada", id="r-1") + b"\r\n \t\n" + line("Bo", paraphrase_prompts=["Bo is in"]))
    assert [(each.request.subject, each.where) for each in found] == [("Ada", "edits.jsonl:2"), ("Bo", "edits.jsonl:4")]
    assert found[0].request == EditRequest("{} lives in", "Ada", "Marn", id="r-1")
    assert found[1].request.paraphrase_prompts == ("Bo is in",)
    assert read(b"") == read(b"\n\n") == []


def test_nothing_is_read_ahead() -> None:
    class Endless(io.RawIOBase):
        lines = 0

        def readline(self, size: int | None = -1, /) -> bytes:
            self.lines += 1
            return line(f"Person {self.lines}") + b"\n"

    stream = Endless()
    batches = micro_batches(read_requests(stream, "<stdin>"), 3)
    assert [each.line for each in next(batches)] == [1, 2, 3] and stream.lines == 3
    assert [each.line for each in next(batches)] == [4, 5, 6] and stream.lines == 6


def test_a_line_arrives_through_a_pipe_that_stays_open() -> None:
    reading, writing = os.pipe()
    with open(reading, "rb") as stream, open(writing, "wb", buffering=0) as writer:
        requests = read_requests(stream, "<stdin>")
        for number in (1, 2):
            writer.write(line(f"Person {number}") + b"\n")
            assert next(requests).line == number


def test_a_long_line_is_refused_before_all_of_it_is_read() -> None:
    stream = io.BytesIO(line() + b"\n" + b"x" * 10 * MAX_LINE)
    with pytest.raises(RequestError, match=rf"^edits.jsonl:2: .*more than {MAX_LINE} bytes"):
        list(read_requests(stream, "edits.jsonl"))
    assert stream.tell() < 2 * MAX_LINE


@pytest.mark.parametrize("end", [b"", b"\n", b"\r\n"])
def test_a_line_of_the_longest_kind_is_read_with_any_end(end: bytes) -> None:
    longest = line().ljust(MAX_LINE)
    found = read(longest + end + (end and line("Bo")))
    assert [each.line for each in found] == ([1, 2] if end else [1])
    with pytest.raises(RequestError, match=r"^edits.jsonl:1: .*bytes"):
        read(longest + b" " + end)


def test_an_id_is_kept_or_made_as_promised() -> None:
    data = line(id="r-1") + b"\n\n" + line("Bo") + b"\n"
    canonical = {"prompt": "{} lives in", "subject": "Bo", "target_new": "Marn"}
    assert ids(data) == ["r-1", canonical_digest([canonical, hashlib.sha256(data).hexdigest(), 3])[:16]]


@given(st.lists(st.sampled_from([line("Ada"), line("Bo"), line("Ada", "Oran"), b"", b"  "]), max_size=8), st.data())
def test_ids_depend_on_what_was_read_so_far_and_nothing_else(lines: list[bytes], data: st.DataObject) -> None:
    whole = ids(b"\n".join(lines))
    part = data.draw(st.integers(0, len(lines)))
    assert ids(b"\n".join(lines[:part])) == whole[: sum(bool(each.strip()) for each in lines[:part])]
    assert ids(b"\r\n".join(lines) + b"\r\n") == whole
    for spelling in (lines, [each + b"\n" for each in lines]):
        named = [each.request.id for each in read_requests(spelling, "<stdin>")]
        assert named == whole
    assert len(set(whole)) == len(whole)


def test_a_changed_line_changes_the_ids_from_there_on() -> None:
    first, second, third = ids(line("Ada") + b"\n" + line("Bo") + b"\n" + line("Cy"))
    changed = ids(line("Ada") + b"\n" + line("Bo", "Oran") + b"\n" + line("Cy"))
    assert changed[0] == first and changed[1] != second and changed[2] != third


@pytest.mark.parametrize("item", ["{}", None, 3], ids=repr)
def test_lines_that_are_no_bytes_are_refused(item: object) -> None:
    with pytest.raises(RequestError, match=r"^edits:1: .*not bytes"):
        list(read_requests([item], "edits"))  # type: ignore[list-item]


def test_a_text_stream_is_refused() -> None:
    for text in ("", "{}\n"):
        with pytest.raises(RequestError, match=r"^edits:1: .*binary mode"):
            list(read_requests(io.StringIO(text), "edits"))  # type: ignore[arg-type]


def test_a_source_that_breaks_is_named_with_the_line() -> None:
    def broken() -> Iterator[bytes]:
        yield line()
        raise OSError(5, "Input/output error")

    requests = read_requests(broken(), "edits.jsonl")
    assert next(requests).line == 1
    with pytest.raises(RequestError, match=r"^edits.jsonl:2: .*Input/output error"):
        next(requests)


def test_a_file_is_opened_and_closed(tmp_path: Path) -> None:
    path = tmp_path / "edits.jsonl"
    path.write_bytes(line())
    with open_source(path) as stream:
        assert [each.where for each in read_requests(stream, source_name(path))] == ["edits.jsonl:1"]
    assert stream.closed
    with pytest.raises(OSError, match="the caller's"), open_source(str(path)):
        raise OSError("the caller's")


def test_standard_input_is_read_and_left_open(monkeypatch: pytest.MonkeyPatch) -> None:
    piped = io.TextIOWrapper(io.BytesIO(line()))
    monkeypatch.setattr(sys, "stdin", piped)
    with open_source("-") as stream:
        assert [each.where for each in read_requests(stream, source_name("-"))] == ["<stdin>:1"]
    assert not piped.closed
    for closed in (None, io.StringIO()):
        monkeypatch.setattr(sys, "stdin", closed)
        with pytest.raises(RequestError, match=r"<stdin>.*closed"), open_source("-"):
            pass


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("missing.jsonl", "No such file"),
        ("folder", "directory"),
        ("edits.csv", "no .jsonl file"),
        ("nul\0.jsonl", "null byte"),
        ("\ud800.jsonl", "cannot be opened"),
    ],
    ids=ascii,
)
def test_what_cannot_be_opened_is_refused_without_its_folder(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(RequestError, match=message) as caught, open_source(tmp_path / name):
        pass
    assert str(tmp_path) not in str(caught.value)
    assert str(caught.value).encode()


@given(STREAMS, st.integers(1, 5))
def test_batches_keep_the_order_and_hold_an_id_and_a_fact_once(stream: list[SourcedRequest], size: int) -> None:
    batches = list(micro_batches(iter(stream), size))
    assert [each for batch in batches for each in batch] == stream
    for number, batch in enumerate(batches):
        assert 1 <= len(batch) <= size
        assert len({each.request.id for each in batch}) == len({each.request.statement for each in batch}) == len(batch)
        if number and len(batches[number - 1]) < size:  # cut early, so for a reason
            before, first = batches[number - 1], batch[0].request
            assert any(first.id == each.request.id or first.statement == each.request.statement for each in before)


@given(STREAMS, st.integers(1, 5))
def test_a_stream_taken_up_at_a_boundary_is_cut_alike(stream: list[SourcedRequest], size: int) -> None:
    batches = list(micro_batches(stream, size))
    for done in range(len(batches) + 1):
        rest = stream[sum(map(len, batches[:done])) :]
        assert list(micro_batches(rest, size)) == batches[done:]


def test_blanks_do_not_hide_a_superseding_request() -> None:
    stream = read(line() + b"\n" + line(target="Oran", prompt="{} lives in "))
    assert list(map(len, micro_batches(stream, 2))) == [1, 1]


def test_a_bad_line_drops_the_batch_it_stands_in() -> None:
    lines = [line(f"Person {number}") for number in range(5)]
    batches = micro_batches(read_requests([*lines, b"oops"], "edits.jsonl"), 3)
    assert len(next(batches)) == 3
    with pytest.raises(RequestError, match=r"^edits.jsonl:6: "):
        next(batches)


@pytest.mark.parametrize("size", [0, -1])
def test_a_batch_holds_at_least_one(size: int) -> None:
    with pytest.raises(RequestError, match=f"batch of {size} requests"):
        list(micro_batches([], size))


def test_a_text_is_read_whole_up_to_a_limit(tmp_path: Path) -> None:
    path = tmp_path / "text"
    path.write_bytes("öö\r\n\r\nb".encode())
    assert read_text(path, limit=5) == "öö\n\nb"
    with pytest.raises(RequestError, match="more than 4 characters"):
        read_text(path, limit=4)
    endless(path)
    with in_memory_of(1 << 20), pytest.raises(RequestError, match="more than 1,000 characters"):
        read_text(path, limit=1000)
    for other in (tmp_path, tmp_path / "none"):
        with pytest.raises(RequestError, match="cannot be read"):
            read_text(other)
