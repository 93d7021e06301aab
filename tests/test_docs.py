"""What the pages of docs/ say of the code is so: signatures, examples, files."""

from __future__ import annotations

import ast
import inspect
import json
import re
from pathlib import Path
from typing import Any

import pytest

import lifelong_edit
from lifelong_edit import LifelongEditor

ROOT = Path(__file__).parents[1]
API = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")


def calls() -> list[ast.Call]:
    """The calls in the tables of the API page."""
    code = [text for line in API.splitlines() if line.startswith("| `") for text in re.findall(r"`([^`]+)`", line)]
    parsed = [ast.parse(text, mode="eval").body for text in code if re.match(r"[\w.]+\(", text)]
    return [node for node in parsed if isinstance(node, ast.Call)]


def resolved(name: str) -> Any:
    """The function or class that a name on the page stands for."""
    found: Any = lifelong_edit
    for part in name.replace("editor.", "LifelongEditor.").split("."):
        found = getattr(found, part)
    return found


@pytest.mark.parametrize("call", calls(), ids=lambda call: ast.unparse(call.func))
def test_a_signature_on_the_page_is_that_of_the_code(call: ast.Call) -> None:
    parameters = inspect.signature(resolved(ast.unparse(call.func))).parameters
    for argument in call.args:
        name = ast.unparse(argument).removeprefix("*")
        assert name in parameters and parameters[name].default in (inspect.Parameter.empty,)
    for keyword in call.keywords:
        assert parameters[str(keyword.arg)].default == ast.literal_eval(keyword.value), keyword.arg


def test_every_public_name_is_on_the_page() -> None:
    verbs = [name for name, _ in inspect.getmembers(LifelongEditor) if not name.startswith("_")]
    assert len(verbs) > 30
    assert [name for name in (*lifelong_edit.__all__, *verbs) if not re.search(rf"\b{name}\b", API)] == []


def test_the_examples_of_the_page_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "checkpoints").symlink_to(ROOT / "checkpoints")
    request = {"prompt": "{} works for", "subject": "Cy Vale", "target_new": "Norvik"}
    (tmp_path / "edits.jsonl").write_text(json.dumps(request) + "\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    blocks = re.findall(r"```python\n(.*?)```", API, flags=re.S)
    assert len(blocks) > 4
    for block in blocks:
        exec(compile(block, "docs/api.md", "exec"), names)
    assert (tmp_path / "report.html").is_file() and (tmp_path / "edited-model").is_dir()


@pytest.mark.parametrize("page", ["architecture", "extending", "kinds", "concepts"])
def test_every_file_that_is_named_is_there(page: str) -> None:
    text = (ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8")
    named = set(re.findall(r"(?<![\w/.])((?:[\w-]+/)+[\w-]*(?:\.py)?)(?![\w*])", text))
    files = [name for name in named if name.endswith((".py", "/"))]
    assert files or page == "concepts"
    assert [name for name in files if not any((ROOT / home / name).exists() for home in (".", "lifelong_edit"))] == []
