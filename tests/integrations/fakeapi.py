# SPDX-License-Identifier: GPL-2.0-or-later
"""A server that answers as it is told, in place of a CrowdSec local API."""

from __future__ import annotations

import json
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

KEY = "0123456789abcdef0123456789abcdef"


def decision(value: str, duration: str = "1h0m0s", **members: Any) -> dict[str, Any]:
    scope = "Range" if "/" in value else "Ip"
    return {"duration": duration, "id": 1, "origin": "test", "scope": scope, "type": "ban", "value": value, **members}


def stream(*new: dict[str, Any], deleted: tuple[dict[str, Any], ...] = ()) -> bytes:
    return json.dumps({"deleted": list(deleted) or None, "new": list(new) or None}).encode()


@dataclass
class FakeApi:
    """``answer`` is the status and the body of the next ones, ``asked`` the targets and headers so far."""

    url: str
    answer: tuple[int, bytes] = (200, stream())
    headers: dict[str, str] = field(default_factory=dict)
    asked: list[tuple[str, dict[str, str]]] = field(default_factory=list)

    @property
    def startups(self) -> list[str]:
        return [target.partition("startup=")[2] for target, _ in self.asked]


@contextmanager
def fake_api(context: ssl.SSLContext | None = None) -> Iterator[FakeApi]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            api.asked.append((self.path, dict(self.headers)))
            status, body = api.answer if self.headers["X-Api-Key"] == KEY else (403, b'{"message":"access forbidden"}')
            self.send_response(status)
            for name, value in api.headers.items():
                self.send_header(name, value)
            if "Content-Length" not in api.headers:
                self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        if context is not None:
            server.socket = context.wrap_socket(server.socket, server_side=True)
        scheme = "http" if context is None else "https"
        api = FakeApi(f"{scheme}://127.0.0.1:{server.server_port}")
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield api
        finally:
            server.shutdown()
            thread.join()
