"""Every command that writes a file or folder somebody names: what is there already is left as it is."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.conftest import Place, command
from tests.datasets.specimens import ZSRE
from tests.obstacles import OTHERS, inventory

WRITERS = {
    "report": "report {}",
    "export jsonl": "export jsonl {}",
    "export delta": "export delta {}",
    "export peft": "export peft {}",
    "export hf": "export hf {}",
    "import": "import rows.json --targets answers --out {}",
    "import rejected": "import rows.json --targets answers --out fine.jsonl --rejected {}",
    "import raw": "import rows.json --targets answers --out fine.jsonl --raw {}",
    "ui": "ui --to {}",
}
NEEDS_MODEL = ("export delta", "export peft", "export hf")


def write(place: Place, name: str, target: str) -> tuple[int, str]:
    """Exit code and errors of a writing command; an exception that is none of ours is raised."""
    arguments = WRITERS[name].format(target).split()
    done = command(*arguments) if arguments[0] == "import" else place.run(*arguments, model=name in NEEDS_MODEL)
    return done.code, done.err


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a data file."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    Path("rows.json").write_text(json.dumps([ZSRE]), encoding="utf-8")
    return folder


@pytest.mark.parametrize("make", OTHERS.values(), ids=OTHERS)
@pytest.mark.parametrize("name", WRITERS)
def test_what_is_there_already_stays(name: str, make: Callable[[Path], object], made: Place, here: Path) -> None:
    make(here / "out.jsonl")
    before = inventory(here)
    code, told = write(made, name, "out.jsonl")
    assert code == 2 and "is there already" in told
    assert inventory(here) == before


@pytest.mark.parametrize("name", WRITERS)
def test_files_with_the_names_of_temporaries_stay(name: str, made: Place, here: Path) -> None:
    for other in ("out.jsonl.part", ".out.jsonl.partial", "fine.jsonl.part"):
        Path(other).mkdir() if name.startswith("export") else Path(other).write_text("kept")
    before = inventory(here)
    assert write(made, name, "out.jsonl") == (0, "")
    after = inventory(here)
    assert before.items() <= after.items()
    new = {path.partition("/")[0] for path in after.keys() - before.keys()}
    assert "out.jsonl" in new <= {"out.jsonl", "out.json", "fine.jsonl"}


@pytest.mark.parametrize("name", WRITERS)
def test_where_nothing_can_be_written_is_told(name: str, made: Place, here: Path) -> None:
    before = inventory(here)
    code, told = write(made, name, "rows.json/out.jsonl")
    assert code == 5 and "cannot be written" in told
    assert inventory(here) == before


def test_an_earlier_report_gives_way_and_a_page_of_others_stays(made: Place, here: Path) -> None:
    assert [made.run("report", "report.html").code for _ in range(2)] == [0, 0]
    other = "<!doctype html>\n<title>Mine</title>"
    Path("page.html").write_text(other)
    assert made.run("report", "page.html").code == 2 and Path("page.html").read_text() == other


def test_second_moments_are_not_written_to_a_pipe(made: Place, here: Path) -> None:
    Path("to/second_moments").mkdir(parents=True)
    os.mkfifo("to/second_moments/layer-0.safetensors")
    Path("text.txt").write_text("Some text.\n\nSome more text.")
    before = inventory(here)
    done = command("stats", "--text", "text.txt", "--layer", "0", "--to", "to", "--model", str(made.model))
    assert done.code == 2 and "is there already, a pipe" in done.err and inventory(here) == before
