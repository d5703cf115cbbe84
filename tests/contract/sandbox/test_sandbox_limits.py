"""What the providers refuse: sizes, ids, mixed files, unknown fields, keys."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anthropic
import openai
import pytest
from google.genai import errors, types

from providers.sandbox.behaviour import Behaviour
from tests.contract.sandbox import kit
from tests.contract.sandbox.kit import FAST, Server


def changed(lines: list[dict[str, Any]], index: int, **more: Any) -> list[dict[str, Any]]:
    return [line | (more if number == index else {}) for number, line in enumerate(lines)]


LINES = kit.openai_lines("row", 3)
BROKEN: dict[str, tuple[bytes, int | None]] = {
    "duplicate_custom_id": (kit.jsonl(changed(LINES, 2, custom_id="row-0")), 3),
    "url_mismatch": (kit.jsonl(changed(LINES, 1, url=kit.RESPONSES)), 2),
    "model_mismatch": (kit.jsonl(changed(LINES, 1, body=kit.chat_body(1, model="other"))), 2),
    "invalid_json_line": (kit.jsonl(LINES) + b"{oops\n", 4),
    "empty_file": (b"\n", None),
}


@pytest.mark.parametrize("code", BROKEN)
def test_openai_fails_a_created_batch_for_its_file(server: Server, code: str) -> None:
    content, line = BROKEN[code]
    with server.openai() as client:
        file = client.files.create(file=("in.jsonl", content), purpose="batch")
        made = client.batches.create(input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h")
        batch = kit.openai_ended(client, made.id)
    assert (batch.status, batch.output_file_id, batch.error_file_id) == ("failed", None, None)
    assert batch.failed_at
    assert [(each.code, each.line) for each in batch.errors.data] == [(code, line)]


def test_openai_limits(server: Server) -> None:
    server.behave(Behaviour(batch_seconds=0.05, max_batch_requests=2, max_batch_bytes=4000))
    with server.openai() as client:
        batch = kit.openai_ended(client, kit.openai_create(client, kit.openai_lines("row", 3)))
        assert [each.code for each in batch.errors.data] == ["too_many_tasks"]
        with pytest.raises(openai.APIStatusError) as caught:
            kit.openai_create(client, kit.openai_lines("row", 30))
    assert caught.value.status_code == 413


def test_openai_refuses_a_create_that_is_wrong_itself(server: Server) -> None:
    create = {"endpoint": kit.CHAT, "completion_window": "24h"}
    with server.openai() as client:
        file = client.files.create(file=("in.jsonl", kit.jsonl(LINES)), purpose="batch")
        with pytest.raises(openai.NotFoundError):
            client.batches.create(input_file_id="file-none", **create)  # type: ignore[arg-type]
        with pytest.raises(openai.BadRequestError, match="24h"):
            client.batches.create(input_file_id=file.id, **create | {"completion_window": "1h"})  # type: ignore[arg-type]
        with pytest.raises(openai.BadRequestError, match="Unknown parameter: 'priority'"):
            client.batches.create(input_file_id=file.id, extra_body={"priority": 1}, **create)  # type: ignore[arg-type]
        with pytest.raises(openai.BadRequestError, match="metadata"):
            client.batches.create(input_file_id=file.id, metadata={"k": "v" * 513}, **create)  # type: ignore[arg-type]


@pytest.mark.parametrize("custom_id", ["has space", "x" * 65, "", "ümlaut", "a.b"])
def test_anthropic_refuses_the_whole_create_for_one_id(server: Server, custom_id: str) -> None:
    requests = [*kit.anthropic_requests("row", 1), {"custom_id": custom_id, "params": kit.message_params(1)}]
    with server.anthropic() as client:
        with pytest.raises(anthropic.BadRequestError) as caught:
            client.messages.batches.create(requests=requests)
        assert client.messages.batches.list().data == []
    message = "requests.1.custom_id: String should match pattern '^[a-zA-Z0-9_-]{1,64}$'"
    assert caught.value.body == {
        "type": "error",
        "error": {"type": "invalid_request_error", "message": message},
        "request_id": "req_sim_error",
    }


def test_anthropic_limits(server: Server) -> None:
    requests = kit.anthropic_requests("row", 3)
    with server.anthropic() as client:
        with pytest.raises(anthropic.BadRequestError, match="duplicate custom_id"):
            client.messages.batches.create(requests=[*requests, requests[0]])
        server.behave(Behaviour(max_batch_requests=2))
        with pytest.raises(anthropic.APIStatusError) as many:
            client.messages.batches.create(requests=requests)
        server.behave(Behaviour(max_batch_bytes=500))
        with pytest.raises(anthropic.APIStatusError) as big:
            client.messages.batches.create(requests=requests)
    assert (many.value.status_code, big.value.status_code) == (413, 413)
    assert "request_too_large" in str(big.value.body)


def test_a_long_anthropic_body_is_taken_as_a_stream(server: Server) -> None:
    text = 'x" ü \\ { [ ' * 300
    requests: list[Any] = [
        {"custom_id": f"long-{index}", "params": kit.message_params(index, system=text)} for index in range(800)
    ]
    with server.anthropic() as client:
        made = client.messages.batches.create(requests=requests)
        assert made.request_counts.processing == 800
        kit.anthropic_ended(client, made.id)
        found = {line.custom_id for line in client.messages.batches.results(made.id)}
    assert len(found) == 800


def test_gemini_limits(server: Server, tmp_path: Path) -> None:
    lines = kit.gemini_lines("row", 3)
    with server.gemini() as client:
        server.behave(Behaviour(max_batch_requests=2))
        with pytest.raises(errors.ClientError) as many:
            kit.gemini_create(client, tmp_path, lines)
        server.behave(FAST)
        job = kit.gemini_ended(client, kit.gemini_create(client, tmp_path, [*lines, {"key": "no-request"}]))
        with pytest.raises(errors.ClientError) as unknown:
            client.batches.create(
                model="gemini-sim", src="files/none", config=types.CreateBatchJobConfig(display_name="x")
            )
    assert (many.value.code, unknown.value.code) == (400, 403)
    assert job.state == types.JobState.JOB_STATE_FAILED


def test_unknown_fields_are_refused_in_single_calls(server: Server) -> None:
    with server.openai() as client:
        with pytest.raises(openai.BadRequestError, match="Unrecognized request argument supplied: foo"):
            client.chat.completions.create(**kit.chat_body(1), extra_body={"foo": 1})
        with pytest.raises(openai.BadRequestError, match="Unknown parameter: 'foo'"):
            client.responses.create(**kit.responses_body(1), extra_body={"foo": 1})
    with server.anthropic() as other:
        with pytest.raises(anthropic.BadRequestError, match="foo: Extra inputs are not permitted"):
            other.messages.create(**kit.message_params(1), extra_body={"foo": 1})
        for sampling in ("temperature", "top_p", "top_k"):
            with pytest.raises(anthropic.BadRequestError, match=sampling):
                other.messages.create(**kit.message_params(1), extra_body={sampling: 1})
    url = f"{server.url}/gemini/v1/models/m:generateContent"
    odd: list[tuple[dict[str, Any], str]] = [({"foo": 1}, "foo"), ({"generationConfig": {"bar": 1}}, "bar")]
    for body, name in odd:
        reply = server.http.post(url, json=kit.gemini_request(1) | body, headers={"x-goog-api-key": "k"})
        assert reply.status_code == 400
        assert f'Unknown name "{name}"' in reply.json()["error"]["message"]


def test_an_older_anthropic_version_takes_sampling_and_x_api_key(server: Server) -> None:
    headers = {"anthropic-version": "2023-06-01", "x-api-key": "k", "authorization": "Bearer invalid"}
    body = kit.message_params(1, temperature=0.5)
    reply = server.http.post(f"{server.url}/anthropic/v1/messages", json=body, headers=headers)
    assert reply.status_code == 200


def test_unknown_fields_are_errors_of_their_line_in_openai_batches(server: Server) -> None:
    bodies = {0: kit.chat_body(0), 1: kit.chat_body(1, foo=1), 2: kit.chat_body(2, stream=True)}
    lines = [line | {"body": bodies[index]} for index, line in enumerate(kit.openai_lines("odd", 3))]
    with server.openai() as client:
        good, bad = kit.openai_results(client, kit.openai_ended(client, kit.openai_create(client, lines)))
    assert [line["custom_id"] for line in good] == ["odd-0"]
    assert {(line["response"]["status_code"], line["error"]) for line in bad} == {(400, None)}
    assert server.billed("odd-") == ["odd-0"]


def test_unknown_and_refused_fields_are_errors_of_their_line_in_anthropic_batches(server: Server) -> None:
    requests = kit.anthropic_requests("strange", 4)
    requests[1]["params"]["foo"] = 1
    requests[2]["params"]["temperature"] = 0.0
    requests[3]["params"]["stream"] = True
    with server.anthropic() as other:
        made = other.messages.batches.create(requests=requests)
        kit.anthropic_ended(other, made.id)
        results = {line.custom_id: line.result for line in other.messages.batches.results(made.id)}
    assert results["strange-0"].type == "succeeded"
    for index in (1, 2, 3):
        result = results[f"strange-{index}"]
        assert result.type == "errored"
        assert result.error.error.type == "invalid_request_error"
    assert server.billed("strange-") == ["strange-0"]


def test_unknown_fields_are_errors_of_their_line_in_gemini_batches(server: Server, tmp_path: Path) -> None:
    requested = [*kit.gemini_lines("new", 1), {"key": "new-1", "request": kit.gemini_request(1, foo=1)}]
    with server.gemini() as google:
        job = kit.gemini_ended(google, kit.gemini_create(google, tmp_path, requested))
        found = {line["key"]: line for line in kit.gemini_results(google, job)}
    assert "response" in found["new-0"]
    assert found["new-1"]["error"]["code"] == 3
    assert server.billed("new-") == ["new-0"]


def test_openai_strict_schemas_are_held_to_their_rules(server: Server) -> None:
    loose = {"type": "object", "properties": {"a": {"type": "string"}}, "required": []}
    for schema, reason in [(loose, "additionalProperties"), (loose | {"additionalProperties": False}, "required")]:
        form: Any = {"type": "json_schema", "json_schema": {"name": "x", "strict": True, "schema": schema}}
        with server.openai() as client, pytest.raises(openai.BadRequestError, match=reason):
            client.chat.completions.create(**kit.chat_body(1) | {"response_format": form})


def test_missing_and_invalid_keys(server: Server) -> None:
    with server.openai("an-invalid-key") as client, pytest.raises(openai.AuthenticationError) as caught:
        client.batches.list()
    assert caught.value.code == "invalid_api_key"
    with server.anthropic("an-invalid-key") as other, pytest.raises(anthropic.AuthenticationError):
        other.messages.batches.list()
    with server.gemini("an-invalid-key") as google, pytest.raises(errors.ClientError) as refused:
        list(google.batches.list())
    assert refused.value.code == 400
    assert "API_KEY_INVALID" in str(refused.value.details)
    statuses = [
        server.http.get(server.url + path).status_code
        for path in ("/openai/v1/batches", "/anthropic/v1/messages/batches", "/gemini/v1/batches")
    ]
    assert statuses == [401, 401, 403]


def test_a_body_that_is_no_json_is_refused(server: Server) -> None:
    headers = {"authorization": "Bearer k", "x-goog-api-key": "k"}
    for path in ("/openai/v1/batches", "/anthropic/v1/messages/batches", "/gemini/v1/models/m:batchGenerateContent"):
        for content in (b"{", b"[1]", b"", b'{"requests": [{"custom_id": "a"'):
            assert server.http.post(server.url + path, content=content, headers=headers).status_code == 400


ODD: list[dict[str, Any]] = [
    {"messages": "text"},
    {"messages": [1]},
    {"messages": [{"role": "user", "content": None}], "response_format": "json"},
    {
        "messages": [{"role": "user", "content": [1, {"text": 2}]}],
        "response_format": {"type": "json_schema", "json_schema": 1},
    },
]
ODD_SCHEMAS: list[Any] = [{"enum": 5}, {"type": 5}, {"properties": [1]}, {"minLength": "x"}, {"$ref": "#"}, [1], 7]


def test_odd_bodies_never_break_the_server(server: Server) -> None:
    def chat(**more: Any) -> dict[str, Any]:
        return kit.chat_body(0) | more

    bodies = [chat(**odd) for odd in ODD]
    for schema in ODD_SCHEMAS:
        form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
        bodies.append(chat(response_format=form))
    lines = [line | {"body": body} for line, body in zip(kit.openai_lines("odd", len(bodies)), bodies, strict=True)]
    with server.openai() as client:
        good, bad = kit.openai_results(client, kit.openai_ended(client, kit.openai_create(client, lines)))
    assert len(good) + len(bad) == len(bodies)
    headers = {"authorization": "Bearer k"}
    url = f"{server.url}/openai/v1/chat/completions"
    statuses = {server.http.post(url, json=body, headers=headers).status_code for body in bodies}
    assert statuses <= {200, 400}
