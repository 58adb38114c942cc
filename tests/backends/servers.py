"""A small real server: answers POST and GET with what a function makes of the path and the JSON body."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Answer = tuple[int, dict[str, str], bytes]
Answering = Callable[[str, Any], Answer]


def as_json(value: Any, status: int = 200, **headers: str) -> Answer:
    """`value` as an answer."""
    return status, {"Content-Type": "application/json", **headers}, json.dumps(value).encode()


@contextmanager
def serving(answer: Answering) -> Iterator[str]:
    """The address of a server that answers so, for as long as the block runs."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._say(None)

        def do_POST(self) -> None:
            read = self.rfile.read(int(self.headers["Content-Length"]))
            if not read:
                # Whoever asked gave up before asking.
                self.close_connection = True
                return
            self._say(json.loads(read) | {"key": self.headers.get("Authorization")})

        def _say(self, body: Any) -> None:
            status, headers, content = answer(self.path, body)
            if status == 0:
                # Hangs up without a word.
                self.close_connection = True
                return
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: Any) -> None:
            """Nothing."""

        def handle(self) -> None:
            try:
                super().handle()
            except (ConnectionError, TimeoutError):
                # Whoever asked has given up.
                self.close_connection = True

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=lambda: server.serve_forever(poll_interval=0.02), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
