"""The command as a process: what it loads, where its errors go, and how it is interrupted."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from lifelong_edit.cli import history
from tests.cli.conftest import Place
from tests.samples import PATIENCE, REQUESTS

# A shell that starts the tests in the background has them ignore interrupts, and what they start too.
RUN = (
    "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
    "from lifelong_edit.cli.main import main; main()"
)
RUN_AND_TELL = """
import sys
from lifelong_edit.cli.main import app
app(sys.argv[1:], standalone_mode=False)
sys.exit(sorted({"torch", "transformers"} & set(sys.modules)) or 0)
"""
HISTORY = ["log", "status", "show", "show ada", "tag", "tag three", "verify", "gc", "backup copy", "clone copy"]


@pytest.mark.parametrize("command", HISTORY)
def test_history_needs_neither_torch_nor_transformers(place: Place, command: str) -> None:
    arguments = [*command.split(), "--store", str(place.store)]
    environment = {**os.environ, "LIFELONG_EDIT_MODEL": str(place.model)}
    done = subprocess.run(
        [sys.executable, "-c", RUN_AND_TELL, *arguments],
        capture_output=True,
        text=True,
        cwd=place.store.parent,
        env=environment,
    )
    assert (done.returncode, done.stderr) == (0, "") and done.stdout


def test_store_and_model_may_come_from_the_environment_and_warnings_are_lines(made: Place, tmp_path: Path) -> None:
    half = Place(tmp_path / "store", made.model)
    text = str(made.store.parent / "text.txt")
    half.ok("init", "--text", text, "--contexts", "0", "--dtype", "bfloat16", model=True)
    environment = {**os.environ, "LIFELONG_EDIT_STORE": str(half.store), "LIFELONG_EDIT_MODEL": str(half.model)}
    command = [sys.executable, "-m", "lifelong_edit", "apply", "-", "--dtype", "bfloat16", "--ridge", "1e4", "--json"]
    line = json.dumps(REQUESTS[4].to_dict())
    done = subprocess.run(command, capture_output=True, text=True, env=environment, input=line)
    assert (done.returncode, len(json.loads(done.stdout))) == (0, 1), done.stderr
    lines = done.stderr.splitlines()
    assert lines[0].startswith("warning: Only ") and all(line.startswith("warning: ") for line in lines)


def test_errors_go_to_standard_error_with_their_code(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", RUN, "log"], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 5 and done.stdout == "" and done.stderr.startswith("error: store holds no store")


def test_an_interrupted_stream_keeps_what_it_told(place: Place) -> None:
    command = [sys.executable, "-c", RUN, "stream", "-", "--batch", "1", "--json"]
    command += ["--store", str(place.store), "--model", str(place.model)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdin and process.stdout and process.stderr
        process.stdin.write(json.dumps(REQUESTS[4].to_dict()).encode() + b"\n")
        process.stdin.flush()
        told = json.loads(process.stdout.readline())
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE) == 130
        said = process.stderr.read().decode()
    assert said.splitlines()[-1].startswith("interrupted: ") and "Traceback" not in said
    assert place.entries()[-1].digest == told["entry"]["digest"]


def test_an_interrupt_anywhere_is_a_line(made: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(history, "open_store", interrupt)
    done = made.run("log")
    assert done.code == 130 and done.err.startswith("interrupted: ")
