"""Serve a store's model over HTTP and edit it at the same time, with the standard library alone.

    python examples/serve_and_edit.py store checkpoints/tiny-world --port 8000
    curl 'localhost:8000/?prompt=Ada+Quill+was+born+in'
    curl localhost:8000 -d '{"prompt": "{} was born in", "subject": "Ada Quill", "target_new": "Tarsis"}'

The server's threads answer, each from a view of one state; the main thread, which opened the store, commits the edits
that they put into a queue.
"""

from __future__ import annotations

import argparse
import json
import logging
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from queue import Queue
from threading import Thread
from urllib.parse import parse_qs, urlsplit

from lifelong_edit import EditRequest, LifelongEditor
from lifelong_edit.errors import LifelongEditError, RequestError
from lifelong_edit.store import Entry

LIMIT = 64 * 1024  # bytes of an edit


class Service(ThreadingHTTPServer):
    """Answers prompts (GET) from the newest state, and queues edits (POST) for the thread that opened the store."""

    def __init__(self, editor: LifelongEditor, port: int) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        self.editor = editor
        self.edits: Queue[EditRequest | None] = Queue()
        self.view = editor.at(editor.head.seq)
        editor.subscribe(self.follow)

    def follow(self, entry: Entry) -> None:
        """Answer from the new state: one assignment, and who is answering ends with the view they began with."""
        self.view = self.editor.at(entry.seq)

    def run(self) -> None:
        """Answer in threads and commit in this one, until None is queued."""
        Thread(target=self.serve_forever, daemon=True).start()
        try:
            while (edit := self.edits.get()) is not None:
                try:
                    self.editor.apply([edit])
                except LifelongEditError as error:
                    logging.warning("an edit was refused: %s", error)
        finally:
            self.shutdown()
            self.server_close()


class Handler(BaseHTTPRequestHandler):
    server: Service

    def do_GET(self) -> None:
        prompt = parse_qs(urlsplit(self.path).query).get("prompt", [""])[0]
        view = self.server.view
        if prompt:
            self.tell(200, {"seq": view.seq, "prompt": prompt, "answer": view.answer(prompt)})
        else:
            self.tell(400, {"error": "Give a prompt: /?prompt=..."})

    def do_POST(self) -> None:
        try:
            size = int(self.headers.get("Content-Length", 0))
            if not 0 < size <= LIMIT:
                raise RequestError(f"an edit has 1 to {LIMIT} bytes, with a Content-Length.")
            edit = EditRequest.from_dict(json.loads(self.rfile.read(size)))
        except (ValueError, RequestError) as error:
            self.tell(400, {"error": str(error)})
            return
        self.server.edits.put(edit)
        self.tell(202, {"queued": edit.resolved_id()})

    def tell(self, status: int, body: dict[str, object]) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


def main() -> None:
    parser = argparse.ArgumentParser(description="Serve a store's model and edit it at the same time.")
    parser.add_argument("store", type=Path)
    parser.add_argument("model", type=Path)
    parser.add_argument("--port", type=int, default=8000)
    given = parser.parse_args()
    with LifelongEditor.open(given.store, given.model) as editor:
        Service(editor, given.port).run()


if __name__ == "__main__":
    main()
