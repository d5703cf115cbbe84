"""A provider's batch in our words: states, counts, times and reasons."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from batch_jobs import errors
from batch_jobs.models import BatchProblem, BatchState, Counts, Dialect
from providers.contract import Provider
from tests.contract.providers.loopback import Loopback, Reply
from tests.contract.providers.wires import SHARD_KEY, WIRES, Wire

STATES = [
    ("openai-chat", "validating", BatchState.IN_PROGRESS),
    ("openai-chat", "in_progress", BatchState.IN_PROGRESS),
    ("openai-chat", "finalizing", BatchState.FINALIZING),
    ("openai-chat", "completed", BatchState.COMPLETED),
    ("openai-chat", "failed", BatchState.FAILED),
    ("openai-chat", "expired", BatchState.EXPIRED),
    ("openai-chat", "cancelling", BatchState.CANCELLING),
    ("openai-chat", "cancelled", BatchState.CANCELLED),
    ("openai-chat", "brand_new", BatchState.IN_PROGRESS),
    ("anthropic", "in_progress", BatchState.IN_PROGRESS),
    ("anthropic", "canceling", BatchState.CANCELLING),
    ("anthropic", "ended", BatchState.COMPLETED),
    ("anthropic", "brand_new", BatchState.IN_PROGRESS),
    *(
        ("gemini", f"{prefix}_STATE_{state}", expected)
        for prefix in ("BATCH", "JOB")
        for state, expected in (
            ("UNSPECIFIED", BatchState.IN_PROGRESS),
            ("QUEUED", BatchState.IN_PROGRESS),
            ("PENDING", BatchState.IN_PROGRESS),
            ("RUNNING", BatchState.IN_PROGRESS),
            ("PAUSED", BatchState.IN_PROGRESS),
            ("UPDATING", BatchState.IN_PROGRESS),
            ("CANCELLING", BatchState.CANCELLING),
            ("SUCCEEDED", BatchState.COMPLETED),
            ("PARTIALLY_SUCCEEDED", BatchState.COMPLETED),
            ("FAILED", BatchState.FAILED),
            ("CANCELLED", BatchState.CANCELLED),
            ("EXPIRED", BatchState.EXPIRED),
            ("BRAND_NEW", BatchState.IN_PROGRESS),
        )
    ),
]


@pytest.mark.parametrize(("wire", "state", "expected"), [(WIRES[name], *rest) for name, *rest in STATES])
def test_a_state_is_told_in_our_words_and_in_theirs(
    loopback: Loopback, wire: Wire, provider: Provider, state: str, expected: BatchState
) -> None:
    loopback.on("GET", wire.batch, Reply(wire.batch_object(state)))
    view = provider.check(wire.batch_id)
    assert (view.state, view.provider_state, view.batch_id) == (expected, state, wire.batch_id)


def test_counts_time_and_key_are_read(loopback: Loopback, wire: Wire, provider: Provider) -> None:
    loopback.on("GET", wire.batch, Reply(wire.batch_object("x")))
    view = provider.check(wire.batch_id)
    assert view.counts == Counts(total=3, succeeded=2, failed=1)
    assert view.created_at == datetime(2026, 11, 21, 10, tzinfo=UTC)
    assert view.shard_key == (None if wire.dialect is Dialect.ANTHROPIC else SHARD_KEY)


BARE: dict[Dialect, Any] = {
    Dialect.OPENAI: {"id": "b", "status": "completed", "request_counts": None, "metadata": None, "errors": None},
    Dialect.ANTHROPIC: {"id": "b", "processing_status": "ended"},
    Dialect.GEMINI: {"name": "b"},
}


def test_what_a_provider_leaves_out_is_left_out(loopback: Loopback, wire: Wire, provider: Provider) -> None:
    loopback.on("GET", wire.batch, Reply(BARE[wire.dialect]))
    view = provider.check(wire.batch_id)
    assert (view.batch_id, view.counts, view.created_at, view.shard_key, view.problems) == (
        "b",
        Counts(),
        None,
        None,
        (),
    )


def test_a_batch_without_an_id_is_unreadable(loopback: Loopback, wire: Wire, provider: Provider) -> None:
    loopback.on("GET", wire.batch, Reply({"status": "completed"}))
    with pytest.raises(errors.UnreadableReply):
        provider.check(wire.batch_id)


@pytest.mark.parametrize("wire", [WIRES["openai-chat"]], ids=["openai"])
def test_openai_says_why_a_batch_failed(loopback: Loopback, wire: Wire, provider: Provider) -> None:
    data = [
        {"code": "invalid_json_line", "line": 3, "message": "line 3 is no JSON", "param": None},
        {"code": "token_limit_exceeded", "line": None, "message": "too many", "param": None},
    ]
    loopback.on("GET", wire.batch, Reply(wire.batch_object("failed", errors={"object": "list", "data": data})))
    assert provider.check(wire.batch_id).problems == (
        BatchProblem("invalid_json_line", "line 3 is no JSON", 3),
        BatchProblem("token_limit_exceeded", "too many", None),
    )


@pytest.mark.parametrize("wire", [WIRES["gemini"]], ids=["gemini"])
def test_gemini_says_why_a_batch_failed(loopback: Loopback, wire: Wire, provider: Provider) -> None:
    failed = wire.batch_object("BATCH_STATE_FAILED", error={"code": 9, "message": "over quota"}, done=True)
    loopback.on("GET", wire.batch, Reply(failed))
    assert provider.check(wire.batch_id).problems == (BatchProblem("FAILED_PRECONDITION", "over quota"),)


def test_a_cancel_is_one_post(loopback: Loopback, wire: Wire, provider: Provider) -> None:
    loopback.on("POST", wire.cancel, Reply({} if wire.dialect is Dialect.GEMINI else wire.batch_object("cancelling")))
    provider.cancel(wire.batch_id)
    assert loopback.count("POST", wire.cancel) == len(loopback.seen) == 1


def test_a_cancel_that_fails_is_told(loopback: Loopback, wire: Wire, provider: Provider) -> None:
    loopback.on("POST", wire.cancel, Reply(wire.error(500, "INTERNAL", "oh"), 500))
    with pytest.raises(errors.ServerFailed):
        provider.cancel(wire.batch_id)
