"""A server between the product and the sandbox that passes all on but what a test has it change.

For what a provider does that the sandbox does not: an odd field in one reply, a result under another id.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx2
import orjson

HOP_BY_HOP = frozenset({"connection", "keep-alive", "transfer-encoding", "content-length", "content-encoding", "date"})

Change = Callable[[str, bytes], bytes]
"""Makes another body of a reply's; the first argument is the request's method and path, such as `GET /v1/x`."""

Document = dict[str, Any]


class Between:
    """Where the server listens, and what it changes."""

    def __init__(self, target: str) -> None:
        self.target, self.url = target, ""
        self.change: Change = lambda _, body: body
        self.http = httpx2.Client(timeout=30)

    def documents(self, change: Callable[[Document], None]) -> None:
        """Change each reply that is one JSON object, in place."""

        def apply(_: str, body: bytes) -> bytes:
            document = _object(body)
            if document is None:
                return body
            change(document)
            return orjson.dumps(document)

        self.change = apply

    def results(self, change: Callable[[list[Document]], list[Document]]) -> None:
        """Change the lines of each result file."""

        def apply(request: str, body: bytes) -> bytes:
            if not request.endswith(("/content", "/results", ":download")):
                return body
            return b"".join(orjson.dumps(line) + b"\n" for line in change([*map(orjson.loads, body.splitlines())]))

        self.change = apply


def _object(body: bytes) -> Document | None:
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError:
        return None
    return document if isinstance(document, dict) else None


def _handler(between: Between) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.0"  # no connection outlives its reply, nor the server
        disable_nagle_algorithm = True
        wbufsize = 1 << 16

        def _pass_on(self) -> None:
            content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            headers = {name: value for name, value in self.headers.items() if name.lower() not in HOP_BY_HOP}
            headers["Accept-Encoding"] = "identity"
            reply = between.http.request(self.command, between.target + self.path, headers=headers, content=content)
            body = between.change(f"{self.command} {self.path.partition('?')[0]}", reply.content)
            self.send_response(reply.status_code)
            for name, value in reply.headers.items():
                if name.lower() not in HOP_BY_HOP:
                    self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST = do_DELETE = _pass_on

        def log_message(self, format: str, *args: object) -> None:
            pass

    return Handler


@contextmanager
def passing_on(target: str) -> Iterator[Between]:
    """Serve until the block ends."""
    between = Between(target)
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(between))
    server.daemon_threads = True
    between.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield between
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
        between.http.close()
