"""A scripted HTTP server on loopback: the real SDKs talk to it, so that nothing about them has to be assumed."""

from __future__ import annotations

import json
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit


@dataclass(frozen=True)
class Seen:
    """One request as it came."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True)
class Reply:
    """One answer, or a fault: `declared` lies about the length, `reset` and `hang` give none at all."""

    body: Any = b""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    declared: int | None = None
    reset: bool = False
    hang: bool = False

    def content(self) -> bytes:
        return self.body if isinstance(self.body, bytes) else json.dumps(self.body).encode()


Script = Reply | Callable[[Seen], Reply]


class Loopback:
    """Answers by method and path; a list is answered in order, its last entry for ever."""

    def __init__(self) -> None:
        self.seen: list[Seen] = []
        self.scripts: dict[tuple[str, str], list[Script]] = {}
        self.released = threading.Event()
        self.url = ""

    def forget(self) -> None:
        """Let hanging answers go, and begin again."""
        self.released.set()
        self.released = threading.Event()
        self.seen, self.scripts = [], {}

    def on(self, method: str, path: str, *scripts: Script) -> None:
        self.scripts[method, path] = list(scripts)

    def count(self, method: str, path: str) -> int:
        return sum(1 for seen in self.seen if (seen.method, seen.path) == (method, path))

    def answer(self, seen: Seen) -> Reply:
        self.seen.append(seen)
        scripts = self.scripts.get((seen.method, seen.path))
        if not scripts:
            return Reply({"error": {"message": f"nothing scripted for {seen.method} {seen.path}"}}, 418)
        script = scripts.pop(0) if len(scripts) > 1 else scripts[0]
        return script if isinstance(script, Reply) else script(seen)


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, loopback: Loopback) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.loopback = loopback
        loopback.url = f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = 1 << 16  # head and body in one packet; a delayed ACK would cost 40 ms a reply

    def _serve(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        url = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(url.query).items()}
        headers = {name.lower(): value for name, value in self.headers.items()}
        self._send(self.server.loopback.answer(Seen(self.command, url.path, query, headers, body)))

    do_GET = do_POST = do_DELETE = _serve

    def _send(self, reply: Reply) -> None:
        if reply.hang:
            self.server.loopback.released.wait(30)
        if reply.hang or reply.reset:
            self.close_connection = True
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            return
        content = reply.content()
        respond = self.send_response_only if "Date" in reply.headers else self.send_response  # one clock a reply
        respond(reply.status)
        for name, value in {"Content-Type": "application/json", **reply.headers}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content) if reply.declared is None else reply.declared))
        self.end_headers()
        self.wfile.write(content)
        self.close_connection = self.close_connection or reply.declared is not None

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def serving() -> Iterator[Loopback]:
    """Serve until the block ends."""
    loopback = Loopback()
    server = _Server(loopback)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield loopback
    finally:
        loopback.released.set()
        server.shutdown()
        thread.join()
        server.server_close()
