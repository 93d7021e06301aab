"""The names that `ui` answers to. A page on the web can lead a name of its own to this computer (DNS rebinding).

Its scripts could then read the whole history; but their requests say that name, and no other server's.
"""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

import pluggy

LOCAL = ("localhost", "127.0.0.1", "::1")
EVERYWHERE = ("0.0.0.0", "::", "")
App = Callable[[dict[str, Any], Any, Any], Awaitable[None]]
hookimpl = pluggy.HookimplMarker("datasette")


class HostCheck:
    """A plugin of Datasette that answers 403 to requests for another host than `bound`, or this computer.

    A server that is bound to all addresses also answers to any address and to this computer's name.
    """

    __name__ = "host-check"  # what Datasette lists it by

    def __init__(self, bound: str) -> None:
        self.bound = bound.lower()

    def answers(self, header: str) -> bool:
        """Whether a Host header, as ``localhost:8001``, names this server."""
        try:
            name = urlsplit(f"//{header}").hostname or ""
        except ValueError:
            return False
        everywhere = self.bound in EVERYWHERE and (_is_address(name) or name == socket.gethostname().lower())
        return bool(name) and (name in (self.bound, *LOCAL) or everywhere)

    @hookimpl
    def asgi_wrapper(self) -> Callable[[App], App]:
        """Datasette's hook: its application, which is only reached by requests for this server."""

        def wrapped(app: App) -> App:
            async def checked(scope: dict[str, Any], receive: Any, send: Any) -> None:
                hosts = [value.decode("latin-1") for name, value in scope.get("headers", ()) if name == b"host"]
                if scope["type"] == "lifespan" or (len(hosts) == 1 and self.answers(hosts[0])):
                    return await app(scope, receive, send)
                head = {"type": "http.response.start", "status": 403, "headers": [(b"content-type", b"text/plain")]}
                await send(head)
                await send({"type": "http.response.body", "body": b"This server has another name. See --host."})

            return checked

        return wrapped


def _is_address(name: str) -> bool:
    try:
        ip_address(name)
    except ValueError:
        return False
    return True
