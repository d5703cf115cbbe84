"""Several processes on one root: one of them advances a job, the others wait or read, and a dead one is replaced."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest

from batch_jobs.storage.leases import TTL_SECONDS
from tests.acceptance import api_kit
from tests.acceptance.api_kit import Server

SHARD_ITEMS, SHARDS, ROWS = 3, 4, 11
CALLS, CALL_MS, WORKERS = 48, 400, 4
TAKEN_OVER_SECONDS = 15.0
PLANNING = {"received", "planned"}
CASE = ("--task", "summarize", "--data-case", "external_loss", "--sandbox")


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """The repository's config with small shards, so that a job has several batches, and few threads."""
    project = tmp_path / "project"
    project.mkdir()
    shutil.copytree(api_kit.CONFIG.parent / "prompt_lib", project / "prompt_lib")
    settings = json.loads(api_kit.CONFIG.read_text(encoding="utf-8"))
    settings["providers"]["openai"]["limits"] = {"max_requests": SHARD_ITEMS}
    settings["concurrent"]["max_workers"] = WORKERS
    (project / "config.json").write_text(json.dumps(settings), encoding="utf-8")
    return project / "config.json"


@dataclass(frozen=True)
class Held:
    """A job's lease as it stands in the ledger."""

    pid: int
    token: int
    given_back: bool


def lease_of(root: Path, task_id: str) -> Held | None:
    with closing(sqlite3.connect(root / "store" / "ledger.sqlite", timeout=10)) as ledger:
        query = "SELECT holder, token, expires_at FROM leases WHERE name = ?"
        row = ledger.execute(query, (f"job:{task_id}",)).fetchone()
    return Held(int(row[0].rsplit(":", 2)[1]), row[1], row[2] == 0) if row else None


@contextlib.contextmanager
def two_servers(root: Path, config: Path) -> Iterator[tuple[Server, Server]]:
    with api_kit.serving(root, "--sandbox", config=config) as first:
        second = api_kit.start(root, "--sandbox", config=config)
        try:
            yield first, second
        finally:
            api_kit.end(second)


@contextlib.contextmanager
def command(root: Path, config: Path, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """A command line that runs beside the servers."""
    place = ("--config", str(config), "--root", str(root))
    process = subprocess.Popen(
        [sys.executable, "-m", "batch_jobs", *arguments, *place],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=root,
        env=api_kit.environment(),
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def creates(server: Server) -> list[str]:
    keys = [create["shard_key"] for create in server.sandbox("GET", "creates")["creates"]]
    return [key if isinstance(key, str) else key["shard_key"] for key in keys]


def test_five_processes_on_one_root_send_every_shard_once(tmp_path: Path, config: Path) -> None:
    root, rows = tmp_path / "root", api_kit.losses(ROWS, "LS")
    content = api_kit.csv_bytes(rows)
    with two_servers(root, config) as (first, second):
        first.batches_take(1.5)
        (root / "same.csv").write_bytes(content)
        task_id = first.start("same.csv", content, mode="batch")
        api_kit.wait_for(lambda: first.get(f"/jobs/{task_id}").json["phase"] not in PLANNING, "the job is planned")
        with (
            command(root, config, "run", "--file", "same.csv", *CASE, "--mode", "batch", "--yes") as again,
            command(root, config, "resume", task_id, "--sandbox") as resume,
            command(root, config, "status", task_id, "--watch", "--sandbox", "--output", "watched.csv") as watch,
        ):
            said = [(process.communicate(timeout=120)[0], process.returncode) for process in (again, resume, watch)]
        assert [code for _, code in said] == [0, 0, 0], said
        assert task_id[:12] in said[0][0], "the same file is the same job"
        for server in (first, second):
            assert server.done(task_id)["outcome"] == "complete"
            assert [job["task_id"] for job in server.get("/jobs").json["jobs"]] == [task_id]
            api_kit.check_answers(api_kit.csv_rows(server.get(f"/jobs/{task_id}/download").body), rows, "LS")
        assert sorted(creates(first)) == [f"{task_id}-r0-s{number}" for number in range(SHARDS)]
        assert executed_calls(first) == ROWS
        names = [event["name"] for event in first.get(f"/jobs/{task_id}/events").json["events"]]
        for once in ("job.planned", "job.started", "job.done"):
            assert names.count(once) == 1, names
    api_kit.check_answers(api_kit.csv_rows((root / "watched.csv").read_bytes()), rows, "LS")


def test_a_run_waits_for_the_process_that_plans_the_job(tmp_path: Path, config: Path) -> None:
    root, content = tmp_path / "root", api_kit.csv_bytes(api_kit.losses(2, "LW"))
    with api_kit.serving(root, "--sandbox", config=config) as server:
        server.batches_take(0.1)
        _held_elsewhere(root, 6.0)
        (root / "same.csv").write_bytes(content)
        server.start("same.csv", content, mode="batch")
        with command(root, config, "run", "--file", "same.csv", *CASE, "--yes") as again:
            said = again.communicate(timeout=120)[0]
        assert again.returncode == 0, said


def _held_elsewhere(root: Path, seconds: float) -> None:
    """From now on each new job is held by a machine that is not there, until its lease runs out."""
    with closing(sqlite3.connect(root / "store" / "ledger.sqlite", timeout=10)) as ledger, ledger:
        ledger.execute(
            "CREATE TRIGGER gone AFTER INSERT ON jobs BEGIN INSERT INTO leases (name, holder, token, expires_at) "
            f"VALUES ('job:' || NEW.task_id, 'gone:1:a', 7, (julianday('now') - 2440587.5) * 86400 + {seconds}); END"
        )


def _begin_calls(first: Server, second: Server, rows: list[list[str]]) -> tuple[str, Held, Server, Server]:
    """Start a job of slow calls; returns it with its lease, the server that holds it, and the other."""
    first.batches_take(1.0, call_ms=CALL_MS)
    task_id = first.start("calls.csv", api_kit.csv_bytes(rows), mode="concurrent")

    def answering() -> Held | None:
        held = lease_of(first.root, task_id)
        return held if held and not held.given_back and executed_calls(first) >= WORKERS else None

    held = api_kit.wait_for(answering, "calls are answered under a lease")
    by_pid = {server.process.pid: server for server in (first, second)}
    holder = by_pid.pop(held.pid)
    (other,) = by_pid.values()
    return task_id, held, holder, other


def _taken_over(root: Path, task_id: str, held: Held, by: Server, seconds: float) -> Held:
    """Wait until another process has the lease; the token says that it is a later one."""

    def look() -> Held | None:
        now = lease_of(root, task_id)
        return now if now and now.pid != held.pid else None

    now = api_kit.wait_for(look, "the job goes on under another process", seconds)
    assert now.pid == by.process.pid
    assert now.token > held.token
    return now


def _check_ended(server: Server, task_id: str, rows: list[list[str]]) -> None:
    job = server.done(task_id)
    assert (job["outcome"], job["succeeded"]) == ("complete", len(rows))
    api_kit.check_answers(api_kit.csv_rows(server.get(f"/jobs/{task_id}/download").body), rows, "LK")
    assert executed_calls(server) >= len(rows)


def executed_calls(server: Server) -> int:
    calls: int = server.sandbox("GET", "bill")["calls"]
    return calls


def test_a_killed_holder_is_replaced_and_the_job_ends(tmp_path: Path, config: Path) -> None:
    root, rows = tmp_path / "root", api_kit.losses(CALLS, "LK")
    with two_servers(root, config) as (first, second):
        task_id, held, holder, other = _begin_calls(first, second, rows)
        assert other.get(f"/jobs/{task_id}").json["phase"] == "running", "the other reads meanwhile"
        holder.kill()
        _taken_over(root, task_id, held, other, TAKEN_OVER_SECONDS)
        _check_ended(other, task_id, rows)
        assert executed_calls(other) <= len(rows) + WORKERS, "no more than what was in flight is asked again"


@pytest.mark.soak
def test_a_holder_that_stands_still_is_replaced_and_may_not_write_when_it_wakes(tmp_path: Path, config: Path) -> None:
    """A laptop that sleeps, a machine that swaps: its lease runs out, and the fencing token shuts it out."""
    root, rows = tmp_path / "root", api_kit.losses(CALLS, "LK")
    with two_servers(root, config) as (first, second):
        task_id, held, holder, other = _begin_calls(first, second, rows)
        os.kill(holder.process.pid, signal.SIGSTOP)
        try:
            later = _taken_over(root, task_id, held, other, TTL_SECONDS + TAKEN_OVER_SECONDS)
        finally:
            os.kill(holder.process.pid, signal.SIGCONT)
        _check_ended(other, task_id, rows)
        last = lease_of(root, task_id)
        assert last is not None
        assert last.token >= later.token
        api_kit.wait_for(lambda: holder.get("/healthz").json["open_jobs"] == 0, "the one that stood still is well")
        names = [event["name"] for event in other.get(f"/jobs/{task_id}/events").json["events"]]
        assert names.count("job.done") == 1
        assert holder.stop() == 0
        assert executed_calls(other) <= len(rows) + WORKERS, "no queued call is begun without the lease"


@pytest.mark.soak
def test_a_holder_on_a_machine_that_is_gone_is_replaced_when_its_lease_has_run_out(
    tmp_path: Path, config: Path
) -> None:
    root, rows = tmp_path / "root", api_kit.losses(2, "LK")
    with api_kit.serving(root, "--sandbox", config=config) as server:
        server.batches_take(0.1)
        _held_elsewhere(root, TTL_SECONDS)
        task_id = server.start("gone.csv", api_kit.csv_bytes(rows), mode="concurrent")
        assert server.get(f"/jobs/{task_id}").json["phase"] == "received"
        now = _taken_over(root, task_id, Held(1, 7, False), server, TTL_SECONDS + TAKEN_OVER_SECONDS)
        assert now.token >= 8
        _check_ended(server, task_id, rows)
