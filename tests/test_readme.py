"""What the README shows runs."""

from __future__ import annotations

import json
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_the_python_of_the_readme_runs_against_the_bundled_model(tmp_path: Path) -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", text, flags=re.S)
    assert blocks
    edits = tmp_path / "edits.jsonl"
    lines = [{"prompt": "{} works for", "subject": name, "target_new": "Norvik"} for name in ("Ada Quill", "Bo Lund")]
    edits.write_text("".join(json.dumps(line) + "\n" for line in lines))
    for block in blocks:
        code = block.replace('"store/"', repr(str(tmp_path / "store")))
        code = code.replace('"edits.jsonl"', repr(str(edits)))
        code = code.replace('"checkpoints/tiny-world"', repr(str(ROOT / "checkpoints" / "tiny-world")))
        exec(compile(code, "README.md", "exec"), {})


def test_no_placeholder_is_left_and_every_link_leads_somewhere() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert not re.search(r"@[A-Z]+@", text)
    links = re.findall(r"\]\(([^)#:]+)\)", text)
    assert links and [link for link in links if not (ROOT / link).exists()] == []
