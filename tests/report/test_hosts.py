"""`ui` answers to the host it is bound to and to this computer, and to no other name that leads here."""

from __future__ import annotations

import socket

import pytest

pytest.importorskip("pluggy")

from lifelong_edit.report.hosts import HostCheck

OTHERS = [
    "",
    ":8001",
    "evil.example",
    "evil.example:8001",
    "localhost.evil.example",
    "127.0.0.1@evil.example",
    "[",
    "a b",
]


@pytest.mark.parametrize("bound", ["127.0.0.1", "::1", "localhost", "wiki.intern", "0.0.0.0", "::"])
def test_other_names_are_refused_wherever_it_is_bound(bound: str) -> None:
    assert [header for header in OTHERS if HostCheck(bound).answers(header)] == []


@pytest.mark.parametrize("header", ["localhost", "LOCALHOST:8001", "127.0.0.1:8001", "[::1]:8001"])
@pytest.mark.parametrize("bound", ["127.0.0.1", "0.0.0.0", "wiki.intern"])
def test_this_computer_is_answered(bound: str, header: str) -> None:
    assert HostCheck(bound).answers(header)


def test_the_host_it_is_bound_to_is_answered() -> None:
    assert HostCheck("Wiki.intern").answers("wiki.intern:8001") and HostCheck("192.168.0.7").answers("192.168.0.7")
    assert not HostCheck("127.0.0.1").answers("192.168.0.7") and not HostCheck("127.0.0.1").answers("wiki.intern")
    for everywhere in ("0.0.0.0", "::"):
        assert all(
            HostCheck(everywhere).answers(name) for name in ("192.168.0.7:8001", "[fe80::1]", socket.gethostname())
        )
