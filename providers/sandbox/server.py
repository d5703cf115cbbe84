"""The sandbox as a process: on loopback only, found through `server.json`, gone when nobody needs it.

`serve` blocks until a signal, or until it was idle for the given time.
"""

from __future__ import annotations

import asyncio
import fcntl
import ipaddress
import os
import socket
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

import orjson
import uvicorn

from . import base_url
from .app import create_app
from .behaviour import Behaviour
from .gate import Activity

__all__ = ["SERVER_FILE", "CannotServe", "base_url", "is_running", "serve"]

SERVER_FILE = "server.json"
LOCK_FILE = "server.lock"
GRACE_SECONDS = 2


class CannotServe(Exception):
    """The sandbox can't be started so: the host is not loopback, the folder or the port is taken."""


def serve(*, host: str, port: int, state: Path, behaviour: Behaviour, idle_exit_seconds: float | None = None) -> None:
    """Run the sandbox until it is told to stop.

    Once it listens, `state/server.json` holds {"pid","port","url","started_at"}; a clean exit removes it.

    Args:
        host: a loopback address.
        port: 0 for a free one.
        state: folder that outlives the process.
        behaviour: in force at the start.
        idle_exit_seconds: stop after so long without any request; None for never.

    Raises:
        CannotServe: the host is not loopback; another sandbox uses this state folder; the port is taken.
    """
    if not _is_loopback(host):
        raise CannotServe(f"The sandbox listens on loopback only, not on {host!r}. Use 127.0.0.1.")
    state.mkdir(parents=True, exist_ok=True)
    with (state / LOCK_FILE).open("w") as lock:
        _hold(lock, state)
        activity = Activity(time.monotonic())
        app = create_app(state, behaviour, activity=activity)
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        # asyncio turns Nagle's delay off only where the protocol is named: without it a reply takes 40 ms.
        with socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP) as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            _bind(listener, host, port)
            config = uvicorn.Config(
                app,
                log_config=None,
                access_log=False,
                server_header=False,
                timeout_graceful_shutdown=GRACE_SECONDS,
                timeout_keep_alive=60,
            )
            _Server(config, state, activity, idle_exit_seconds).run(sockets=[listener])


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _hold(lock: IO[str], state: Path) -> None:
    """Keep a second sandbox off the folder: its executions would be billed twice."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise CannotServe(f"Another sandbox uses {state}: stop it, or give this one its own folder.") from None


def _bind(listener: socket.socket, host: str, port: int) -> None:
    try:
        listener.bind((host, port))
    except OSError as error:
        raise CannotServe(f"Port {port} of {host} can't be used: {error.strerror}. Give another --port.") from error


def is_running(state: Path) -> bool:
    """Whether a sandbox uses this folder, also one that is too busy to answer, or that is about to start or to end."""
    try:
        with (state / LOCK_FILE).open("r") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except FileNotFoundError:
        return False
    return False


class _Server(uvicorn.Server):
    """uvicorn, with the file that says where it listens and the end when idle."""

    def __init__(self, config: uvicorn.Config, state: Path, activity: Activity, idle_seconds: float | None) -> None:
        super().__init__(config)
        self._file = state / SERVER_FILE
        self._activity = activity
        self._idle_seconds = idle_seconds
        self._watch: asyncio.Task[None] | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if not self.started or not sockets:
            return
        self._announce(sockets[0])
        if self._idle_seconds is not None:
            self._watch = asyncio.create_task(self._stop_when_idle(self._idle_seconds))

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        # Here and not after run(): a captured signal is raised again at its end.
        self._file.unlink(missing_ok=True)
        if self._watch is not None:
            self._watch.cancel()
        await super().shutdown(sockets)

    def _announce(self, listener: socket.socket) -> None:
        host, port = listener.getsockname()[:2]
        shown = f"[{host}]" if ":" in host else host
        content = {
            "pid": os.getpid(),
            "port": port,
            "url": f"http://{shown}:{port}",
            "started_at": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        temporary = self._file.with_suffix(".tmp")
        with temporary.open("wb") as handle:
            handle.write(orjson.dumps(content))
            handle.flush()
            os.fsync(handle.fileno())
        temporary.replace(self._file)

    async def _stop_when_idle(self, seconds: float) -> None:
        while not self.should_exit:
            left = seconds - (time.monotonic() - self._activity.last)
            if self._activity.open:
                left = max(left, min(seconds, 0.1))
            if left <= 0:
                self.should_exit = True
                return
            await asyncio.sleep(left)
