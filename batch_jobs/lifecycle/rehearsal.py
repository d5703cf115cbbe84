"""`--sandbox`: find the project's sandbox server, or start it; it ends by itself when nobody uses it any more."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

from batch_jobs import system
from batch_jobs.errors import StoreError
from batch_jobs.storage.files import atomic_file
from batch_jobs.storage.workspace import Workspace

IDLE_EXIT_SECONDS = 60
START_SECONDS = 30.0
ANSWER_SECONDS, BUSY_SECONDS = 5.0, 120.0
LOOK_SECONDS = 0.05


def ensure_sandbox(workspace: Workspace) -> str:
    """The address of this root's sandbox, started if it does not run; its state is kept from one time to the next.

    Raises:
        StoreError: it did not start, or does not answer.
    """
    state = workspace.sandbox
    state.mkdir(parents=True, exist_ok=True)
    with system.exclusive_lock(state / "start.lock"):
        url = _running(state) or _waited_for(state)
        return url if url is not None else _start(state)


def _running(state: Path) -> str | None:
    import urllib.request

    try:
        url = str(json.loads((state / "server.json").read_bytes())["url"])
        with urllib.request.urlopen(f"{url}/sandbox/healthz", timeout=ANSWER_SECONDS) as reply:
            health = json.loads(reply.read())
    except (OSError, ValueError, KeyError):  # URLError is an OSError
        return None
    return url if health.get("simulated") is True else None


def _waited_for(state: Path) -> str | None:
    """The address of a sandbox that is there and does not answer at once: it is busy, or about to start or to end."""
    from providers.sandbox.server import is_running

    deadline = time.monotonic() + BUSY_SECONDS
    while is_running(state):
        url = _running(state)
        if url is not None:
            return url
        if time.monotonic() > deadline:
            raise StoreError(f"a sandbox uses {state} and does not answer. Stop it, then run the same command again")
        time.sleep(LOOK_SECONDS)
    return None


def _start(state: Path) -> str:
    from providers.sandbox.behaviour import REHEARSAL

    (state / "server.json").unlink(missing_ok=True)
    log, behaviour = state / "server.log", state / "behaviour.json"
    with atomic_file(behaviour) as handle:
        handle.write(REHEARSAL.to_json())
    options = ["--port", "0", "--state", str(state), "--idle-exit", str(IDLE_EXIT_SECONDS)]
    options += ["--behaviour", str(behaviour)]
    process = system.start_detached([sys.executable, "-m", "batch_jobs", "sandbox", *options], log, dict(os.environ))
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        url = _running(state)
        if url is not None:
            return url
        if process.poll() is not None:
            break
        time.sleep(LOOK_SECONDS)
    process.kill()
    raise StoreError(f"the sandbox did not start; see {log}")
