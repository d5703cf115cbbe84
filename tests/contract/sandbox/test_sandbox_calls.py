"""Single calls: typed replies of the real SDKs, usage, caching, headers, limits of pace."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime
from typing import Any

import anthropic
import openai
import pytest
from google.genai import types

from providers._allowance import anthropic_allowance, go_seconds, openai_allowance
from providers.sandbox.behaviour import Behaviour
from providers.sandbox.openai_wire import go_duration
from tests.contract.sandbox import kit
from tests.contract.sandbox.kit import Server, tells_on

LONG = "Follow the rules of the house at all times. " * 120
assert len(LONG) > 4096


def test_a_chat_completion_is_typed_and_simulated(server: Server) -> None:
    with server.openai() as client:
        reply = client.chat.completions.with_raw_response.create(**kit.chat_body(3))
        done = reply.parse()
    assert done.system_fingerprint == "simulated"
    assert done.model == "gpt-sim"
    assert done.choices[0].finish_reason == "stop"
    assert tells_on(json.loads(str(done.choices[0].message.content))["summary"], 3)
    assert done.usage is not None
    assert done.usage.total_tokens == done.usage.prompt_tokens + done.usage.completion_tokens
    assert reply.headers["x-simulated"] == "true"
    assert reply.headers["x-ratelimit-remaining-requests"].isdecimal()
    assert reply.headers["x-request-id"]


def test_a_response_is_typed(server: Server) -> None:
    with server.openai() as client:
        done = client.responses.create(**kit.responses_body(4))
    assert done.status == "completed"
    assert tells_on(json.loads(done.output_text)["summary"], 4)
    assert done.usage is not None
    assert done.usage.input_tokens > 0


def test_a_message_is_typed(server: Server) -> None:
    with server.anthropic() as client:
        reply = client.messages.with_raw_response.create(**kit.message_params(5))
        done = reply.parse()
    block: Any = done.content[0]
    assert tells_on(json.loads(block.text)["summary"], 5)
    assert done.stop_reason == "end_turn"
    assert reply.headers["anthropic-ratelimit-requests-remaining"].isdecimal()
    assert reply.headers["request-id"]


def test_generate_content_is_typed(server: Server) -> None:
    config = types.GenerateContentConfig(
        system_instruction="Be brief.",
        response_mime_type="application/json",
        response_schema=types.Schema(
            type=types.Type.OBJECT, properties={"summary": types.Schema(type=types.Type.STRING)}
        ),
    )
    with server.gemini() as client:
        done = client.models.generate_content(model="gemini-sim", contents=kit.prompt(6), config=config)
    assert tells_on(json.loads(str(done.text))["summary"], 6)
    assert done.usage_metadata is not None
    assert done.usage_metadata.prompt_token_count


def test_without_a_schema_the_answer_is_plain_text(server: Server) -> None:
    with server.openai() as client:
        done = client.chat.completions.create(
            model="gpt-sim", messages=[{"role": "user", "content": f"Short.\n\n{kit.row_text(9)}\n\nThanks."}]
        )
    assert done.choices[0].message.content == "Rig platform9 lost valve9 near Port9. Crew9 stopped the leak."


def test_a_long_fixed_part_is_cached_from_the_second_call_on(server: Server) -> None:
    body = kit.responses_body(1) | {"instructions": LONG + server.key}
    with server.openai() as client:
        usages = [client.responses.create(**body).usage for _ in range(2)]
    cached = [usage.input_tokens_details.cached_tokens for usage in usages if usage]
    assert cached[0] == 0
    assert cached[1] >= 1024

    system = [{"type": "text", "text": LONG + server.key, "cache_control": {"type": "ephemeral"}}]
    with server.anthropic() as client:
        first, second = (client.messages.create(**kit.message_params(1, system=system)).usage for _ in range(2))
    assert first.cache_creation_input_tokens == second.cache_read_input_tokens
    assert (first.cache_read_input_tokens, second.cache_creation_input_tokens) == (0, 0)
    assert second.cache_read_input_tokens


def test_an_answer_over_the_output_limit_is_cut(server: Server) -> None:
    with server.anthropic() as client:
        done = client.messages.create(**kit.message_params(1) | {"max_tokens": 5})
    assert (done.stop_reason, done.usage.output_tokens) == ("max_tokens", 5)


def test_calls_above_the_pace_get_429_with_retry_after(server: Server) -> None:
    server.behave(Behaviour(requests_per_minute=12))
    with server.openai() as client:
        for _ in range(2):
            client.chat.completions.create(**kit.chat_body(1))
        with pytest.raises(openai.RateLimitError) as caught:
            client.chat.completions.create(**kit.chat_body(1))
    assert caught.value.code == "rate_limit_exceeded"
    assert 1 <= int(caught.value.response.headers["retry-after"]) <= 5
    with server.anthropic() as other, pytest.raises(anthropic.RateLimitError):
        for _ in range(3):
            other.messages.create(**kit.message_params(1))


def test_a_call_takes_as_long_as_it_is_told_and_is_billed(server: Server) -> None:
    before = server.singles()
    server.behave(Behaviour(call_ms=150))
    with server.openai() as client:
        start = time.monotonic()
        client.chat.completions.create(**kit.chat_body(1))
        assert time.monotonic() - start >= 0.15
    assert server.singles() == before + 1
    assert server.get("bill?detail=1")["lines"][-1]["kind"] == "single"


def test_the_headers_tell_the_limits_and_what_is_left_of_them(server: Server) -> None:
    server.behave(Behaviour(requests_per_minute=60, tokens_per_minute=60_000))
    with server.openai() as client:
        found = openai_allowance(client.chat.completions.with_raw_response.create(**kit.chat_body(1)).headers)
    assert found is not None
    assert (found.requests_limit, found.requests_remaining, found.tokens_limit) == (60, 9, 60_000)
    assert 0.9 < (found.requests_reset_seconds or 0) <= 1.1
    with server.anthropic() as other:
        headers = other.messages.with_raw_response.create(**kit.message_params(1)).headers
    said = anthropic_allowance(headers, datetime.now(UTC))
    assert said is not None
    assert (said.requests_limit, said.tokens_limit) == (60, 60_000)
    assert headers["anthropic-ratelimit-input-tokens-limit"] == "48000"


def test_calls_above_the_tokens_of_a_minute_get_429(server: Server) -> None:
    server.behave(Behaviour(tokens_per_minute=600))
    with server.openai() as client, pytest.raises(openai.RateLimitError) as caught:
        for _ in range(9):
            client.chat.completions.create(**kit.chat_body(1))
    found = openai_allowance(caught.value.response.headers)
    assert found is not None
    assert found.tokens_limit == 600
    assert float(caught.value.response.headers["retry-after-ms"]) > 0


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.0, "0ms"), (0.12, "120ms"), (1.0, "1s"), (1.5, "1.5s"), (60.0, "1m0s"), (372.0, "6m12s")]
)
def test_durations_are_written_as_go_does(seconds: float, text: str) -> None:
    assert go_duration(seconds) == text
    assert go_seconds(text) == pytest.approx(seconds)
