"""Faults of requests and of whole batches: each shows its effect to a real client."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import anthropic
import httpx2
import openai
import pytest
from google.genai import errors, types

from batch_jobs.models import Dialect
from providers.sandbox.behaviour import Behaviour, Fault, FaultKind, Route
from tests.contract.sandbox import kit
from tests.contract.sandbox.kit import FAST, Server


def anthropic_ids(client: anthropic.Anthropic) -> list[str]:
    return [batch.id for batch in client.messages.batches.list()]


def test_reply_lost_accepts_the_batch(server: Server) -> None:
    server.faulty(Fault(FaultKind.REPLY_LOST, times=1))
    with server.openai() as client:
        with pytest.raises(openai.APIConnectionError):
            kit.openai_create(client, kit.openai_lines("lost", 2))
        (batch,) = client.batches.list().data
        assert batch.metadata == {"key": "shard"}
        kit.openai_ended(client, batch.id)
        assert server.billed("lost-") == ["lost-0", "lost-1"]
        assert kit.openai_create(client, kit.openai_lines("again", 1))


def test_reply_lost_on_a_call_is_billed(server: Server) -> None:
    server.faulty(Fault(FaultKind.REPLY_LOST, route=Route.CALL))
    before = server.singles()
    with server.anthropic() as client, pytest.raises(anthropic.APIConnectionError):
        client.messages.create(**kit.message_params(1))
    assert server.singles() == before + 1


def test_accept_late_shows_the_batch_only_later(server: Server) -> None:
    server.faulty(Fault(FaultKind.ACCEPT_LATE, seconds=1.0))
    with server.anthropic() as client:
        with pytest.raises(anthropic.APIConnectionError):
            client.messages.batches.create(requests=kit.anthropic_requests("late", 2))
        assert anthropic_ids(client) == []
        (batch_id,) = kit.wait_for(lambda: anthropic_ids(client), "the late batch")
        assert kit.anthropic_ended(client, batch_id).request_counts.succeeded == 2


def test_server_error_accepts_nothing(server: Server) -> None:
    server.faulty(Fault(FaultKind.SERVER_ERROR, route=Route.CREATE, status=529, times=1))
    with server.anthropic() as client:
        with pytest.raises(anthropic.APIStatusError) as caught:
            client.messages.batches.create(requests=kit.anthropic_requests("no", 1))
        assert caught.value.status_code == 529
        assert anthropic_ids(client) == []
        client.messages.batches.create(requests=kit.anthropic_requests("yes", 1))


def test_accepted_then_500(server: Server, tmp_path: Path) -> None:
    server.faulty(Fault(FaultKind.ACCEPTED_THEN_500, times=1))
    with server.gemini() as client:
        with pytest.raises(errors.ServerError) as caught:
            kit.gemini_create(client, tmp_path, kit.gemini_lines("r", 1), "shard-7")
        assert caught.value.code == 500
        assert [job.display_name for job in client.batches.list()] == ["shard-7"]


def test_connection_reset_accepts_nothing(server: Server) -> None:
    server.faulty(Fault(FaultKind.CONNECTION_RESET, route=Route.CREATE))
    with server.openai() as client:
        with pytest.raises(openai.APIConnectionError):
            kit.openai_create(client, kit.openai_lines("r", 1))
        assert client.batches.list().data == []


def test_rate_limited_with_retry_after(server: Server) -> None:
    server.faulty(Fault(FaultKind.RATE_LIMITED, seconds=17))
    with server.openai() as client, pytest.raises(openai.RateLimitError) as caught:
        client.batches.list()
    assert (caught.value.code, caught.value.response.headers["retry-after"]) == ("rate_limit_exceeded", "17")
    with server.gemini() as google, pytest.raises(errors.ClientError) as exhausted:
        list(google.batches.list())
    assert exhausted.value.status == "RESOURCE_EXHAUSTED"
    details: Any = exhausted.value.details
    assert details["error"]["details"][-1]["retryDelay"] == "17s"


def test_quota_exhausted(server: Server) -> None:
    server.faulty(Fault(FaultKind.QUOTA_EXHAUSTED))
    with server.openai() as client, pytest.raises(openai.RateLimitError) as caught:
        client.chat.completions.create(**kit.chat_body(1))
    assert caught.value.code == "insufficient_quota"
    with server.anthropic() as other, pytest.raises(anthropic.RateLimitError) as reached:
        other.messages.create(**kit.message_params(1))
    assert type(reached.value).__name__ == "EnforcedSpendLimitReachedError"
    with server.gemini() as google, pytest.raises(errors.ClientError) as exhausted:
        google.models.generate_content(model="m", contents="Hello")
    assert "QuotaFailure" in str(exhausted.value.details)


def test_auth_refused(server: Server) -> None:
    server.faulty(Fault(FaultKind.AUTH_REFUSED))
    with server.openai() as client, pytest.raises(openai.AuthenticationError):
        client.batches.list()
    with server.gemini() as google, pytest.raises(errors.ClientError) as caught:
        list(google.batches.list())
    assert caught.value.code == 403


def test_slow_reply_and_hang_run_into_the_clients_timeout(server: Server) -> None:
    server.faulty(
        Fault(FaultKind.SLOW_REPLY, dialect=Dialect.OPENAI, seconds=0.2),
        Fault(FaultKind.HANG, dialect=Dialect.ANTHROPIC),
    )
    with server.openai() as client:
        start = time.monotonic()
        client.batches.list()
        assert time.monotonic() - start >= 0.2
        with pytest.raises(openai.APITimeoutError):
            client.batches.list(timeout=0.05)
    with server.anthropic() as other, pytest.raises(anthropic.APITimeoutError):
        other.messages.batches.list(timeout=0.1)
    server.faulty(Fault(FaultKind.HANG, seconds=0.1))
    with server.anthropic() as other, pytest.raises(anthropic.APIConnectionError):
        other.messages.batches.list()


def test_match_picks_the_request(server: Server) -> None:
    server.faulty(Fault(FaultKind.SERVER_ERROR, match="platform2 ", route=Route.CALL, status=500))
    with server.openai() as client:
        client.chat.completions.create(**kit.chat_body(1))
        with pytest.raises(openai.InternalServerError):
            client.chat.completions.create(**kit.chat_body(2))


def test_batch_fails(server: Server, tmp_path: Path) -> None:
    server.faulty(Fault(FaultKind.BATCH_FAILS))
    with server.openai() as client:
        batch = kit.openai_ended(client, kit.openai_create(client, kit.openai_lines("fail", 2)))
    assert (batch.status, batch.errors.data[0].code) == ("failed", "token_limit_exceeded")
    assert "Enqueued token limit reached" in batch.errors.data[0].message
    with server.gemini() as google:
        name = kit.gemini_create(google, tmp_path, kit.gemini_lines("fail", 2))
        assert kit.gemini_ended(google, name).state == types.JobState.JOB_STATE_FAILED
    raw = server.http.get(f"{server.url}/gemini/v1beta/{name}", headers={"x-goog-api-key": server.key}).json()
    assert raw["error"]["code"] == 8
    with server.anthropic() as other:
        made = other.messages.batches.create(requests=kit.anthropic_requests("fail", 2))
        assert kit.anthropic_ended(other, made.id).request_counts.errored == 2
    assert server.billed("fail-") == []


def test_batch_expires_in_each_providers_way(server: Server, tmp_path: Path) -> None:
    server.faulty(Fault(FaultKind.BATCH_EXPIRES, share=0.25))
    with server.openai() as client:
        batch = kit.openai_ended(client, kit.openai_create(client, kit.openai_lines("exp", 8)))
        good, bad = kit.openai_results(client, batch)
    assert (batch.status, len(good), len(bad)) == ("expired", 2, 6)
    assert {line["error"]["code"] for line in bad} == {"batch_expired"}
    with server.anthropic() as other:
        made = other.messages.batches.create(requests=kit.anthropic_requests("exp", 8))
        counts = kit.anthropic_ended(other, made.id).request_counts
    assert (counts.succeeded, counts.expired) == (2, 6)
    with server.gemini() as google:
        job = kit.gemini_ended(google, kit.gemini_create(google, tmp_path, kit.gemini_lines("exp", 8)))
    assert (job.state, job.dest) == (types.JobState.JOB_STATE_EXPIRED, None)
    assert server.billed("exp-") == ["exp-0"] * 3 + ["exp-1"] * 3


def test_batch_slow(server: Server) -> None:
    server.faulty(Fault(FaultKind.BATCH_SLOW, seconds=0.3))
    with server.openai() as client:
        start = time.monotonic()
        kit.openai_ended(client, kit.openai_create(client, kit.openai_lines("slow", 1)))
    assert time.monotonic() - start >= 0.3


def test_only_error_file(server: Server) -> None:
    server.faulty(Fault(FaultKind.ONLY_ERROR_FILE, status=503))
    with server.openai() as client:
        batch = kit.openai_ended(client, kit.openai_create(client, kit.openai_lines("bad", 2)))
        good, bad = kit.openai_results(client, batch)
    assert (batch.status, batch.output_file_id, good) == ("completed", None, [])
    assert [line["response"]["status_code"] for line in bad] == [503, 503]


def test_list_lag(server: Server) -> None:
    server.faulty(Fault(FaultKind.LIST_LAG, seconds=1.0))
    with server.openai() as client:
        batch_id = kit.openai_create(client, kit.openai_lines("lag", 1))
        assert client.batches.list().data == []
        assert client.batches.retrieve(batch_id).id == batch_id
        kit.wait_for(lambda: client.batches.list().data, "the batch in the list")


def test_unknown_state(server: Server) -> None:
    server.faulty(Fault(FaultKind.UNKNOWN_STATE, seconds=1.0))
    with server.openai() as client, server.anthropic() as other:
        batch_id = kit.openai_create(client, kit.openai_lines("odd", 1))
        made = other.messages.batches.create(requests=kit.anthropic_requests("odd", 1))
        assert str(client.batches.retrieve(batch_id).status) == "reviewing_sim"
        assert str(made.processing_status) == "reviewing_sim"
        assert kit.openai_ended(client, batch_id).status == "completed"
        assert kit.anthropic_ended(other, made.id)


def test_counts_lie(server: Server) -> None:
    server.faulty(Fault(FaultKind.COUNTS_LIE))
    with server.anthropic() as client:
        made = client.messages.batches.create(requests=kit.anthropic_requests("lie", 2))
        counts = kit.anthropic_ended(client, made.id).request_counts
        assert len(list(client.messages.batches.results(made.id))) == 2
    assert (counts.succeeded, counts.errored) != (2, 0)


def test_download_truncated(server: Server) -> None:
    server.faulty(Fault(FaultKind.DOWNLOAD_TRUNCATED, times=1))
    with server.openai() as client:
        batch = kit.openai_ended(client, kit.openai_create(client, kit.openai_lines("cut", 3)))
        with pytest.raises((openai.APIConnectionError, httpx2.RemoteProtocolError)):
            client.files.content(batch.output_file_id).read()
        assert len(client.files.content(batch.output_file_id).text.splitlines()) == 3
        server.faulty(Fault(FaultKind.DOWNLOAD_TRUNCATED, code="no_newline"))
        content = client.files.content(batch.output_file_id).content
    assert not content.endswith(b"\n")
    with pytest.raises(ValueError):
        json.loads(content.splitlines()[-1])


def test_file_not_ready(server: Server, tmp_path: Path) -> None:
    server.faulty(Fault(FaultKind.FILE_NOT_READY, seconds=1.0))
    with server.openai() as client:
        file = client.files.create(file=("in.jsonl", kit.jsonl(kit.openai_lines("r", 1))), purpose="batch")
        with pytest.raises(openai.NotFoundError):
            client.batches.create(input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h")

        def ready() -> bool:
            try:
                return bool(client.files.retrieve(file.id))
            except openai.NotFoundError:
                return False

        kit.wait_for(ready, "the file")
    path = tmp_path / "in.jsonl"
    path.write_bytes(kit.jsonl(kit.gemini_lines("r", 1)))
    with server.gemini() as google:
        kept = google.files.upload(file=path, config=types.UploadFileConfig(mime_type="application/jsonl"))
        assert kept.state == types.FileState.PROCESSING
        with pytest.raises(errors.ClientError):
            google.batches.create(model="m", src=str(kept.name), config=types.CreateBatchJobConfig(display_name="x"))
        kit.wait_for(lambda: google.files.get(name=str(kept.name)).state == types.FileState.ACTIVE, "the file")


def test_a_batch_keeps_the_behaviour_it_was_created_with(server: Server) -> None:
    server.behave(Behaviour(batch_seconds=0.3, shuffle=False))
    with server.openai() as client:
        batch_id = kit.openai_create(client, kit.openai_lines("old", 6))
        server.faulty(Fault(FaultKind.ITEM_MISSING))
        good, _ = kit.openai_results(client, kit.openai_ended(client, batch_id))
    assert [line["custom_id"] for line in good] == [f"old-{index}" for index in range(6)]


def test_requests_are_counted(server: Server) -> None:
    server.behave(FAST)
    server.http.post(f"{server.url}/sandbox/forget").raise_for_status()
    with server.openai() as client:
        kit.openai_create(client, kit.openai_lines("c", 1))
    assert server.get("calls") == {"openai create": 1, "openai upload": 1}
