"""Two uploads with rows in common, in one store: each answer is paid for once, whoever began, whoever is killed."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from tests.acceptance.kit import Cli, losses, own_answer, read_csv, sandbox_server, write_csv

FIRST, SECOND = losses(60), losses(60, start=30)
"""Thirty rows in common."""


@pytest.mark.parametrize("dialect", ["openai", "anthropic"])
def test_the_later_upload_waits_and_takes_the_first_one_along(
    project_folder: Path, tmp_path: Path, dialect: str
) -> None:
    """The first was left at the provider, with no process of its own: the second one's process goes on with it."""
    first, second = write_csv(tmp_path / "first.csv", FIRST), write_csv(tmp_path / "second.csv", SECOND)
    with sandbox_server(tmp_path / "sandbox", {"batch_seconds": 1}) as sandbox:
        cli = Cli(project_folder, sandbox.environ())
        left = cli.run(first, "--mode", "batch", "--provider", dialect, "--detach")
        assert left.code == 0, left.err
        done = cli.run(second, "--mode", "batch", "--provider", dialect)
        assert done.code == 0, done.err
        assert "30 items are under way for job" in done.err
        assert (done.json["sent"], done.json["from_cache"]) == (30, 30)
        rows = read_csv(Path(done.json["output"]))
        assert len(rows) == 60
        assert all(own_answer(row) for row in rows)
        assert cli("status", left.json["task_id"], "--download", "--json").json["succeeded"] == 60
        _paid_once(sandbox.ask("bill?detail=1")["lines"], 90)


def test_single_calls_are_shared_and_a_killed_job_holds_nobody_up(project_folder: Path, tmp_path: Path) -> None:
    first, second = write_csv(tmp_path / "first.csv", FIRST), write_csv(tmp_path / "second.csv", SECOND)
    workers = {"BATCH_JOBS__CONCURRENT__MAX_WORKERS": "2"}
    case = ("--task", "summarize", "--data-case", "external_loss", "--yes", "--json", "--mode", "concurrent")
    with sandbox_server(tmp_path / "sandbox", {"call_ms": 3000}) as sandbox:
        cli = Cli(project_folder, {**sandbox.environ(), **workers})
        with cli.start("run", "--file", first, *case) as killed:
            while not sandbox.ask("calls").get("openai call"):
                assert killed.poll() is None
            with cli.start("run", "--file", second, *case) as waiting:
                assert waiting.stderr is not None
                lines = iter(waiting.stderr.readline, "")
                assert any("30 items are under way for job" in line for line in lines), "it did not wait"
                sandbox.put_behaviour({"call_ms": 0})
                killed.kill()
                waiting.communicate(timeout=60)
                assert waiting.returncode == 0
        again = cli("run", "--file", first, *case)
        assert again.code == 0, again.err
        _paid_once(sandbox.ask("bill?detail=1")["lines"], 90, in_flight=2)


def _paid_once(calls: list[dict[str, str]], items: int, in_flight: int = 0) -> None:
    """Every request was executed once; after a kill, at most the calls in flight twice."""
    times = Counter(call["request_hash"] for call in calls)
    assert len(times) == items
    assert sum(times.values()) - items <= in_flight
