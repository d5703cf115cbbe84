"""The rehearsal server is found however busy it is, and says why it can't be started."""

from __future__ import annotations

import os
import signal
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from batch_jobs.lifecycle import rehearsal
from batch_jobs.storage.workspace import Workspace
from providers.sandbox import server as sandbox
from tests.acceptance.kit import START_SECONDS, Cli, sandbox_server


def test_a_sandbox_that_is_too_busy_to_answer_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Taken for gone, it would lose its address, and no second one may use its folder: the job would fail."""
    waits, is_running = threading.Event(), sandbox.is_running

    def seen(state: Path) -> bool:
        waits.set()
        return is_running(state)

    monkeypatch.setattr(rehearsal, "ANSWER_SECONDS", 0.2)
    monkeypatch.setattr(sandbox, "is_running", seen)
    workspace = Workspace(tmp_path, tmp_path, tmp_path)
    with sandbox_server(workspace.sandbox) as server, ThreadPoolExecutor(1) as thread:
        os.kill(server.process.pid, signal.SIGSTOP)
        found = thread.submit(rehearsal.ensure_sandbox, workspace)
        assert waits.wait(START_SECONDS)
        os.kill(server.process.pid, signal.SIGCONT)
        assert found.result(START_SECONDS) == server.url
        assert (workspace.sandbox / "server.json").exists()
    assert not is_running(workspace.sandbox)


def test_a_folder_a_port_and_a_host_that_it_cannot_have_are_named(cli: Cli, tmp_path: Path) -> None:
    with sandbox_server(tmp_path / "taken"), socket.create_server(("127.0.0.1", 0)) as listener:
        port = str(listener.getsockname()[1])
        for options, said in (
            (("--port", "0", "--state", tmp_path / "taken"), "Another sandbox uses"),
            (("--port", port, "--state", tmp_path / "other"), f"Port {port} of 127.0.0.1 can't be used"),
            (("--port", "0", "--host", "0.0.0.0"), "loopback only"),
        ):
            refused = cli("sandbox", *options)
            assert (refused.code, "Traceback" in refused.err) == (2, False), refused.err
            assert said in refused.err
