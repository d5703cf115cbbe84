"""Listing, paging, cancelling, deleting, and one key's view on another's work."""

from __future__ import annotations

from pathlib import Path

import anthropic
import openai
import pytest
from google.genai import errors, types

from providers.sandbox.behaviour import Behaviour
from tests.contract.sandbox import kit
from tests.contract.sandbox.kit import SLOW, Server


def test_openai_lists_pages_newest_first(server: Server) -> None:
    with server.openai() as client:
        ids = [kit.openai_create(client, kit.openai_lines("row", 1)) for _ in range(5)]
        first = client.batches.list(limit=2)
        assert [batch.id for batch in first.data] == ids[:2:-1]
        assert first.has_more
        assert [batch.id for batch in client.batches.list(limit=2)] == ids[::-1]
        names = [file.filename for file in client.files.list(purpose="batch", limit=3)]
    assert names == ["in.jsonl"] * 5


def test_anthropic_lists_pages_both_ways(server: Server) -> None:
    with server.anthropic() as client:
        ids = [client.messages.batches.create(requests=kit.anthropic_requests("r", 1)).id for _ in range(5)]
        assert [batch.id for batch in client.messages.batches.list(limit=2)] == ids[::-1]
        newer = client.messages.batches.list(before_id=ids[0], limit=2)
        assert [batch.id for batch in newer.data] == ids[2:0:-1]
        assert newer.has_more


def test_gemini_lists_pages_with_display_names(server: Server, tmp_path: Path) -> None:
    with server.gemini() as client:
        for index in range(3):
            kit.gemini_create(client, tmp_path, kit.gemini_lines("row", 1), f"shard-{index}")
        listed = list(client.batches.list(config=types.ListBatchJobsConfig(page_size=2)))
        files = list(client.files.list(config=types.ListFilesConfig(page_size=2)))
    assert [job.display_name for job in listed] == ["shard-2", "shard-1", "shard-0"]
    assert len([file for file in files if file.source == types.FileSource.UPLOADED]) == 3


def test_another_key_sees_nothing(server: Server, tmp_path: Path) -> None:
    with server.openai() as client:
        batch_id = kit.openai_create(client, kit.openai_lines("row", 1))
        kit.openai_ended(client, batch_id)
    with server.openai("other-key") as other:
        with pytest.raises(openai.NotFoundError):
            other.batches.retrieve(batch_id)
        assert batch_id not in [batch.id for batch in other.batches.list()]
    with server.anthropic() as client:
        made = client.messages.batches.create(requests=kit.anthropic_requests("r", 1)).id
    with server.anthropic("other-key") as stranger, pytest.raises(anthropic.NotFoundError):
        stranger.messages.batches.retrieve(made)
    with server.gemini() as google:
        name = kit.gemini_create(google, tmp_path, kit.gemini_lines("row", 1))
    with server.gemini("other-key") as foreign, pytest.raises(errors.ClientError) as caught:
        foreign.batches.get(name=name)
    assert caught.value.code == 404


def test_openai_cancel_keeps_what_was_finished(server: Server) -> None:
    server.behave(Behaviour(batch_seconds=3.0))
    with server.openai() as client:
        batch_id = kit.openai_create(client, kit.openai_lines("stop", 40))

        def some_are_done() -> bool:
            counts = client.batches.retrieve(batch_id).request_counts
            return counts is not None and counts.completed > 3

        kit.wait_for(some_are_done, "some work")
        assert client.batches.cancel(batch_id).status == "cancelling"
        batch = kit.openai_ended(client, batch_id)
        good, bad = kit.openai_results(client, batch)
        with pytest.raises(openai.ConflictError):
            client.batches.cancel(batch_id)
    assert batch.status == "cancelled"
    assert batch.cancelling_at
    assert 3 < len(good) < 40
    assert len(good) + len(bad) == 40
    assert {(line["response"], line["error"]["code"]) for line in bad} == {(None, "batch_cancelled")}
    assert len(server.billed("stop-")) == len(good)


def test_anthropic_cancel_says_so_per_line(server: Server) -> None:
    server.behave(SLOW)
    with server.anthropic() as client:
        made = client.messages.batches.create(requests=kit.anthropic_requests("halt", 4))
        assert client.messages.batches.cancel(made.id).processing_status == "canceling"
        with pytest.raises(anthropic.BadRequestError):
            client.messages.batches.delete(made.id)
    server.behave(Behaviour(batch_seconds=0.5))
    with server.anthropic() as client:
        made = client.messages.batches.create(requests=kit.anthropic_requests("halt", 4))
        client.messages.batches.cancel(made.id)
        batch = kit.anthropic_ended(client, made.id)
        lines = list(client.messages.batches.results(made.id))
    assert batch.request_counts.canceled == 4
    assert {line.result.type for line in lines} == {"canceled"}
    assert server.billed("halt-") == []


def test_gemini_cancel_keeps_nothing(server: Server, tmp_path: Path) -> None:
    server.behave(Behaviour(batch_seconds=0.5))
    with server.gemini() as client:
        name = kit.gemini_create(client, tmp_path, kit.gemini_lines("row", 4))
        client.batches.cancel(name=name)
        job = kit.gemini_ended(client, name)
        client.batches.delete(name=name)
        with pytest.raises(errors.ClientError):
            client.batches.get(name=name)
    assert job.state == types.JobState.JOB_STATE_CANCELLED
    assert job.dest is None


def test_files_can_be_shown_and_deleted(server: Server, tmp_path: Path) -> None:
    with server.openai() as client:
        file = client.files.create(file=("in.jsonl", b'{"a":1}\n'), purpose="batch")
        assert client.files.retrieve(file.id).bytes == 8
        assert client.files.content(file.id).content == b'{"a":1}\n'
        assert client.files.delete(file.id).deleted
        with pytest.raises(openai.NotFoundError):
            client.files.retrieve(file.id)
    path = tmp_path / "in.jsonl"
    path.write_bytes(b"x" * 20_000_000)
    config = types.UploadFileConfig(mime_type="application/jsonl", name="mine-1", display_name="shard")
    with server.gemini() as google:
        kept = google.files.upload(file=path, config=config)
        assert (kept.name, kept.display_name, kept.size_bytes) == ("files/mine-1", "shard", 20_000_000)
        with pytest.raises(errors.ClientError) as caught:
            google.files.upload(file=path, config=config)
        assert caught.value.code == 409
        google.files.delete(name="files/mine-1")
        with pytest.raises(errors.ClientError) as gone:
            google.files.get(name="files/mine-1")
    assert gone.value.code == 403
