"""Faults in the providers' own words, as their SDKs hand them on; what our clients make of them stands beside."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anthropic
import openai
import pytest
from google.genai import errors, types

from providers.sandbox.behaviour import Behaviour, Fault, FaultKind, Route
from tests.contract.sandbox import kit
from tests.contract.sandbox.kit import FAST, Server


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


def test_match_picks_the_request(server: Server) -> None:
    server.faulty(Fault(FaultKind.SERVER_ERROR, match="platform2 ", route=Route.CALL, status=500))
    with server.openai() as client:
        client.chat.completions.create(**kit.chat_body(1))
        with pytest.raises(openai.InternalServerError):
            client.chat.completions.create(**kit.chat_body(2))


def test_file_not_ready(server: Server, tmp_path: Path) -> None:
    server.faulty(Fault(FaultKind.FILE_NOT_READY, seconds=600))
    with server.openai() as client:
        file = client.files.create(file=("in.jsonl", kit.jsonl(kit.openai_lines("r", 1))), purpose="batch")
        with pytest.raises(openai.NotFoundError):
            client.batches.create(input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h")
        with pytest.raises(openai.NotFoundError):
            client.files.retrieve(file.id)
        server.forward(600)
        assert client.files.retrieve(file.id).status == "processed"
    path = tmp_path / "in.jsonl"
    path.write_bytes(kit.jsonl(kit.gemini_lines("r", 1)))
    with server.gemini() as google:
        kept = google.files.upload(file=path, config=types.UploadFileConfig(mime_type="application/jsonl"))
        assert kept.state == types.FileState.PROCESSING
        with pytest.raises(errors.ClientError):
            google.batches.create(model="m", src=str(kept.name), config=types.CreateBatchJobConfig(display_name="x"))
        server.forward(600)
        assert google.files.get(name=str(kept.name)).state == types.FileState.ACTIVE


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
