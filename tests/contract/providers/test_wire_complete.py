"""One call now: a row's failure is a value, the account's failure is raised."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import orjson
import pytest

from batch_jobs import errors
from batch_jobs.models import Dialect, Outcome, Usage
from providers.connect import connect
from providers.contract import Provider
from tests.contract.providers.conftest import a_request
from tests.contract.providers.loopback import Loopback, Reply
from tests.contract.providers.wires import ANSWER, KEY, MODEL, WIRES, Wire


def _body(provider: Provider) -> bytes:
    return provider.codec.encode_body(a_request("é 漢字", reasoning_effort="low", max_output_tokens=99))


@pytest.mark.parametrize(
    ("ended", "outcome"),
    [("stop", Outcome.SUCCEEDED), ("length", Outcome.TRUNCATED), ("refusal", Outcome.REFUSED)],
)
def test_an_answer_is_read_as_in_a_batch(
    loopback: Loopback, wire: Wire, provider: Provider, ended: str, outcome: Outcome
) -> None:
    loopback.on("POST", wire.complete, Reply(wire.answer(ended=ended)))
    result = provider.complete(_body(provider))
    assert (result.custom_id, result.outcome, result.billed) == ("", outcome, True)
    assert result.usage == Usage(90, 40, 7)
    assert result.text == ("" if ended == "refusal" else ANSWER)


def test_the_very_body_is_sent(loopback: Loopback, wire: Wire, provider: Provider) -> None:
    loopback.on("POST", wire.complete, Reply(wire.answer()))
    body = _body(provider)
    provider.complete(body)
    sent = loopback.seen[0]
    assert sent.json() == orjson.loads(body)
    assert sent.headers["content-type"] == "application/json"
    if wire.dialect is not Dialect.GEMINI:  # whose SDK writes its JSON anew
        assert sent.body == body


@pytest.mark.parametrize("status", [400, 422])
def test_a_rejected_item_is_a_result(loopback: Loopback, wire: Wire, provider: Provider, status: int) -> None:
    loopback.on("POST", wire.complete, Reply(wire.error(status, "bad_thing", "this row is wrong"), status))
    result = provider.complete(_body(provider))
    assert (result.outcome, result.code, result.detail) == (Outcome.ERRORED, "bad_thing", "this row is wrong")
    assert (result.transient, result.billed, result.custom_id) == (False, False, "")


@pytest.mark.parametrize(
    ("status", "code", "expected"),
    [
        (401, "authentication_error", errors.AuthRefused),
        (403, "permission_error", errors.AuthRefused),
        (404, "model_not_found", errors.RequestRejected),
        (429, "rate_limit_error", errors.RateLimited),
        (429, "insufficient_quota", errors.QuotaExhausted),
        (400, "billing_hard_limit_reached", errors.QuotaExhausted),
        (500, "api_error", errors.ServerFailed),
    ],
)
def test_what_concerns_the_account_or_the_way_is_raised(
    loopback: Loopback, wire: Wire, provider: Provider, status: int, code: str, expected: type[Exception]
) -> None:
    loopback.on("POST", wire.complete, Reply(wire.error(status, code, "words"), status))
    with pytest.raises(expected):
        provider.complete(_body(provider))
    assert loopback.count("POST", wire.complete) == 1


@pytest.mark.parametrize("reply", [b"", b"<html>", b"[]"])
def test_an_unreadable_answer_is_raised(loopback: Loopback, wire: Wire, provider: Provider, reply: bytes) -> None:
    loopback.on("POST", wire.complete, Reply(reply))
    with pytest.raises(errors.UnreadableReply):
        provider.complete(_body(provider))
    assert loopback.count("POST", wire.complete) == 1


def test_a_lost_call_is_not_repeated(loopback: Loopback, wire: Wire, connected: Callable[..., Provider]) -> None:
    loopback.on("POST", wire.complete, Reply(reset=True), Reply(hang=True))
    provider = connected(wire, timeout_seconds=0.3)
    with pytest.raises(errors.ConnectionFailed):
        provider.complete(_body(provider))
    with pytest.raises(errors.TimedOut):
        provider.complete(_body(provider))
    assert loopback.count("POST", wire.complete) == 2


@pytest.fixture
def gemini(connected: Callable[..., Provider]) -> Provider:
    return connected(WIRES["gemini"])


def test_gemini_does_not_continue_an_answer_by_itself(loopback: Loopback, gemini: Provider) -> None:
    wire = WIRES["gemini"]
    answer = wire.answer("half")
    answer["candidates"][0] |= {"finishReason": "CONTINUATION", "continuationToken": "t"}
    loopback.on("POST", wire.complete, Reply(answer))
    assert gemini.complete(_body(gemini)).outcome is Outcome.TRUNCATED
    assert loopback.count("POST", wire.complete) == 1


GEMINI_400: list[tuple[Any, type[Exception]]] = [
    ({"status": "INVALID_ARGUMENT", "details": [{"reason": "API_KEY_INVALID"}]}, errors.AuthRefused),
    ({"status": "FAILED_PRECONDITION"}, errors.RequestRejected),
]


@pytest.mark.parametrize(("error", "expected"), GEMINI_400)
def test_a_gemini_400_about_the_account_is_no_items(
    loopback: Loopback, gemini: Provider, error: Any, expected: type[Exception]
) -> None:
    loopback.on("POST", WIRES["gemini"].complete, Reply({"error": {"code": 400, "message": "m", **error}}, 400))
    with pytest.raises(expected):
        gemini.complete(_body(gemini))


def test_gemini_needs_the_models_name_for_a_single_call(loopback: Loopback) -> None:
    provider = connect(Dialect.GEMINI, base_url=loopback.url, api_key=KEY)
    with pytest.raises(errors.RequestRejected, match="model"):
        provider.complete(_body(provider))
    provider.close()


VARIABLES = {
    Dialect.OPENAI: "OPENAI_BASE_URL",
    Dialect.ANTHROPIC: "ANTHROPIC_BASE_URL",
    Dialect.GEMINI: "GOOGLE_GEMINI_BASE_URL",
}


def test_without_a_base_url_the_sdks_own_variable_counts(
    loopback: Loopback, wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLES[wire.dialect], loopback.url + wire.prefix)
    loopback.on("POST", wire.complete, Reply(wire.answer()))
    loopback.on("GET", wire.batch, Reply(wire.batch_object("x")))
    provider = connect(wire.dialect, endpoint=wire.endpoint, model=MODEL, api_key=KEY, timeout_seconds=10)
    assert provider.complete(_body(provider)).outcome is Outcome.SUCCEEDED
    assert provider.check(wire.batch_id).batch_id == wire.batch_id
    provider.close()


def test_limits_can_be_lowered(wire: Wire, loopback: Loopback) -> None:
    from batch_jobs.config import ProviderLimits

    provider = connect(wire.dialect, base_url=loopback.url, api_key=KEY, limits=ProviderLimits(max_requests=7))
    assert provider.limits.max_requests == 7 and provider.limits.max_bytes >= 200_000_000
    provider.close()
