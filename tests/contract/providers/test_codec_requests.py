"""Requests to bytes: what the SDK's own types take, the same every time, and nothing of any other row."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import typing
from dataclasses import replace
from typing import Any

import jsonschema
import orjson
import pytest
from pydantic import TypeAdapter

from batch_jobs.models import Dialect, Parameters
from providers.connect import codec_for, default_limits
from providers.contract import Codec
from tests.contract.providers.conftest import a_request
from tests.contract.providers.wires import Wire


@pytest.fixture
def codec(wire: Wire) -> Codec:
    return codec_for(wire.dialect, wire.endpoint)


def _params_type(wire: Wire) -> Any:
    if wire.name == "openai-chat":
        from openai.types.chat.completion_create_params import CompletionCreateParamsNonStreaming

        return CompletionCreateParamsNonStreaming
    if wire.name == "openai-responses":
        from openai.types.responses.response_create_params import ResponseCreateParamsNonStreaming

        return ResponseCreateParamsNonStreaming
    from anthropic.types.message_create_params import MessageCreateParamsNonStreaming

    return MessageCreateParamsNonStreaming


def _check_with_sdk_types(wire: Wire, body: dict[str, Any]) -> None:
    """Every name is the SDK's, at every level: what its type does not know is dropped, and so found missing."""
    if wire.dialect is Dialect.GEMINI:
        from google.genai import types

        assert body.keys() <= {"contents", "systemInstruction", "generationConfig"}
        types.GenerateContentConfig.model_validate(
            {**body["generationConfig"], "systemInstruction": body.get("systemInstruction")}
        )
        for content in body["contents"]:
            types.Content.model_validate(content)
        return
    hints = typing.get_type_hints(_params_type(wire), include_extras=False)
    assert body.keys() <= hints.keys()
    for name, value in body.items():
        assert _plain(TypeAdapter(hints[name]).validate_python(value)) == value


def _plain(value: Any) -> Any:
    """Lazily validated iterables as lists."""
    if isinstance(value, dict):
        return {name: _plain(part) for name, part in value.items()}
    if isinstance(value, str | int | float | None):
        return value
    return [_plain(part) for part in value]


REQUESTS = {
    "plain": a_request(),
    "no system prompt": a_request(fixed=""),
    "all that every dialect takes": a_request(max_output_tokens=77, reasoning_effort="low"),
    "a group's part": replace(a_request(), shared="<group>é</group>" * 200, shared_by=9),
    "a group's part, no system prompt": replace(a_request(fixed=""), shared="<group>", shared_by=1),
    "awkward text": a_request('quote " backslash \\ newline \n tab \t é 漢字 🦜 \x00 </s> {"a":1} ${x} %s'),
}


@pytest.mark.parametrize("name", REQUESTS)
def test_a_body_fits_the_sdks_own_types(wire: Wire, codec: Codec, name: str) -> None:
    _check_with_sdk_types(wire, orjson.loads(codec.encode_body(REQUESTS[name])))


SHARED = "<group>\nwhat they have in common\n</group>"


def test_what_a_group_shares_stands_between_the_fixed_part_and_the_rows_own(codec: Codec) -> None:
    """And all that comes before the row's own is the same bytes: what a provider's prompt cache goes by."""
    one, other = (
        codec.encode_body(replace(a_request(text), shared=SHARED, shared_by=9)) for text in ("row one", "row two")
    )
    places = [one.index(orjson.dumps(text)[1:-1]) for text in ("You summarise.", SHARED, "row one")]
    assert places == sorted(places)
    alike = next(n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b)
    assert alike == places[2] + len("row ")
    assert one[: places[2]].count(b"what they have in common") == 1


def test_a_request_without_a_shared_part_is_what_it_always_was(wire: Wire, codec: Codec) -> None:
    """Its fingerprint is what finds an answer that was paid for."""
    body = codec.encode_body(a_request())
    assert b"cache" not in body
    known = {
        "openai-chat": "2b7bf09a4d9862ed",
        "openai-responses": "0962ac8f9313ef8e",
        "anthropic": "804b2559e1f4e946",
        "gemini": "099ca421cb0cf7e8",
    }
    assert hashlib.sha256(body).hexdigest()[:16] == known[wire.name]


def test_requests_of_a_group_are_routed_to_one_cache_at_openai(wire: Wire, codec: Codec) -> None:
    if wire.dialect is not Dialect.OPENAI:
        return
    requests = [a_request("a"), a_request("b"), a_request("c", fixed="Other.")]
    keys = [orjson.loads(codec.encode_body(replace(r, shared=SHARED)))["prompt_cache_key"] for r in requests]
    assert keys[0] == keys[1] != keys[2]
    assert orjson.loads(codec.encode_body(replace(requests[0], shared="x")))["prompt_cache_key"] != keys[0]
    assert all(len(key) <= 64 for key in keys)


@pytest.mark.parametrize(
    ("chars", "requests", "marked"), [(4_000, 9, True), (4_000, 3, True), (4_000, 2, False), (1_000, 9, False)]
)
def test_anthropic_is_asked_to_keep_a_group_where_that_pays(chars: int, requests: int, marked: bool) -> None:
    """A write for an hour costs twice the input, a hit a tenth of it; under 512 tokens nothing is kept."""
    request = replace(a_request(), shared="x" * chars, shared_by=requests)
    system = orjson.loads(codec_for(Dialect.ANTHROPIC, None).encode_body(request))["system"]
    assert [block["text"] for block in system] == ["You summarise.", "x" * chars]
    assert [block.get("cache_control") for block in system] == [
        None,
        {"type": "ephemeral", "ttl": "1h"} if marked else None,
    ]


def test_sampling_parameters_go_in_the_dialects_own_fields(wire: Wire, codec: Codec) -> None:
    body = orjson.loads(codec.encode_body(a_request(temperature=0.5, top_p=0.9)))
    if wire.dialect is Dialect.GEMINI:
        assert (body["generationConfig"]["temperature"], body["generationConfig"]["topP"]) == (0.5, 0.9)
        _check_with_sdk_types(wire, body)
    else:
        assert (body["temperature"], body["top_p"]) == (0.5, 0.9)
    if wire.dialect is Dialect.OPENAI:
        _check_with_sdk_types(wire, body)


def test_anthropic_names_the_sampling_parameters_it_refuses(wire: Wire, codec: Codec) -> None:
    refused = codec.refused_parameters(Parameters(temperature=1.0, top_p=1.0))
    assert refused == (("temperature", "top_p") if wire.dialect is Dialect.ANTHROPIC else ())


def test_an_effort_that_does_not_exist_is_refused(codec: Codec) -> None:
    assert codec.refused_parameters(Parameters(reasoning_effort="enormous")) == ("reasoning_effort",)
    assert codec.refused_parameters(Parameters(reasoning_effort="low")) == ()
    assert codec.refused_parameters(Parameters()) == ()


def _system_text(wire: Wire, body: dict[str, Any]) -> Any:
    match wire.name:
        case "openai-chat":
            return body["messages"][0] == {"role": "system", "content": "You summarise."}
        case "openai-responses":
            return body["instructions"] == "You summarise."
        case "anthropic":
            return body["system"] == [{"type": "text", "text": "You summarise."}]
        case _:
            return body["systemInstruction"] == {"parts": [{"text": "You summarise."}]}


def _output_limit(wire: Wire, body: dict[str, Any]) -> Any:
    match wire.name:
        case "openai-chat":
            return body["max_completion_tokens"]
        case "openai-responses":
            return body["max_output_tokens"]
        case "anthropic":
            return body["max_tokens"]
        case _:
            return body["generationConfig"]["maxOutputTokens"]


def test_the_fixed_part_is_the_system_prompt_unchanged(wire: Wire, codec: Codec) -> None:
    assert _system_text(wire, orjson.loads(codec.encode_body(a_request())))


def test_the_model_is_in_every_body_but_geminis(wire: Wire, codec: Codec) -> None:
    assert ("model" in orjson.loads(codec.encode_body(a_request()))) is (wire.dialect is not Dialect.GEMINI)


def test_equal_requests_have_equal_bytes_in_every_process(wire: Wire, codec: Codec) -> None:
    ours = codec.encode_body(a_request("é 漢字"))
    assert ours == codec_for(wire.dialect, wire.endpoint).encode_body(a_request("é 漢字"))
    program = (
        "import sys; from providers.connect import codec_for; from batch_jobs.models import Dialect;"
        "from tests.contract.providers.conftest import a_request;"
        f"sys.stdout.buffer.write(codec_for(Dialect('{wire.dialect}'), {wire.endpoint!r}).encode_body("
        "a_request('é 漢字')))"
    )
    other = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert other.stdout == ours


def test_no_byte_of_one_row_is_in_the_request_of_another(codec: Codec) -> None:
    bodies = [codec.encode_body(a_request(f"SECRET-{row}-END")) for row in range(50)]
    for row, body in enumerate(bodies):
        assert body.count(b"SECRET-") == 1
        assert f"SECRET-{row}-END".encode() in body


def test_a_line_wraps_the_body_as_it_is(wire: Wire, codec: Codec) -> None:
    body = codec.encode_body(a_request('a "quoted" \n text'))
    line = codec.encode_line("task-r0-s0-i7", body)
    assert line.endswith(b"\n") and line.count(b"\n") == 1 and body in line
    record = orjson.loads(line)
    inside = {Dialect.OPENAI: "body", Dialect.ANTHROPIC: "params", Dialect.GEMINI: "request"}[wire.dialect]
    assert record.pop(inside) == orjson.loads(body)
    expected = {
        Dialect.OPENAI: {"custom_id": "task-r0-s0-i7", "method": "POST", "url": wire.endpoint},
        Dialect.ANTHROPIC: {"custom_id": "task-r0-s0-i7"},
        Dialect.GEMINI: {"key": "task-r0-s0-i7"},
    }
    assert record == expected[wire.dialect]


def test_widen_gives_what_the_wider_request_would_have(wire: Wire, codec: Codec) -> None:
    narrow = a_request("é", max_output_tokens=10, reasoning_effort="low")
    wide = a_request("é", max_output_tokens=4000, reasoning_effort="low")
    assert codec.widen(codec.encode_body(narrow), 4000) == codec.encode_body(wide)
    assert _output_limit(wire, orjson.loads(codec.encode_body(wide))) == 4000


def _sent_schema(wire: Wire, body: dict[str, Any]) -> dict[str, Any]:
    match wire.name:
        case "openai-chat":
            sent = body["response_format"]["json_schema"]
            assert (sent["name"], sent["strict"]) == ("answer", True)
            schema = sent["schema"]
        case "openai-responses":
            sent = body["text"]["format"]
            assert (sent["name"], sent["strict"], sent["type"]) == ("answer", True, "json_schema")
            schema = sent["schema"]
        case "anthropic":
            assert body["output_config"]["format"]["type"] == "json_schema"
            schema = body["output_config"]["format"]["schema"]
        case _:
            assert body["generationConfig"]["responseMimeType"] == "application/json"
            schema = body["generationConfig"]["responseJsonSchema"]
    assert isinstance(schema, dict)
    return schema


def test_the_schema_travels_as_native_structured_output(wire: Wire, codec: Codec) -> None:
    schema = _sent_schema(wire, orjson.loads(codec.encode_body(a_request())))
    jsonschema.validate({"summary": "ok"}, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"summary": 1}, schema)


def test_a_codec_needs_no_sdk() -> None:
    program = (
        "import sys, providers.connect as c; from batch_jobs.models import Dialect;"
        "[c.codec_for(d, None) for d in Dialect];"
        "bad = {'openai', 'anthropic', 'google', 'httpx2', 'pydantic'} & set(sys.modules);"
        "sys.exit(str(bad) if bad else 0)"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_the_published_limits_are_known(wire: Wire) -> None:
    limits = default_limits(wire.dialect)
    assert limits.max_requests >= 50_000 and limits.max_bytes >= 200_000_000


def test_sdk_type_check_is_able_to_fail(wire: Wire, codec: Codec) -> None:
    body = json.loads(codec.encode_body(a_request()))
    with pytest.raises((AssertionError, ValueError)):
        _check_with_sdk_types(wire, {**body, "max_output_tokenz": 1})
    if wire.name == "openai-chat":
        with pytest.raises(AssertionError):
            _check_with_sdk_types(wire, {**body, "messages": [{**body["messages"][0], "contentz": "x"}]})
    inside = body["generationConfig"] if wire.dialect is Dialect.GEMINI else body
    inside.update({"maxOutputTokens": "many", "max_tokens": "many", "max_completion_tokens": "many"})
    with pytest.raises((AssertionError, ValueError)):
        _check_with_sdk_types(wire, body)
