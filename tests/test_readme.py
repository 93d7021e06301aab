"""What the README and the tour show runs, and prints what they show; the README stays short."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest

from tests.cli.conftest import command

ROOT = Path(__file__).parents[1]
README, TOUR = ((ROOT / page).read_text(encoding="utf-8") for page in ("README.md", "docs/tour.md"))
PAGES = ["README.md", *(f"docs/{path.name}" for path in sorted((ROOT / "docs").glob("*.md")))]
README_LINES = 170
VARYING = (  # what differs from run to run or from machine to machine, and by what it is told
    (r"\d{4}-\d\d-\d\dT[\d:.]+(\+00:00)?", "TIME"),
    (r"\b[0-9a-f]{12,64}\b", "DIGEST"),
    (r"\d+\.\d+ (s|min|h)\b", "TIME"),
    (r"\d+\.\d+ (k?B|MB)\b", r"N \1"),
    (r"\b\d{1,3}(,\d{3})+\b", "N"),
    (r"\d+\.\d+(e[-+]\d+)?", "N"),
    (r"-{2,}", "--"),
    (r" +", " "),
)


def blocks(page: str, kind: str) -> list[str]:
    return re.findall(rf"```{kind}\n(.*?)```", page, flags=re.S)


def steps(page: str) -> list[str]:
    """Every command after a `$` with what it prints, in the order of the page."""
    return [step for block in blocks(page, "console") for step in re.split(r"^\$ ", block, flags=re.M)[1:]]


def test_the_python_of_the_readme_runs_against_the_bundled_model(tmp_path: Path) -> None:
    found = blocks(README, "python")
    assert found
    edits = tmp_path / "edits.jsonl"
    lines = [{"prompt": "{} works for", "subject": name, "target_new": "Norvik"} for name in ("Ada Quill", "Bo Lund")]
    edits.write_text("".join(json.dumps(line) + "\n" for line in lines))
    for block in found:
        code = block.replace('"store/"', repr(str(tmp_path / "store")))
        code = code.replace('"edits.jsonl"', repr(str(edits)))
        code = code.replace('"checkpoints/tiny-world"', repr(str(ROOT / "checkpoints" / "tiny-world")))
        exec(compile(code, "README.md", "exec"), {})


def told(text: str) -> list[str]:
    """The lines of an output without what varies."""
    for pattern, name in VARYING:
        text = re.sub(pattern, name, text)
    return [line.strip() for line in text.splitlines() if line.strip()]


def test_the_tour_prints_what_it_shows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In one shell's environment and in the order of the page."""
    for name in ("checkpoints", "examples"):
        (tmp_path / name).symlink_to(ROOT / name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LOGNAME", "ada")
    assert len(steps(TOUR)) > 8
    for step in steps(TOUR):
        line, _, expected = step.partition("\n")
        program, *words = shlex.split(line)
        if program == "export":
            for word in words:
                monkeypatch.setenv(*word.split("=", 1))
            continue
        assert program == "lifelong-edit", line
        done = command(*words)
        assert done.code == 0, f"{line}\n{done.err}"
        # What is ranked by a figure may come in another order: targets differ a little between processors.
        assert sorted(told(done.out)) == sorted(told(expected)), line


def test_the_readme_shows_a_part_of_the_tour_and_is_read_at_one_sitting() -> None:
    shown, whole = steps(README), steps(TOUR)
    assert len(shown) > 4 and [step for step in whole if step in shown] == shown
    assert len(README.splitlines()) <= README_LINES


def test_every_page_is_in_the_index() -> None:
    index = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    assert [page for page in PAGES if page.startswith("docs/") and f"({page[5:]})" not in index] == ["docs/index.md"]


@pytest.mark.parametrize("page", PAGES)
def test_no_placeholder_is_left_and_every_link_leads_somewhere(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    assert not re.search(r"@[A-Z]+@|[A-Z]+_TABLE|TODO", text)
    links = [link for link in re.findall(r"\]\(([^)#:]+)\)", text)]
    assert [link for link in links if not ((ROOT / page).parent / link).exists()] == []
