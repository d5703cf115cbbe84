"""A loopback server that speaks enough of OpenAI's dialect: files, batches, contents and single calls, at once.

One process, one event loop, answers made in advance: what it costs itself is small and known (`/stats`).
"""

from __future__ import annotations

import argparse
import asyncio
import re
import sys
import time
from dataclasses import dataclass, field
from typing import Any

import orjson

from benchmarks.answers import batch_results, reply_body

CREATED_AT = 1_764_000_000
"""Nobody looks at it."""
ROUTE = re.compile(rb"(\w+) ([^ ?]+)[^ ]* HTTP")
LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
BOUNDARY = re.compile(rb"boundary=\"?([^\r\n\";]+)")


@dataclass
class Seen:
    """What came since the last reset."""

    calls: int = 0
    answered: int = 0
    throttled: int = 0
    first_call_at: float = 0.0
    last_call_at: float = 0.0
    uploads: int = 0
    batched: int = 0
    upload_bytes: int = 0
    last_upload_at: float = 0.0
    cpu_seconds: float = field(default_factory=time.process_time)


class Bucket:
    """OpenAI's requests per minute: a bucket of a minute's worth that fills steadily, found nearly empty.

    Nearly empty, so that the limit binds from the first second and not only after a minute.
    """

    def __init__(self, per_minute: int, at: float) -> None:
        self.size, self.per_second = float(per_minute), per_minute / 60
        self.level, self.at = self.per_second, at

    def take(self, at: float) -> bool:
        """Take one request out; False when there is none left."""
        self.level = min(self.size, self.level + (at - self.at) * self.per_second)
        self.at = at
        if self.level < 1:
            return False
        self.level -= 1
        return True

    def headers(self, taken: bool) -> bytes:
        """`x-ratelimit-*` with a Go duration, and `retry-after` on a refusal."""
        full = (self.size - self.level) / self.per_second
        lines = [
            f"x-ratelimit-limit-requests: {self.size:.0f}",
            f"x-ratelimit-remaining-requests: {max(int(self.level), 0)}",
            f"x-ratelimit-reset-requests: {full:.3f}s",
        ]
        if not taken:
            lines.append("retry-after: 1")
        return "".join(f"{line}\r\n" for line in lines).encode()


class Service:
    """The state behind all connections."""

    def __init__(self, delay_seconds: float = 0.0, per_minute: int = 0, *, stay_open: bool = False) -> None:
        self.delay_seconds, self.per_minute, self.stay_open = delay_seconds, per_minute, stay_open
        self.files: dict[str, bytes] = {}
        self.batches: dict[str, dict[str, Any]] = {}
        self.seen = Seen()
        self.bucket: Bucket | None = None

    def reset(self) -> None:
        """Forget everything."""
        self.files.clear()
        self.batches.clear()
        self.seen, self.bucket = Seen(), None

    def stats(self) -> dict[str, Any]:
        """What was seen, with the processor time it took."""
        seen = {name: getattr(self.seen, name) for name in self.seen.__dataclass_fields__}
        return {**seen, "cpu_seconds": time.process_time() - self.seen.cpu_seconds}

    def call(self, body: bytes) -> tuple[int, bytes, bytes]:
        """Answer one single call: status, headers, body."""
        now, seen = time.monotonic(), self.seen
        seen.first_call_at = seen.first_call_at or now
        seen.calls += 1
        if self.per_minute and self.bucket is None:
            self.bucket = Bucket(self.per_minute, now)
        taken = self.bucket is None or self.bucket.take(now)
        headers = self.bucket.headers(taken) if self.bucket else b""
        if not taken:
            seen.throttled += 1
            return 429, headers, _error("Rate limit reached for requests", "rate_limit_exceeded")
        return 200, headers, reply_body(body)

    def upload(self, content: bytes) -> dict[str, Any]:
        """Keep a file."""
        name = f"file-{len(self.files) + self.seen.uploads:06d}"
        self.files[name] = content
        self.seen.uploads += 1
        self.seen.upload_bytes += len(content)
        return _file(name, content)

    def create(self, body: bytes) -> dict[str, Any]:
        """Take a batch in and answer all of it."""
        asked = orjson.loads(body)
        source, name = asked["input_file_id"], f"batch-{len(self.batches):06d}"
        content = self.files[source]
        results, count = (b"", content.count(b"\n")) if self.stay_open else batch_results(content)
        self.seen.batched += count
        output = None if self.stay_open else f"{source}-output"
        self.files[source] = b""
        if output is not None:
            self.files[output] = results
        batch = {
            "id": name,
            "object": "batch",
            "endpoint": asked.get("endpoint"),
            "errors": None,
            "input_file_id": source,
            "output_file_id": output,
            "error_file_id": None,
            "completion_window": "24h",
            "status": "in_progress" if self.stay_open else "completed",
            "created_at": int(time.time()),
            "in_progress_at": int(time.time()),
            "completed_at": None if self.stay_open else int(time.time()),
            "request_counts": {"total": count, "completed": count, "failed": 0},
            "metadata": asked.get("metadata"),
        }
        self.batches[name] = batch
        return {**batch, "status": "validating", "output_file_id": None, "completed_at": None}


def _file(name: str, content: bytes) -> dict[str, Any]:
    return {
        "id": name,
        "object": "file",
        "bytes": len(content),
        "created_at": CREATED_AT,
        "filename": f"{name}.jsonl",
        "purpose": "batch",
        "status": "processed",
    }


def _error(message: str, code: str) -> bytes:
    return orjson.dumps({"error": {"message": message, "type": code, "code": code, "param": None}})


class Connection(asyncio.Protocol):
    """HTTP/1.1 with keep-alive, requests with a Content-Length only."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.buffer = bytearray()
        self.head = b""
        self.missing = 0
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the way back."""
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        """Collect until a request is whole."""
        self.buffer += data
        while True:
            if not self.head:
                end = self.buffer.find(b"\r\n\r\n")
                if end < 0:
                    return
                self.head = bytes(self.buffer[: end + 4])
                del self.buffer[: end + 4]
                length = LENGTH.search(self.head)
                self.missing = int(length[1]) if length else 0
                self._begun()
            if len(self.buffer) < self.missing:
                return
            body = bytes(self.buffer[: self.missing])
            del self.buffer[: self.missing]
            head, self.head = self.head, b""
            self._answer(head, body)

    def _begun(self) -> None:
        if self.head.startswith(b"POST /v1/files"):
            self.service.seen.last_upload_at = time.monotonic()

    def _answer(self, head: bytes, body: bytes) -> None:
        found = ROUTE.match(head)
        if found is None:
            self._send(400, b"", _error("no HTTP", "bad_request"))
            return
        method, parts = found[1].decode(), found[2].decode().strip("/").split("/")
        if parts[:2] == ["v1", "chat"] or parts[:2] == ["v1", "responses"]:
            self._call(body)
            return
        try:
            found_reply = self._resource(method, parts, head, body)
        except (KeyError, ValueError) as error:
            self._send(404, b"", _error(f"not there: {error}", "not_found"))
            return
        self._send(200, b"", found_reply if isinstance(found_reply, bytes) else orjson.dumps(found_reply))

    def _call(self, body: bytes) -> None:
        status, headers, reply = self.service.call(body)
        if status == 200 and self.service.delay_seconds:
            loop = asyncio.get_running_loop()
            loop.call_later(self.service.delay_seconds, self._answered, headers, reply)
        elif status == 200:
            self._answered(headers, reply)
        else:
            self._send(status, headers, reply)

    def _answered(self, headers: bytes, reply: bytes) -> None:
        self.service.seen.answered += 1
        self.service.seen.last_call_at = time.monotonic()
        self._send(200, headers, reply)

    def _resource(self, method: str, parts: list[str], head: bytes, body: bytes) -> Any:
        service = self.service
        match method, parts:
            case "POST", ["v1", "files"]:
                return service.upload(_part(head, body))
            case "GET", ["v1", "files", name, "content"]:
                return service.files[name]
            case "GET", ["v1", "files", name]:
                return _file(name, service.files[name])
            case "DELETE", ["v1", "files", name]:
                service.files[name] = b""
                return {"id": name, "object": "file", "deleted": True}
            case _, ["v1", "batches", *rest]:
                return self._batches(method, rest, body)
            case "GET", ["stats"]:
                return service.stats()
            case "POST", ["reset"]:
                service.reset()
                return {}
        raise KeyError("/".join(parts))

    def _batches(self, method: str, rest: list[str], body: bytes) -> Any:
        service = self.service
        if rest:
            return service.batches[rest[0]]
        if method == "POST":
            return service.create(body)
        return {"object": "list", "data": list(service.batches.values())[::-1], "has_more": False}

    def _send(self, status: int, headers: bytes, body: bytes) -> None:
        if self.transport is None or self.transport.is_closing():
            return
        first = b"HTTP/1.1 %d X\r\ncontent-type: application/json\r\ncontent-length: %d\r\n" % (status, len(body))
        self.transport.write(b"".join((first, headers, b"\r\n", body)))


def _part(head: bytes, body: bytes) -> bytes:
    """The file within a multipart body."""
    boundary = BOUNDARY.search(head)
    if boundary is None:
        raise ValueError("no multipart boundary")
    begin = body.index(b"\r\n\r\n", body.index(b'filename="')) + 4
    return body[begin : body.index(b"\r\n--" + boundary[1], begin)]


async def serve(service: Service) -> None:
    """Serve until the process is ended; tells its address on standard output."""
    server = await asyncio.get_running_loop().create_server(lambda: Connection(service), "127.0.0.1", 0, backlog=512)
    port = server.sockets[0].getsockname()[1]
    sys.stdout.write(f'{{"url": "http://127.0.0.1:{port}"}}\n')
    sys.stdout.flush()
    await server.serve_forever()


def main() -> None:
    """Parse and serve."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--delay-ms", type=float, default=0, help="how long a single call takes")
    parser.add_argument("--per-minute", type=int, default=0, help="requests a minute, 429 above; 0: no limit")
    parser.add_argument("--stay-open", action="store_true", help="batches are taken in and never end")
    given = parser.parse_args()
    asyncio.run(serve(Service(given.delay_ms / 1000, given.per_minute, stay_open=given.stay_open)))


if __name__ == "__main__":
    main()
