"""`ui`: a real Datasette serves what was made from the ledger."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

import pytest

from lifelong_edit.cli import share
from tests.cli.conftest import Place
from tests.samples import PATIENCE


def free_port() -> int:
    with socket.socket() as asked:
        asked.bind(("127.0.0.1", 0))
        port: int = asked.getsockname()[1]
    return port


def answered(url: str, server: subprocess.Popen[str]) -> Any:
    """The JSON at `url`, once the server listens."""
    while server.poll() is None:
        try:
            with urlopen(url, timeout=PATIENCE) as answer:
                return json.load(answer)
        except URLError:
            time.sleep(0.1)
    raise AssertionError(f"the server ended: {server.communicate()}")


@contextmanager
def serving(command: list[str], environment: dict[str, str]) -> Iterator[subprocess.Popen[str]]:
    """A server of its own process group, which ends with the block, whatever becomes of it."""
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as server:
        try:
            yield server
        finally:
            if server.poll() is None:
                os.killpg(server.pid, signal.SIGKILL)


def status(port: int, host: str) -> int:
    """What a request with this Host header is answered."""
    connection = HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    connection.request("GET", "/history/entries.json", headers={"Host": host})
    with closing(connection):
        return connection.getresponse().status


def test_the_history_is_served_searched_and_left_alone(made: Place, tmp_path: Path) -> None:
    pytest.importorskip("datasette")
    port, ledger = free_port(), (made.store / "ledger.db").read_bytes()
    command = [sys.executable, "-m", "lifelong_edit", "ui", "--store", str(made.store), "--port", str(port)]
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    with serving(command, environment) as server:
        found = answered(f"http://127.0.0.1:{port}/history/facts.json?_search=Quill&_shape=array", server)
        assert [(row["id"], row["status"]) for row in found] == [("ada", "active")]
        others = ("evil.example", f"evil.example:{port}", "127.0.0.1.evil.example")
        assert {status(port, host) for host in others} == {403}
        assert [status(port, host) for host in (f"localhost:{port}", "127.0.0.1")] == [200, 200]
        back = answered(f"http://127.0.0.1:{port}/history/taken_back.json?_shape=array", server)
        assert [(row["id"], row["reason"]) for row in back] == [("emile", "was wrong")]
        os.killpg(server.pid, signal.SIGINT)
        told, _ = server.communicate(timeout=PATIENCE)
        assert server.returncode == 0 and f"http://127.0.0.1:{port}" in told
    assert (made.store / "ledger.db").read_bytes() == ledger and not list(tmp_path.iterdir())


def test_the_database_can_be_kept(made: Place, tmp_path: Path) -> None:
    told = made.ok("ui", "--to", str(tmp_path / "kept.db"), "--json").json
    assert told["entries"] == 5 and (tmp_path / "kept.db").stat().st_size > 0
    assert "store" in json.loads((tmp_path / "kept.json").read_text())["title"]
    assert made.run("ui", "--to", str(tmp_path / "kept.db")).code == 2


def test_a_kept_database_is_served_with_its_queries(made: Place, tmp_path: Path) -> None:
    pytest.importorskip("datasette")
    kept = made.ok("ui", "--to", str(tmp_path / "new" / "kept.db"), "--json").json
    command = [sys.executable, "-m", "datasette", "serve", kept["database"], "--metadata", kept["metadata"]]
    asked = [*command, "--get", "/kept/taken_back.json?_shape=array"]
    answer = subprocess.run(asked, capture_output=True, text=True, timeout=PATIENCE, check=True).stdout
    assert [row["id"] for row in json.loads(answer)] == ["emile"]


@pytest.mark.parametrize("name", ["kept.db", "kept.json"])
def test_keeping_writes_over_nothing(made: Place, tmp_path: Path, name: str) -> None:
    (tmp_path / "kept.json").write_text("mine", encoding="utf-8")
    assert made.run("ui", "--to", str(tmp_path / name)).code == 2
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("kept.json", "mine")]


def test_the_metadata_does_not_take_the_place_of_the_database(made: Place, tmp_path: Path) -> None:
    done = made.run("ui", "--to", str(tmp_path / "kept.json"))
    assert done.code == 2 and "kept.db" in done.err and not list(tmp_path.iterdir())


def test_without_the_extra_it_says_which(made: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(share.importlib.util, "find_spec", lambda _: None)
    done = made.run("ui")
    assert done.code == 2 and "lifelong-edit[ui]" in done.err


def test_a_server_that_fails_is_an_error(made: Place) -> None:
    pytest.importorskip("datasette")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        done = made.run("ui", "--port", str(taken.getsockname()[1]))
    assert done.code == 2 and "Give --port" in done.err
