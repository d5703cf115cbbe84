"""A server that is stopped or killed between an upload and its end: the next one goes on, and nothing is sent twice."""

from __future__ import annotations

import json
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from tests.acceptance import api_kit
from tests.acceptance.api_kit import Server

ROWS = 8
SHARD_ITEMS = 3
SHARDS = 3
HELD_ELSEWHERE = """CREATE TRIGGER held_elsewhere AFTER INSERT ON jobs BEGIN
    INSERT INTO leases (name, holder, token, expires_at) VALUES ('job:' || NEW.task_id, 'elsewhere:1:a', 1, 9e9); END"""
"""Each new job is held by another machine at once, so that the servers here need not begin what they can't end."""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """The repository's config with small shards, so that a job has several batches."""
    project = tmp_path / "project"
    project.mkdir()
    shutil.copytree(api_kit.CONFIG.parent / "prompt_lib", project / "prompt_lib")
    settings = json.loads(api_kit.CONFIG.read_text(encoding="utf-8"))
    settings["providers"]["openai"]["limits"] = {"max_requests": SHARD_ITEMS}
    path = project / "config.json"
    path.write_text(json.dumps(settings), encoding="utf-8")
    return path


@pytest.mark.parametrize(("how", "moment"), [("stop", "sent"), ("kill", "sent"), ("kill", "accepted")])
def test_a_job_goes_on_after_a_restart_and_every_shard_is_created_once(
    tmp_path: Path, config: Path, how: str, moment: str
) -> None:
    root = tmp_path / "root"
    rows = api_kit.losses(ROWS, "RS")
    with api_kit.serving(root, "--sandbox", config=config) as first:
        first.batches_take(1.0)
        task_id = first.start("restart.csv", api_kit.csv_bytes(rows), mode="batch")
        if moment == "sent":
            api_kit.wait_for(lambda: len(_creates(first)) == SHARDS, "every shard is created")
        if how == "stop":
            assert first.stop() == 0
        else:
            first.kill()

        second = api_kit.start(root, "--sandbox", config=config)
        try:
            assert second.done(task_id)["outcome"] == "complete"
            api_kit.check_answers(api_kit.csv_rows(second.get(f"/jobs/{task_id}/download").body), rows, "RS")
            assert sorted(_creates(second)) == [f"{task_id}-r0-s{number}" for number in range(SHARDS)]
            assert second.stop() == 0
        finally:
            api_kit.end(second)


def test_a_stop_lets_calls_in_flight_finish(tmp_path: Path) -> None:
    rows = api_kit.losses(60, "FL")
    with api_kit.serving(tmp_path, "--sandbox") as first:
        first.batches_take(1.0, call_ms=300)
        task_id = first.start("calls.csv", api_kit.csv_bytes(rows), mode="concurrent")
        api_kit.wait_for(lambda: _executed(first) > 0, "calls are answered")
        assert first.stop() == 0

        second = api_kit.start(tmp_path, "--sandbox")
        try:
            job = second.done(task_id)
            assert (job["outcome"], job["succeeded"]) == ("complete", 60)
            assert _executed(second) == 60
        finally:
            api_kit.end(second)


@pytest.mark.parametrize("kills", [4, pytest.param(10, marks=pytest.mark.soak)])
def test_a_job_that_was_accepted_is_there_after_a_kill_in_the_next_moment(tmp_path: Path, kills: int) -> None:
    """202 is the server's word: the client has read no more than that when the server dies."""
    accepted: dict[str, bytes] = {}
    with api_kit.serving(tmp_path, "--sandbox") as running:
        running.batches_take(0.1)
        _ledger(tmp_path, HELD_ELSEWHERE)
        try:
            for number in range(kills):
                content = api_kit.csv_bytes(api_kit.losses(2, f"K{chr(65 + number)}"))
                reply = running.upload("kept.csv", content, mode="concurrent")
                running.process.kill()
                assert reply.status == 202
                accepted[reply.json["task_id"]] = content
                running.process.wait()
                running = api_kit.start(tmp_path, "--sandbox")
                _check_kept(running, accepted)
            _ledger(tmp_path, "DELETE FROM leases")
            assert running.done(list(accepted)[-1], 60)["outcome"] == "complete"
        finally:
            api_kit.end(running)
    assert len(accepted) == kills


def _ledger(root: Path, statement: str) -> None:
    with closing(sqlite3.connect(root / "store" / "ledger.sqlite", timeout=30)) as ledger, ledger:
        ledger.execute(statement)


def _check_kept(server: Server, accepted: dict[str, bytes]) -> None:
    """Every job that was ever accepted is listed, and its upload is kept byte for byte; nothing else is there."""
    listed = server.get("/jobs?limit=200").json["jobs"]
    assert {job["task_id"] for job in listed} == set(accepted)
    kept = {path.name: (path / "upload.csv").read_bytes() for path in (server.root / "batch_input").iterdir()}
    assert kept == accepted
    for task_id in accepted:
        assert server.get(f"/jobs/{task_id}/events").json["events"][0]["name"] == "job.received"


def _creates(server: Server) -> list[str]:
    keys = [create["shard_key"] for create in server.sandbox("GET", "creates")["creates"]]
    return [key if isinstance(key, str) else key["shard_key"] for key in keys]


def _executed(server: Server) -> int:
    calls: int = server.sandbox("GET", "bill")["calls"]
    return calls
