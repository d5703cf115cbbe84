"""What providers do to batches, and that every row still gets its answer once: rounds and unknown outcomes."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.kit import Cli, Result, Sandbox, losses, own_answer, read_csv, write_csv

DIALECTS = ("openai", "anthropic", "gemini")
ROWS = 60


@dataclass(frozen=True)
class Ran:
    """What a job left, and how many calls of it the sandbox executed."""

    result: Result
    billed: int


def run_with(cli: Cli, server: Sandbox, provider: str, *faults: dict[str, Any], **more: str) -> Ran:
    """One batch job of 60 rows against a sandbox with these faults."""
    file = write_csv(cli.folder / "a.csv", losses(ROWS))
    server.put_behaviour({"batch_seconds": 0.1, "faults": list(faults)})
    before = server.billed
    result = cli.run(file, "--mode", "batch", "--provider", provider, environ={**server.environ(), **more})
    return Ran(result, server.billed - before)


def event_names(cli: Cli) -> list[str]:
    """The names of all events of the store."""
    with sqlite3.connect(cli.folder / "store" / "ledger.sqlite") as connection:
        return [row[0] for row in connection.execute("SELECT name FROM events ORDER BY event_id")]


def check_all_answered(result: Result) -> None:
    """Every row has its own answer."""
    assert result.code == 0, result.err
    assert result.json["succeeded"] == ROWS
    assert all(own_answer(row) for row in read_csv(Path(result.json["output"])))


@pytest.mark.parametrize("provider", DIALECTS)
def test_an_expired_batch_keeps_what_was_finished_and_sends_the_rest_again(
    cli: Cli, changing: Sandbox, provider: str
) -> None:
    ran = run_with(cli, changing, provider, {"kind": "batch_expires", "share": 0.5, "times": 1})
    check_all_answered(ran.result)
    assert ran.result.json["round"] == 1
    if provider != "gemini":  # Gemini hands nothing out of an expired batch, so its work is paid for again
        assert ran.billed == ROWS


@pytest.mark.parametrize("provider", DIALECTS)
@pytest.mark.parametrize("kind", ["item_missing", "item_doubled", "item_error", "item_invalid_json", "item_truncated"])
def test_items_that_went_wrong_are_sent_again_alone(cli: Cli, changing: Sandbox, provider: str, kind: str) -> None:
    fault = {"kind": kind, "times": 7, "status": 500}
    ran = run_with(cli, changing, provider, fault)
    check_all_answered(ran.result)
    assert ran.result.json["round"] == 1
    assert ran.billed <= ROWS + 7


@pytest.mark.parametrize("provider", DIALECTS)
@pytest.mark.parametrize("kind", ["reply_lost", "accept_late", "accepted_then_500"])
def test_a_create_without_a_clear_answer_is_found_again_and_not_repeated(
    cli: Cli, changing: Sandbox, provider: str, kind: str
) -> None:
    fault = {"kind": kind, "route": "create", "times": 1, "seconds": 0.15}
    ran = run_with(cli, changing, provider, fault, BATCH_JOBS__SUBMISSION__QUARANTINE_SECONDS="3")
    check_all_answered(ran.result)
    assert ran.billed == ROWS
    names = event_names(cli)
    assert "shard.unknown_outcome" in names
    assert "shard.found" in names


@pytest.mark.parametrize("provider", DIALECTS)
def test_a_create_that_was_never_accepted_is_sent_again_after_the_quarantine(
    cli: Cli, changing: Sandbox, provider: str
) -> None:
    fault = {"kind": "connection_reset", "route": "create", "times": 1}
    ran = run_with(cli, changing, provider, fault)
    check_all_answered(ran.result)
    assert ran.billed == ROWS
    assert event_names(cli).count("shard.submitting") == 2


@pytest.mark.parametrize("provider", DIALECTS)
def test_rate_limits_and_failing_polls_only_take_time(cli: Cli, changing: Sandbox, provider: str) -> None:
    faults = [
        {"kind": "rate_limited", "route": "create", "times": 2, "seconds": 0.1},
        {"kind": "server_error", "route": "check", "times": 2, "status": 503},
        {"kind": "download_truncated", "times": 1},
    ]
    ran = run_with(cli, changing, provider, *faults)
    check_all_answered(ran.result)
    assert ran.billed == ROWS


def test_what_stays_wrong_ends_after_three_rounds_with_its_reason(cli: Cli, changing: Sandbox) -> None:
    result = run_with(cli, changing, "openai", {"kind": "item_missing", "match": "R17X"}).result
    assert result.code == 3, result.err
    assert (result.json["succeeded"], result.json["failed"], result.json["round"]) == (ROWS - 1, 1, 2)
    failed = [row for row in read_csv(Path(result.json["output"])) if row["summarize_status"] != "ok"]
    assert [row["id"] for row in failed] == ["0000017"]
    assert "missing" in failed[0]["summarize_status"]


def test_a_failed_batch_names_its_reason_and_a_token_limit_is_waited_out(cli: Cli, changing: Sandbox) -> None:
    fault = {"kind": "batch_fails", "code": "token_limit_exceeded", "times": 1}
    ran = run_with(cli, changing, "openai", fault)
    check_all_answered(ran.result)
    assert ran.billed == ROWS
