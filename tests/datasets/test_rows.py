"""Rows of files come one at a time with their numbers; a broken row is told, a broken file is refused."""

from __future__ import annotations

import gzip
import json
from itertools import islice
from pathlib import Path

import pytest

from lifelong_edit.datasets.rows import CHUNK, LONGEST, Row, open_rows
from lifelong_edit.errors import RequestError
from tests.obstacles import in_memory_of


def rows(path: Path, data: bytes) -> list[Row]:
    path.write_bytes(data)
    with open_rows(path) as found:
        return list(found)


def test_lines_are_numbered_and_broken_ones_told(tmp_path: Path) -> None:
    found = rows(tmp_path / "a.jsonl", b'\n{"a": NaN}\r\n{"a"\n  \n[1]\n{"b": "\xff\xe2\x80\xa8"}')
    assert [(row.number, row.raw) for row in found] == [
        (2, {"a": None}),
        (3, '{"a"'),
        (5, "[1]"),
        (6, {"b": "\udcff\u2028"}),
    ]
    assert [row.problem is None for row in found] == [True, False, False, True]


@pytest.mark.parametrize("text", ["[]", " \n[ ] ", '[{"a": 1}\n, 3,{"b": [1, {}]} ]'])
def test_items_are_numbered(tmp_path: Path, text: str) -> None:
    found = rows(tmp_path / "a.json", text.encode())
    assert [row.raw for row in found] == json.loads(text)
    assert [row.number for row in found] == list(range(1, len(found) + 1))
    assert [row.problem is None for row in found] == [isinstance(row.raw, dict) for row in found]


def test_items_across_chunks_are_whole(tmp_path: Path) -> None:
    expected = [{"n": n, "text": "é" * (n * 977 % CHUNK)} for n in range(40)]
    assert [row.raw for row in rows(tmp_path / "a.json", json.dumps(expected, indent=2).encode())] == expected


def test_a_long_file_is_not_read_to_its_end_for_its_first_rows(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(b"[" + b'{"a": "' + b"x" * 900 + b'"},' * 1)
    with path.open("ab") as file:
        file.write((b'{"a": "' + b"x" * 900 + b'"},') * 500 + b"broken")
    with open_rows(path) as found:
        assert len(list(islice(found, 20))) == 20
        with pytest.raises(RequestError, match=r"^a.json: item 502 is not JSON"):
            list(found)


def test_csv_has_a_line_for_each_row_and_nothing_in_empty_cells(tmp_path: Path) -> None:
    found = rows(tmp_path / "a.csv", b'a, b\r\n"1\n2",\r\n\r\n"x, ""y""",z\r\n1,2,3\r\n')
    assert [(row.number, row.raw) for row in found] == [
        (2, {"a": "1\n2", "b": None}),
        (5, {"a": 'x, "y"', "b": "z"}),
        (6, ["1", "2", "3"]),
    ]
    assert found[2].problem is not None and rows(tmp_path / "a.csv", b"") == []


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.json", b'[{"a": 1}, ', "ends at item 2 without"),
        ("a.json", b'[{"a": 1} {"b": 2}]', "no comma stands behind item 1"),
        ("a.json", b'[{"a": 1}, {"b"]', "item 2 is not JSON"),
        ("a.json", b"[12", "item 1 is not JSON"),
        ("a.csv", b'a,b\n"1,2\n', "line 2: it is not CSV"),
        ("a.csv", b"a,a\n1,2\n", "two columns have one name"),
        ("a.jsonl.gz", b"no gzip", "cannot be read to its end"),
        ("a.jsonl.gz", gzip.compress(b'{"a": 1}\n' * 9, mtime=0)[:-9], "cannot be read to its end"),
        ("a.txt", b"", "ends with none of"),
        ("a.gz", b"", "ends with none of"),
    ],
    ids=str,
)
def test_a_broken_file_is_refused_by_its_name_and_place(tmp_path: Path, name: str, data: bytes, message: str) -> None:
    with pytest.raises(RequestError, match=rf"^{name}: .*{message}") as caught:
        rows(tmp_path / name, data)
    assert str(tmp_path) not in str(caught.value)


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv", "a.json"])
@pytest.mark.parametrize("zipped", [False, True])
def test_of_a_line_without_an_end_only_so_much_is_read(tmp_path: Path, name: str, zipped: bool) -> None:
    path = tmp_path / f"{name}{'.gz' if zipped else ''}"
    data = bytes(16 * LONGEST)
    path.write_bytes(gzip.compress(data, 1) if zipped else data)
    problem = pytest.raises(RequestError, match=r"line 1 has 4,194,304 characters or more")
    with in_memory_of(12 * LONGEST), problem, open_rows(path) as found:
        list(found)


def test_what_cannot_be_opened_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="cannot be opened"), open_rows(tmp_path / "missing.json"):
        pass
    path = tmp_path / "a.json"
    path.write_bytes(b"[]")
    with pytest.raises(OSError, match="the caller's"), open_rows(path):
        raise OSError("the caller's")
