"""The outermost layer: every reply is marked as simulated, and late, cut or missing replies are made here.

Routes only leave a note (`Mischief`) in the request's scope; the transport is touched nowhere else.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import time
from dataclasses import dataclass
from enum import StrEnum

from starlette.types import ASGIApp, Message, Receive, Scope, Send

SCOPE_KEY = "sandbox.mischief"
DRIP_PIECES = 20
"""How many pieces a body comes in that is dripped."""
_NO_LINGER = struct.pack("ii", 1, 0)


class Ending(StrEnum):
    """How the connection fares."""

    SEND = "send"
    CLOSE = "close"  # closed without an answer
    RESET = "reset"  # TCP reset
    HANG = "hang"  # nothing comes
    CUT = "cut"  # closed in the middle of the body
    STALL = "stall"  # nothing more comes in the middle of the body


@dataclass(slots=True)
class Mischief:
    """What is to happen to one reply.

    Attributes:
        delay_seconds: before the reply.
        ending: how the connection fares.
        hold_seconds: how long nothing comes before it is closed; 0 until the client gives up.
        cut_after: bytes of the body that are sent before a cut or a stall.
        drip_seconds: over which the body comes, a few bytes at a time.
    """

    delay_seconds: float = 0.0
    ending: Ending = Ending.SEND
    hold_seconds: float = 0.0
    cut_after: int = 0
    drip_seconds: float = 0.0


@dataclass(slots=True)
class Activity:
    """When the last request came or went, and how many are under way."""

    last: float
    open: int = 0


class Gate:
    """ASGI layer around the app."""

    def __init__(self, app: ASGIApp, activity: Activity) -> None:
        self.app, self.activity = app, activity

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, and its reply back as its mischief wants it."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        mischief = scope[SCOPE_KEY] = Mischief()
        reply = _Reply(mischief, receive, send)
        self.activity.open += 1
        try:
            await self.app(scope, receive, reply.send)
        finally:
            self.activity.open -= 1
            self.activity.last = time.monotonic()


class _Reply:
    """One reply on its way out."""

    def __init__(self, mischief: Mischief, receive: Receive, send: Send) -> None:
        self.mischief, self.receive, self._send = mischief, receive, send
        self.left = 0
        self.size = 0
        self.gone = False

    async def send(self, message: Message) -> None:
        if self.gone:
            return
        if message["type"] == "http.response.start":
            await self._start(message)
        elif message["type"] == "http.response.body":
            await self._body(message)
        else:
            await self._send(message)

    async def _body(self, message: Message) -> None:
        body = message.get("body", b"")
        if self.mischief.ending in {Ending.CUT, Ending.STALL}:
            self.left -= len(body)
            if self.left < 0:
                await self._pour({**message, "body": body[: self.left], "more_body": True})
                if self.mischief.ending is Ending.STALL:
                    await self._wait_for_goodbye()
                await self._hang_up(reset=False)
                return
        await self._pour(message)

    async def _pour(self, message: Message) -> None:
        """Send a part of the body, at once or piece by piece."""
        body = message.get("body", b"")
        if not self.mischief.drip_seconds or not body:
            await self._send(message)
            return
        step = max(1, self.size // DRIP_PIECES)
        for start in range(0, len(body), step):
            piece = body[start : start + step]
            await asyncio.sleep(self.mischief.drip_seconds * len(piece) / max(self.size, len(body)))
            await self._send({**message, "body": piece, "more_body": True})
        if not message.get("more_body", False):
            await self._send({**message, "body": b"", "more_body": False})

    async def _start(self, message: Message) -> None:
        mischief = self.mischief
        if mischief.delay_seconds > 0:
            await asyncio.sleep(mischief.delay_seconds)
        if mischief.ending is Ending.HANG:
            await self._wait_for_goodbye()
        if mischief.ending in {Ending.CLOSE, Ending.RESET, Ending.HANG}:
            await self._hang_up(reset=mischief.ending is Ending.RESET)
            return
        self.left = mischief.cut_after
        self.size = int(dict(message.get("headers", ())).get(b"content-length", b"0"))
        headers = [*message.get("headers", ()), (b"x-simulated", b"true")]
        await self._send({**message, "headers": headers})

    async def _wait_for_goodbye(self) -> None:
        async def gone() -> None:
            while (await self.receive())["type"] != "http.disconnect":
                pass

        seconds = self.mischief.hold_seconds or None
        try:
            await asyncio.wait_for(gone(), seconds)
        except TimeoutError:
            return

    async def _hang_up(self, *, reset: bool) -> None:
        """Close the connection under the server's feet; only uvicorn's own `send` knows the transport."""
        self.gone = True
        transport: asyncio.Transport | None = getattr(getattr(self._send, "__self__", None), "transport", None)
        if transport is None:
            raise ConnectionAbortedError("this fault needs the sandbox's own server")
        if reset:
            connection: socket.socket = transport.get_extra_info("socket")
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
            transport.abort()
        else:
            transport.close()
        for _ in range(3):
            await asyncio.sleep(0)
