"""The API as a process: its keys, its address, its start and its end."""

from __future__ import annotations

import hashlib
import signal
from collections.abc import Collection, Mapping
from types import FrameType

import uvicorn

from batch_jobs import system
from batch_jobs.api.app import create_app
from batch_jobs.api.guard import is_loopback
from batch_jobs.api.logs import log_config
from batch_jobs.errors import ConfigError
from batch_jobs.lifecycle.project import Project

KEYS_VARIABLE = "BATCH_JOBS_API_KEYS"
GRACE_SECONDS = 30
"""How long uploads and downloads may go on once the server was told to stop."""


def api_keys(environ: Mapping[str, str]) -> frozenset[bytes]:
    """The sha256 digests of the keys in BATCH_JOBS_API_KEYS, which are separated by commas."""
    keys = (key.strip() for key in environ.get(KEYS_VARIABLE, "").split(","))
    return frozenset(hashlib.sha256(key.encode()).digest() for key in keys if key)


def check_address(host: str, keys: Collection[bytes]) -> None:
    """Refuse to serve other machines without a key.

    Raises:
        ConfigError: the host is not loopback and there are no keys.
    """
    if not keys and not is_loopback(host):
        raise ConfigError(
            f"--host {host} can be reached from other machines, and no API key is set: anybody could upload and spend. "
            f"Set keys (export {KEYS_VARIABLE}=key1,key2), or serve this machine only: --host 127.0.0.1"
        )


def run_server(project: Project, host: str, port: int, keys: Collection[bytes]) -> None:
    """Serve until SIGTERM or Ctrl-C; what is in flight then is finished first.

    Args:
        project: opened.
        host: checked here once more.
        port: 0 for a free one; the log names it.
        keys: of `api_keys`.

    Raises:
        ConfigError: the address can't be used.
        SyncFailed: the disk could not make data durable; another process has to go on.
    """
    check_address(host, keys)
    project.workers.apart = True
    config = uvicorn.Config(
        create_app(project, keys),
        host=host,
        port=port,
        log_config=log_config(),
        server_header=False,
        timeout_graceful_shutdown=GRACE_SECONDS,
    )
    server = _Server(config)
    try:
        server.run()
        system.require_durable()
    except SystemExit as error:
        raise ConfigError(
            f"can't serve on {host}, port {port}; the log above says why. Give another --port (0 for any)"
        ) from error


class _Server(uvicorn.Server):
    """uvicorn, which returns after a signal instead of raising it again: the store is still to be closed."""

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002
        """Stop in order; a second signal ends the process at once, as kill -9 would, and loses as little."""
        self.should_exit = True
        for each in (signal.SIGINT, signal.SIGTERM):
            signal.signal(each, signal.SIG_DFL)

    async def on_tick(self, counter: int) -> bool:
        """Also stop when a sync has failed: nothing that this process says is durable may be believed any more."""
        return system.sync_has_failed() or await super().on_tick(counter)
