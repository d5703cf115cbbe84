"""The API server on a full disk says so, and goes on when there is space; after a failed sync another one goes on."""

from __future__ import annotations

import csv
import io
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from batch_jobs.errors import EXIT_OPERATOR
from tests.acceptance.api_kit import WAIT_SECONDS, Server, end, wait_for
from tests.acceptance.kit import Sandbox, clean_environ, losses, own_answer, sandbox_server
from tests.faults.shim import Calls, Fault, build, read_log
from tests.faults.storage_sweep import sync_problems

REPOSITORY = Path(__file__).resolve().parents[2]
ROWS = 6
ADDRESS = re.compile(r"Uvicorn running on (http://\S+)")
BATCH_SECONDS = 0.6
"""Long enough for the disk to fail while a batch is with the provider."""


@dataclass
class Place:
    """A root with a sandbox behind it, and a disk that can be filled."""

    root: Path
    library: Path
    sandbox: Sandbox
    key: str

    @property
    def sentinel(self) -> Path:
        """The disk is faulty while this file is there."""
        return self.root.parent / "faulty"

    @property
    def calls(self) -> Path:
        """What the servers did below the root."""
        return self.root.parent / "calls.log"

    def start(self, fault: Fault) -> Server:
        """The server, with this fault to come."""
        log = self.root.parent / f"server-{len(list(self.root.parent.glob('server-*')))}.log"
        _, values = fault.arming(self.root, self.calls, sentinel=self.sentinel)
        options = ("--port", "0", "--config", str(REPOSITORY / "config.json"), "--root", str(self.root))
        environ = {"LD_PRELOAD": str(self.library), "PYTHONPATH": str(REPOSITORY), **self.sandbox.environ(self.key)}
        with log.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "tests.faults.shim", json.dumps(values), "serve", *options],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=self.root,
                env=clean_environ(environ),
            )

        def listens() -> str | None:
            said = log.read_text(encoding="utf-8")
            assert process.poll() is None, said
            found = ADDRESS.search(said)
            return found.group(1) if found else None

        return Server(process, wait_for(listens, "the server listens"), self.root, log)

    def kept(self) -> set[str]:
        """Folders of jobs, finished or not."""
        folders = (self.root / "batch_input", self.root / "batch_output")
        return {f"{path.parent.name}/{path.name}" for folder in folders for path in folder.glob("*")}


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    root = tmp_path / "root"
    root.mkdir()
    with sandbox_server(tmp_path / "sandbox", {"batch_seconds": BATCH_SECONDS}) as sandbox:
        yield Place(root.resolve(), build(tmp_path), sandbox, "test-key-of-the-faulty-disk")


@pytest.fixture
def servers() -> Iterator[list[Server]]:
    started: list[Server] = []
    yield started
    for server in started:
        end(server)


def table(first: int) -> tuple[list[dict[str, str]], bytes]:
    rows = losses(ROWS, first)
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    return rows, text.getvalue().encode()


def check_file(server: Server, task_id: str, given: list[dict[str, str]]) -> None:
    server.done(task_id)
    made = list(csv.DictReader(io.StringIO(server.get(f"/jobs/{task_id}/download").body.decode())))
    assert [{name: row[name] for name in given[0]} for row in made] == given
    assert all(map(own_answer, made))


def begun(place: Place, server: Server) -> tuple[str, list[dict[str, str]]]:
    """A job whose batch is with the provider, and its rows."""
    given, content = table(0)
    task_id = server.start("losses.csv", content, mode="batch")
    wait_for(lambda: place.sandbox.ask("creates")["total"], "the batch is with the provider")
    return task_id, given


def paid(place: Place) -> tuple[int, int]:
    """Executed calls and accepted batches."""
    return place.sandbox.ask("bill")["calls"], place.sandbox.ask("creates")["total"]


def test_on_a_full_disk_uploads_are_refused_and_jobs_wait(place: Place, servers: list[Server]) -> None:
    servers.append(server := place.start(Fault(Calls.GROWTH, "ENOSPC", 1, again=True)))
    task_id, given = begun(place, server)
    kept = place.kept()

    place.sentinel.touch()
    other, content = table(100)
    reply = server.upload("losses.csv", content, mode="batch")
    assert reply.status == 507
    assert "the disk is full: free some space" in reply.error["message"]
    assert reply.error["exit_code"] == EXIT_OPERATOR
    assert place.kept() == kept
    wait_for(lambda: "poller.job_failed" in server.log.read_text(), "the job meets the full disk")
    assert [(job["task_id"], job["status"]) for job in server.get("/jobs").json["jobs"]] == [(task_id, "processing")]
    assert server.get("/healthz").status == 200

    place.sentinel.unlink()
    assert server.ask("POST", f"/jobs/{task_id}/resume").status == 202
    check_file(server, task_id, given)
    check_file(server, server.start("losses.csv", content, mode="batch"), other)
    assert paid(place) == (2 * ROWS, 2)
    assert server.stop() == 0


def test_after_a_failed_sync_the_server_ends_and_another_goes_on(place: Place, servers: list[Server]) -> None:
    servers.append(server := place.start(Fault(Calls.SYNC, "EIO", 1)))
    task_id, given = begun(place, server)
    place.sentinel.touch()
    assert server.process.wait(WAIT_SECONDS) == EXIT_OPERATOR
    said = server.log.read_text().strip().splitlines()[-1]
    assert said.startswith("error  ")
    assert "could not make data durable" in said
    assert "run the same command again" in said
    assert not sync_problems(read_log(place.calls), Fault(Calls.SYNC, "EIO", 1))

    place.sentinel.unlink()
    servers.append(other := place.start(Fault(Calls.SYNC, "NONE", 0)))
    check_file(other, task_id, given)
    assert paid(place) == (ROWS, 1)
    assert other.stop() == 0
