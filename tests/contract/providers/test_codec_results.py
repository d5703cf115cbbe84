"""Result lines to outcomes: every shape that the providers are known to send."""

from __future__ import annotations

import json
from typing import Any

import pytest

from batch_jobs.models import Dialect, ItemResult, Outcome, Usage
from providers.connect import codec_for
from tests.contract.providers.wires import ANSWER, MODEL, WIRES, Wire

OUTCOMES = {"stop": Outcome.SUCCEEDED, "length": Outcome.TRUNCATED, "refusal": Outcome.REFUSED}


def _line(wire: Wire, answer: Any, custom_id: str = "t-r0-s0-i1") -> bytes:
    match wire.dialect:
        case Dialect.OPENAI:
            response = {"status_code": 200, "request_id": "r", "body": answer}
            record: Any = {"id": "b", "custom_id": custom_id, "response": response, "error": None}
        case Dialect.ANTHROPIC:
            record = {"custom_id": custom_id, "result": {"type": "succeeded", "message": answer}}
        case Dialect.GEMINI:
            record = {"key": custom_id, "response": answer}
    return json.dumps(record).encode() + b"\n"


def _parse(wire: Wire, line: bytes) -> ItemResult:
    return codec_for(wire.dialect, wire.endpoint).parse_line(line)


@pytest.mark.parametrize("ended", OUTCOMES)
def test_an_executed_call_has_its_outcome_usage_and_model(wire: Wire, ended: str) -> None:
    result = _parse(wire, _line(wire, wire.answer(ended=ended)))
    assert result.custom_id == "t-r0-s0-i1"
    assert result.outcome is OUTCOMES[ended]
    assert result.usage == Usage(input_tokens=90, cached_tokens=40, output_tokens=7)
    assert (result.model, result.billed, result.transient) == (MODEL, True, False)
    assert result.text == ("" if ended == "refusal" else ANSWER)
    assert bool(result.code) is (ended != "stop") and bool(result.detail) is (ended != "stop")


@pytest.mark.parametrize("text", ["", " \n"])
def test_an_answer_without_text_is_invalid(wire: Wire, text: str) -> None:
    result = _parse(wire, _line(wire, wire.answer(text)))
    assert (result.outcome, result.code, result.billed, result.transient) == (Outcome.INVALID, "empty", True, False)


@pytest.mark.parametrize(
    "line",
    [b"", b"{", b"[]", b"null", b'"x"', b"{}", b'{"custom_id":""}', b'{"key":7}', b'{"custom_id":null}', b"\xff"],
)
def test_a_line_that_is_no_result_is_a_value_error_with_a_short_reason(wire: Wire, line: bytes) -> None:
    with pytest.raises(ValueError, match=r"^.{5,60}$"):
        _parse(wire, line)


def _http(status: int, code: str | None = None, **more: Any) -> Any:
    """The two members of a line with an answer of the endpoint."""
    body = {"error": {"message": "words", "code": code, **more}} if code or more else None
    return {"response": {"status_code": status, "request_id": "r", "body": body}, "error": None}


def _unanswered(code: str) -> Any:
    return {"response": None, "error": {"code": code, "message": "words"}}


OPENAI_LINES: dict[str, tuple[Any, Outcome, str, bool]] = {
    "bad request": (_http(400, "bad"), Outcome.ERRORED, "bad", False),
    "a type alone": (_http(400, type="invalid_request_error"), Outcome.ERRORED, "invalid_request_error", False),
    "not found": (_http(404, "model_not_found"), Outcome.ERRORED, "model_not_found", False),
    "unprocessable": (_http(422), Outcome.ERRORED, "status_422", False),
    "timeout": (_http(408), Outcome.ERRORED, "status_408", True),
    "conflict": (_http(409), Outcome.ERRORED, "status_409", True),
    "rate": (_http(429, "rate_limit_exceeded"), Outcome.ERRORED, "rate_limit_exceeded", True),
    "quota": (_http(429, "insufficient_quota"), Outcome.ERRORED, "insufficient_quota", True),
    "billing": (_http(400, "billing_hard_limit_reached"), Outcome.ERRORED, "billing_hard_limit_reached", True),
    "server": (_http(500, "server_error"), Outcome.ERRORED, "server_error", True),
    "overloaded": (_http(503), Outcome.ERRORED, "status_503", True),
    "status 0": (_http(0), Outcome.ERRORED, "status_0", True),
    "filter": (_http(400, "content_filter"), Outcome.REFUSED, "content_filter", False),
    "expired": (_unanswered("batch_expired"), Outcome.EXPIRED, "batch_expired", True),
    "cancelled": (_unanswered("batch_cancelled"), Outcome.CANCELLED, "batch_cancelled", True),
    "neither": ({"response": None, "error": None}, Outcome.ERRORED, "status_0", True),
    "200 and nothing": (_http(200), Outcome.ERRORED, "unreadable_body", True),
    "200 and text": ({"response": {"status_code": 200, "body": "<p>"}}, Outcome.ERRORED, "unreadable_body", True),
    "200 and else": ({"response": {"status_code": 200, "body": {"a": 1}}}, Outcome.ERRORED, "unreadable_body", True),
}


@pytest.mark.parametrize("name", OPENAI_LINES)
@pytest.mark.parametrize("endpoint", ["/v1/chat/completions", "/v1/responses"])
def test_openai_lines_are_judged_by_their_status(endpoint: str, name: str) -> None:
    members, outcome, code, transient = OPENAI_LINES[name]
    result = codec_for(Dialect.OPENAI, endpoint).parse_line(json.dumps({"custom_id": "a", **members}).encode())
    assert (result.outcome, result.code, result.transient) == (outcome, code, transient)
    assert (result.custom_id, result.text, result.billed, result.usage) == ("a", "", False, Usage())


def _responses(**more: Any) -> ItemResult:
    wire = WIRES["openai-responses"]
    return _parse(wire, _line(wire, {**wire.answer(), **more}))


def test_a_failed_response_inside_a_200_is_an_error() -> None:
    failed = _responses(status="failed", error={"code": "server_error", "message": "oh"}, output=[])
    assert (failed.outcome, failed.code, failed.detail, failed.transient) == (
        Outcome.ERRORED, "server_error", "oh", True,
    )  # fmt: skip
    assert not _responses(status="failed", error={"code": "invalid_prompt", "message": "oh"}).transient
    assert _responses(status="failed", error={"code": "bio_policy", "message": "oh"}).outcome is Outcome.REFUSED
    assert _responses(status="cancelled").transient


def test_an_incomplete_response_says_why() -> None:
    cut = _responses(status="incomplete", incomplete_details={"reason": "max_output_tokens"})
    assert (cut.outcome, cut.code, cut.text, cut.billed) == (Outcome.TRUNCATED, "max_output_tokens", ANSWER, True)
    filtered = _responses(status="incomplete", incomplete_details={"reason": "content_filter"})
    assert (filtered.outcome, filtered.code) == (Outcome.REFUSED, "content_filter")


def test_commentary_is_no_part_of_the_answer() -> None:
    wire = WIRES["openai-responses"]
    answer = wire.answer()
    spoken = {"type": "message", "phase": "commentary", "content": [{"type": "output_text", "text": "Let me see."}]}
    answer["output"].insert(0, spoken)
    assert _parse(wire, _line(wire, answer)).text == ANSWER


def test_a_content_filter_in_chat_is_a_refusal() -> None:
    wire = WIRES["openai-chat"]
    answer = wire.answer("half")
    answer["choices"][0]["finish_reason"] = "content_filter"
    result = _parse(wire, _line(wire, answer))
    assert (result.outcome, result.code, result.billed) == (Outcome.REFUSED, "content_filter", True)


ANTHROPIC_ERRORS = {
    "invalid_request_error": False,
    "authentication_error": False,
    "permission_error": False,
    "not_found_error": False,
    "api_error": True,
    "overloaded_error": True,
    "rate_limit_error": True,
    "timeout_error": True,
    "billing_error": True,
}


def _anthropic(result: Any) -> ItemResult:
    return _parse(WIRES["anthropic"], json.dumps({"custom_id": "a", "result": result}).encode())


@pytest.mark.parametrize("kind", ANTHROPIC_ERRORS)
def test_an_anthropic_error_is_transient_by_its_type(kind: str) -> None:
    error = {"type": "error", "error": {"type": kind, "message": "words"}, "request_id": "r"}
    result = _anthropic({"type": "errored", "error": error})
    assert (result.outcome, result.code, result.detail) == (Outcome.ERRORED, kind, "words")
    assert (result.transient, result.billed) == (ANTHROPIC_ERRORS[kind], False)


def test_a_low_balance_inside_a_batch_is_a_billing_error() -> None:
    inner = {"type": "invalid_request_error", "message": "Your credit balance is too low to access the API."}
    result = _anthropic({"type": "errored", "error": {"type": "error", "error": inner}})
    assert (result.code, result.transient) == ("billing_error", True)


def test_anthropic_items_that_were_not_executed() -> None:
    expired, canceled = _anthropic({"type": "expired"}), _anthropic({"type": "canceled"})
    assert (expired.outcome, expired.transient, expired.billed) == (Outcome.EXPIRED, True, False)
    assert (canceled.outcome, canceled.transient, canceled.billed) == (Outcome.CANCELLED, True, False)


@pytest.mark.parametrize("result", [None, {}, {"type": "new_kind"}, "x"])
def test_an_anthropic_line_without_a_known_result_is_no_result(result: Any) -> None:
    with pytest.raises(ValueError, match="result"):
        _anthropic(result)


def test_anthropic_stop_reasons() -> None:
    wire = WIRES["anthropic"]
    full = wire.answer() | {"stop_reason": "model_context_window_exceeded"}
    assert _parse(wire, _line(wire, full)).outcome is Outcome.TRUNCATED
    two = wire.answer() | {"content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}
    assert _parse(wire, _line(wire, two)).text == "ab"
    told = wire.answer(ended="refusal") | {"stop_details": {"type": "refusal", "explanation": "because"}}
    assert _parse(wire, _line(wire, told)).detail == "because"
    assert _parse(wire, _line(wire, None)).code == "unreadable_body"


REFUSED = ("SAFETY", "RECITATION", "PROHIBITED_CONTENT", "SPII", "BLOCKLIST", "MODEL_ARMOR", "LANGUAGE")


@pytest.mark.parametrize("reason", REFUSED)
def test_gemini_finish_reasons_that_are_refusals(reason: str) -> None:
    wire = WIRES["gemini"]
    answer = wire.answer()
    answer["candidates"][0] |= {"finishReason": reason, "content": {}}
    result = _parse(wire, _line(wire, answer))
    assert (result.outcome, result.code, result.billed) == (Outcome.REFUSED, reason, True)


def test_gemini_stops_for_reasons_of_its_own() -> None:
    wire = WIRES["gemini"]
    answer = wire.answer()
    answer["candidates"][0]["finishReason"] = "OTHER"
    result = _parse(wire, _line(wire, answer))
    assert (result.outcome, result.code, result.transient, result.billed) == (Outcome.ERRORED, "OTHER", True, True)


GEMINI_ERRORS: list[tuple[Any, Outcome, str, bool]] = [
    ({"code": 3, "message": "m"}, Outcome.ERRORED, "INVALID_ARGUMENT", False),
    ({"code": 400, "message": "m", "status": "INVALID_ARGUMENT"}, Outcome.ERRORED, "INVALID_ARGUMENT", False),
    ({"code": 400, "message": "m"}, Outcome.ERRORED, "status_400", False),
    ({"code": 8, "message": "m"}, Outcome.ERRORED, "RESOURCE_EXHAUSTED", True),
    ({"code": 429, "message": "m"}, Outcome.ERRORED, "status_429", True),
    ({"code": 13, "message": "m"}, Outcome.ERRORED, "INTERNAL", True),
    ({"code": 14, "message": "m"}, Outcome.ERRORED, "UNAVAILABLE", True),
    ({"code": 4, "message": "m"}, Outcome.ERRORED, "DEADLINE_EXCEEDED", True),
    ({"code": 503, "message": "m", "status": "UNAVAILABLE"}, Outcome.ERRORED, "UNAVAILABLE", True),
    ({"code": 7, "message": "m"}, Outcome.ERRORED, "PERMISSION_DENIED", False),
    ({"code": 1, "message": "m"}, Outcome.CANCELLED, "CANCELLED", True),
]


@pytest.mark.parametrize(("error", "outcome", "code", "transient"), GEMINI_ERRORS)
def test_gemini_error_lines(error: Any, outcome: Outcome, code: str, transient: bool) -> None:
    result = _parse(WIRES["gemini"], json.dumps({"key": "a", "error": error}).encode())
    assert (result.outcome, result.code, result.detail, result.transient) == (outcome, code, "m", transient)


def test_gemini_inlined_responses_carry_their_key_in_metadata() -> None:
    wire = WIRES["gemini"]
    line = json.dumps({"metadata": {"key": "a"}, "response": wire.answer()}).encode()
    assert (_parse(wire, line).custom_id, _parse(wire, line).outcome) == ("a", Outcome.SUCCEEDED)
    with pytest.raises(ValueError, match="response"):
        _parse(wire, b'{"key":"a"}')


def test_an_answer_is_never_billed_without_a_usage(wire: Wire) -> None:
    answer = wire.answer()
    answer.pop("usage", answer.pop("usageMetadata", None))
    result = _parse(wire, _line(wire, answer))
    assert (result.outcome, result.billed, result.usage) == (Outcome.SUCCEEDED, False, Usage())
