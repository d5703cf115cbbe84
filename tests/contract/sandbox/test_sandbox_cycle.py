"""The whole way of a batch per dialect, driven by the real SDKs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from google.genai import types

from providers.sandbox.behaviour import Behaviour
from tests.contract.sandbox import kit
from tests.contract.sandbox.kit import Server, tells_on

COUNT = 12


def index_of(custom_id: str) -> int:
    return int(custom_id.rsplit("-", 1)[1])


def in_other_order(ids: list[str]) -> bool:
    assert sorted(ids, key=index_of) == [f"row-{index}" for index in range(COUNT)]
    return ids != sorted(ids, key=index_of)


@pytest.mark.parametrize("endpoint", [kit.CHAT, kit.RESPONSES])
def test_openai_batch_answers_every_row_with_its_own_words(server: Server, endpoint: str) -> None:
    with server.openai() as client:
        batch_id = kit.openai_create(client, kit.openai_lines("row", COUNT, endpoint), endpoint)
        assert client.batches.retrieve(batch_id).metadata == {"key": "shard"}
        batch = kit.openai_ended(client, batch_id)
        good, bad = kit.openai_results(client, batch)
    assert (batch.status, batch.error_file_id, bad) == ("completed", None, [])
    assert (batch.request_counts.total, batch.request_counts.completed) == (COUNT, COUNT)
    assert in_other_order([line["custom_id"] for line in good])
    for line in good:
        answer = json.loads(kit.openai_text(line))
        jsonschema.validate(answer, kit.SCHEMA)
        assert tells_on(answer["summary"], index_of(line["custom_id"]))
    assert batch.usage.output_tokens == sum(
        line["response"]["body"]["usage"].get("output_tokens") or line["response"]["body"]["usage"]["completion_tokens"]
        for line in good
    )


def test_anthropic_batch_answers_every_row_with_its_own_words(server: Server) -> None:
    with server.anthropic() as client:
        made = client.messages.batches.create(requests=kit.anthropic_requests("row", COUNT))
        assert made.request_counts.processing == COUNT
        batch = kit.anthropic_ended(client, made.id)
        lines = list(client.messages.batches.results(made.id))
        deleted = client.messages.batches.delete(made.id)
    assert batch.results_url.startswith(server.url)
    assert batch.request_counts.succeeded == COUNT
    assert in_other_order([line.custom_id for line in lines])
    for line in lines:
        assert line.result.type == "succeeded"
        block: Any = line.result.message.content[0]
        answer = json.loads(block.text)
        jsonschema.validate(answer, kit.SCHEMA)
        assert tells_on(answer["summary"], index_of(line.custom_id))
        assert line.result.message.usage.service_tier == "batch"
    assert deleted.type == "message_batch_deleted"


@pytest.mark.parametrize("version", ["v1", "v1beta"])
def test_gemini_file_batch_answers_every_row_with_its_own_words(server: Server, tmp_path: Path, version: str) -> None:
    with server.gemini(version=version) as client:
        name = kit.gemini_create(client, tmp_path, kit.gemini_lines("row", COUNT), "shard-1")
        job = kit.gemini_ended(client, name)
        lines = kit.gemini_results(client, job)
    assert job.state == types.JobState.JOB_STATE_SUCCEEDED
    assert job.display_name == "shard-1"
    assert in_other_order([line["key"] for line in lines])
    for line in lines:
        assert tells_on(json.loads(kit.gemini_text(line))["summary"], index_of(line["key"]))
        types.GenerateContentResponse.model_validate(line["response"])


def test_gemini_inline_batch_carries_its_results_in_the_operation(server: Server) -> None:
    requests = [
        types.InlinedRequest(contents=kit.prompt(index), metadata={"key": f"row-{index}"}) for index in range(3)
    ]
    with server.gemini() as client:
        made = client.batches.create(
            model="gemini-sim", src=requests, config=types.CreateBatchJobConfig(display_name="inline")
        )
        job = kit.gemini_ended(client, str(made.name))
    found = job.dest.inlined_responses
    assert sorted(each.metadata["key"] for each in found) == ["row-0", "row-1", "row-2"]
    for each in found:
        assert tells_on(each.response.text, index_of(each.metadata["key"]))


def test_the_raw_gemini_operation_has_stats_and_both_places_for_results(server: Server, tmp_path: Path) -> None:
    with server.gemini() as client:
        name = kit.gemini_create(client, tmp_path, kit.gemini_lines("row", 2))
        kit.gemini_ended(client, name)
    reply = server.http.get(f"{server.url}/gemini/v1/{name}", headers={"x-goog-api-key": server.key})
    operation = reply.json()
    assert operation["metadata"]["batchStats"] == {"requestCount": "2", "successfulRequestCount": "2"}
    assert operation["metadata"]["state"] == "BATCH_STATE_SUCCEEDED"
    assert operation["metadata"]["output"]["responsesFile"] == operation["response"]["responsesFile"]
    assert reply.headers["x-simulated"] == "true"


def test_every_executed_item_is_billed_once(server: Server) -> None:
    with server.anthropic() as client:
        made = client.messages.batches.create(requests=kit.anthropic_requests("bill", 5))
        kit.anthropic_ended(client, made.id)
        list(client.messages.batches.results(made.id))
        list(client.messages.batches.results(made.id))
    assert server.billed("bill-") == [f"bill-{index}" for index in range(5)]
    creates = server.get("creates")
    assert creates["counts"]["anthropic"] >= 1
    assert made.id in [each["batch_id"] for each in creates["creates"]]


def test_a_batch_that_nobody_asks_about_is_billed(server: Server) -> None:
    with server.openai() as client:
        kit.openai_create(client, kit.openai_lines("alone", 3))
    billed = kit.wait_for(lambda: server.billed("alone-") or None, "the bill")
    assert billed == ["alone-0", "alone-1", "alone-2"]


def test_a_batch_goes_through_its_states_with_growing_counts(server: Server) -> None:
    server.behave(Behaviour(batch_seconds=0.6))
    seen: list[tuple[str, int]] = []
    with server.openai() as client:
        batch_id = kit.openai_create(client, kit.openai_lines("row", COUNT))

        def look() -> bool:
            batch = client.batches.retrieve(batch_id)
            assert batch.request_counts is not None
            seen.append((batch.status, batch.request_counts.completed))
            return batch.status == "completed"

        kit.wait_for(look, "the batch's end")
    states = list(dict.fromkeys(status for status, _ in seen))
    assert states == ["validating", "in_progress", "finalizing", "completed"]
    counts = [count for status, count in seen if status == "in_progress"]
    assert counts == sorted(counts)
    assert len(set(counts)) > 2
