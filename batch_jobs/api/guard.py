"""The ASGI layer around every route: who may come in, how much may be sent, and what no answer leaks.

It decides before a byte of the body is read: FastAPI would parse a whole upload before it asks for the key.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import logging
from collections.abc import Iterable
from urllib.parse import urlsplit

import anyio
from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from batch_jobs.api import failures
from batch_jobs.errors import EXIT_BAD_INPUT, FileTooLarge, NotAllowed

logger = logging.getLogger(__name__)

OPEN_PATHS = frozenset({"/healthz"})
FRAME_BYTES = 64 * 1024
"""What a multipart body may hold beside the file: boundaries, part headers, the other fields."""
LINGER_SECONDS = 2.0
"""How long a refused client may go on sending before it is cut off, so that it gets to read the answer."""


def is_loopback(host: str) -> bool:
    """Whether a host name or address can only be reached from this machine."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class Guard:
    """Checks each request on its way in, and marks each response on its way out."""

    def __init__(self, app: ASGIApp, *, keys: Iterable[bytes], max_bytes: int) -> None:
        self.app, self.keys = app, tuple(keys)
        self.max_bytes, self.limit = max_bytes, max_bytes + FRAME_BYTES

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through, or refuse it."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        exchange = _Exchange(receive, send, self.limit)
        refused = self._refusal(scope)
        if refused is None:
            refused = await self._pass(scope, exchange)
        if refused is not None and not exchange.started:
            await exchange.refuse(refused)

    def _refusal(self, scope: Scope) -> JSONResponse | None:
        headers = Headers(scope=scope)
        if not self.keys and not _from_this_machine(headers):
            text = "without API keys only this machine is served, and no web page of another site"
            return failures.reply(403, NotAllowed.__name__, text, EXIT_BAD_INPUT)
        if self.keys and scope["path"] not in OPEN_PATHS and not self._knows(scope):
            return failures.of_error(NotAllowed("a valid API key is needed: send the header Authorization: Bearer KEY"))
        declared = headers.get("content-length", "")
        if declared.isdecimal() and int(declared) > self.limit:
            return self._too_large()
        return None

    def _knows(self, scope: Scope) -> bool:
        """Whether the request carries one of the keys; takes as long for a wrong one as for a right one."""
        given = next((value for name, value in scope["headers"] if name == b"authorization"), b"")
        scheme, _, key = given.partition(b" ")
        digest = hashlib.sha256(key.strip()).digest()
        matches = [hmac.compare_digest(digest, known) for known in self.keys]
        return scheme.lower() == b"bearer" and any(matches)

    def _too_large(self) -> JSONResponse:
        fix = "Split it into several files, or have the limit intake.max_bytes raised"
        return failures.of_error(FileTooLarge(f"the upload is over {self.max_bytes:,} bytes", fix=fix))

    async def _pass(self, scope: Scope, exchange: _Exchange) -> JSONResponse | None:
        try:
            await self.app(scope, exchange.receive, exchange.send)
        except Exception:
            if exchange.started:
                raise
            if not exchange.over:
                logger.exception("api.bug", extra={"data": {"method": scope["method"], "path": scope["path"]}})
                return failures.of_bug()
        return self._too_large() if exchange.over else None


class _Exchange:
    """One request's body, counted as it comes in, and its response, marked as it goes out."""

    def __init__(self, receive: Receive, send: Send, limit: int) -> None:
        self._receive, self._send, self._limit = receive, send, limit
        self._received = 0
        self.over = False
        self.started = False

    async def receive(self) -> Message:
        """The next piece of the body; a body over the limit ends as if the client had gone."""
        if self.over:
            return {"type": "http.disconnect"}
        message = await self._receive()
        self._received += len(message.get("body", b""))
        self.over = self._received > self._limit
        return {"type": "http.disconnect"} if self.over else message

    async def send(self, message: Message) -> None:
        """Send the app's response, unless the body was over the limit: then the refusal takes its place."""
        if self.over and not self.started:
            return
        if message["type"] == "http.response.start":
            self.started = True
            headers = MutableHeaders(scope=message)
            headers["X-Content-Type-Options"] = "nosniff"
            headers.setdefault("Cache-Control", "no-store")
        await self._send(message)

    async def refuse(self, response: JSONResponse) -> None:
        """Answer at once, then drop what the client still sends for a moment, and close the connection.

        Closing with unread bytes would reset the connection, and the client would lose the answer.
        """
        self.over = False
        response.headers["Connection"] = "close"
        await self.send(
            {"type": "http.response.start", "status": response.status_code, "headers": response.raw_headers}
        )
        await self._send({"type": "http.response.body", "body": bytes(response.body), "more_body": True})
        with anyio.move_on_after(LINGER_SECONDS):
            while (await self._receive()).get("more_body", False):
                pass
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})


def _from_this_machine(headers: Headers) -> bool:
    """Whether host and origin are this machine's: a web page elsewhere may post forms here, or rebind its name."""
    origin = headers.get("origin")
    own = is_loopback(_host_of(f"//{headers.get('host', '')}"))
    return own and (origin is None or is_loopback(_host_of(origin)))


def _host_of(address: str) -> str:
    try:
        return urlsplit(address).hostname or ""
    except ValueError:
        return ""
