"""Every way a provider or the way to it can fail, as one of our errors: who must act, and never the key."""

from __future__ import annotations

import inspect
import socket
import traceback
from collections.abc import Callable
from types import ModuleType
from typing import Any

import anthropic
import httpx2
import openai
import pytest
from google.genai import errors as genai_errors

import providers.anthropic
import providers.gemini
import providers.openai
from batch_jobs import errors
from batch_jobs.models import Dialect
from providers._transport import provider_error, retry_after_seconds
from providers.connect import connect
from providers.contract import Provider, ShardFile
from tests.contract.providers.loopback import Loopback, Reply
from tests.contract.providers.wires import KEY, WIRES, Wire

RESPONSE = httpx2.Response(400, json={"error": {"message": "m"}}, request=httpx2.Request("GET", "http://x/"))
MODULES: dict[Dialect, tuple[ModuleType, ModuleType]] = {
    Dialect.OPENAI: (openai, providers.openai),
    Dialect.ANTHROPIC: (anthropic, providers.anthropic),
    Dialect.GEMINI: (genai_errors, providers.gemini),
}
ROOTS = {openai.OpenAIError, openai.APIError, anthropic.AnthropicError, anthropic.APIError}


def _exported(module: ModuleType) -> list[type[Exception]]:
    """Every exception class a module exports, but for warnings and the roots that are never raised themselves."""
    values = list(vars(module).copy().values())
    return [
        value
        for value in values
        if inspect.isclass(value) and issubclass(value, Exception) and not issubclass(value, Warning)
        if value not in ROOTS and not value.__name__.startswith("_")
    ]


def _instance(raised: type[Exception]) -> Exception:
    """One exception of a class, without its constructor where that wants a live reply."""
    if issubclass(raised, genai_errors.APIError):
        return raised(400, {"error": {"message": "m"}}, RESPONSE)
    if issubclass(raised, openai.APIStatusError | anthropic.APIStatusError):
        error = raised.__new__(raised)
        status = getattr(raised, "status_code", 500)
        for name, value in {"response": RESPONSE, "body": None, "message": "m", "code": None, "type": None}.items():
            setattr(error, name, value)
        error.status_code = status
        return error
    if issubclass(raised, anthropic.WorkloadIdentityError):
        return raised("m")
    return raised.__new__(raised)


@pytest.mark.parametrize("dialect", list(Dialect))
def test_every_exception_that_the_sdk_exports_is_mapped(dialect: Dialect) -> None:
    sdk, ours = MODULES[dialect]
    exported = _exported(sdk)
    assert len(exported) >= 5
    listed = tuple(raised for raised, _ in ours.ERRORS)
    with_status = (openai.APIStatusError, anthropic.APIStatusError, genai_errors.APIError)
    unmapped = [raised.__name__ for raised in exported if not issubclass(raised, listed + with_status)]
    assert unmapped == []
    for raised in exported:
        assert isinstance(ours.translate(_instance(raised), KEY), errors.ProviderError), raised


@pytest.mark.parametrize("dialect", list(Dialect))
def test_every_exception_of_the_transport_is_mapped(dialect: Dialect) -> None:
    for raised in _exported(httpx2):
        mapped = MODULES[dialect][1].translate(raised.__new__(raised), KEY)
        assert isinstance(mapped, errors.ProviderError) or raised in {httpx2.HTTPError, httpx2.RequestError}, raised


@pytest.mark.parametrize("dialect", [Dialect.OPENAI, Dialect.ANTHROPIC])
def test_a_bug_of_ours_is_not_taken_for_the_providers(dialect: Dialect) -> None:
    assert MODULES[dialect][1].translate(ZeroDivisionError(), KEY) is None
    assert MODULES[dialect][1].translate(TypeError(), KEY) is None


STATUSES: list[tuple[int, str, type[errors.ProviderError]]] = [
    (400, "invalid_request_error", errors.RequestRejected),
    (401, "invalid_api_key", errors.AuthRefused),
    (402, "billing_error", errors.QuotaExhausted),
    (403, "permission_error", errors.AuthRefused),
    (404, "not_found_error", errors.RequestRejected),
    (408, "timeout", errors.TimedOut),
    (409, "conflict_error", errors.ServerFailed),
    (413, "request_too_large", errors.RequestRejected),
    (422, "unprocessable", errors.RequestRejected),
    (429, "rate_limit_error", errors.RateLimited),
    (429, "insufficient_quota", errors.QuotaExhausted),
    (400, "billing_hard_limit_reached", errors.QuotaExhausted),
    (400, "token_limit_exceeded", errors.RateLimited),
    (429, "RESOURCE_EXHAUSTED", errors.RateLimited),
    (500, "server_error", errors.ServerFailed),
    (502, "bad_gateway", errors.ServerFailed),
    (503, "UNAVAILABLE", errors.ServerFailed),
    (504, "timeout_error", errors.ServerFailed),
    (529, "overloaded_error", errors.ServerFailed),
]


@pytest.mark.parametrize(("status", "code", "expected"), STATUSES)
def test_a_status_with_its_code_is_one_error(
    loopback: Loopback, wire: Wire, provider: Provider, status: int, code: str, expected: type[errors.ProviderError]
) -> None:
    loopback.on("GET", wire.batch, Reply(wire.error(status, code, "the provider's words"), status))
    with pytest.raises(errors.ProviderError) as caught:
        provider.check(wire.batch_id)
    assert type(caught.value) is expected
    assert (caught.value.status, caught.value.code) == (status, code)
    assert f"HTTP {status}, {code}" in caught.value.message
    assert ("the provider's words" in caught.value.message) is (expected is not errors.AuthRefused)
    assert loopback.count("GET", wire.batch) == 1


@pytest.mark.parametrize("body", [b"", b"<html>upstream</html>", b"[]", b'{"error":"text"}', b'{"error":null}'])
def test_an_error_without_a_readable_body_still_has_its_status(
    loopback: Loopback, wire: Wire, provider: Provider, body: bytes
) -> None:
    loopback.on("GET", wire.batch, Reply(body, 503))
    with pytest.raises(errors.ProviderError) as caught:
        provider.check(wire.batch_id)
    expected = (errors.ServerFailed, errors.UnreadableReply) if wire.dialect is Dialect.GEMINI else errors.ServerFailed
    assert isinstance(caught.value, expected) and caught.value.transient


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"Retry-After": "7"}, 7.0),
        ({"Retry-After": "0.5"}, 0.5),
        ({"retry-after-ms": "1500", "Retry-After": "9"}, 1.5),
        ({"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}, 0.0),
        ({"Retry-After": "soon"}, None),
        ({}, None),
    ],
)
def test_how_long_to_wait_comes_from_the_headers(
    loopback: Loopback, wire: Wire, provider: Provider, headers: dict[str, str], seconds: float | None
) -> None:
    loopback.on("GET", wire.batch, Reply(wire.error(429, "rate_limit_error", "slow down"), 429, headers))
    with pytest.raises(errors.RateLimited) as caught:
        provider.check(wire.batch_id)
    assert caught.value.retry_after_seconds == seconds


def test_a_date_in_the_future_is_waited_for() -> None:
    seconds = retry_after_seconds(httpx2.Headers({"retry-after": "Fri, 21 Nov 2098 10:00:00 GMT"}))
    assert seconds is not None and seconds > 1e9


@pytest.fixture
def gemini(connected: Callable[..., Provider]) -> Provider:
    return connected(WIRES["gemini"])


def test_gemini_says_how_long_to_wait_in_its_details(loopback: Loopback, gemini: Provider) -> None:
    detail = {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "17.5s"}
    error = {"code": 429, "message": "quota", "status": "RESOURCE_EXHAUSTED", "details": [detail]}
    loopback.on("GET", "/v1/batches/b1", Reply({"error": error}, 429))
    with pytest.raises(errors.RateLimited) as caught:
        gemini.check("batches/b1")
    assert caught.value.retry_after_seconds == 17.5


def test_gemini_reports_a_wrong_key_with_status_400(loopback: Loopback, gemini: Provider) -> None:
    detail = {"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "API_KEY_INVALID"}
    error = {"code": 400, "message": "API key not valid.", "status": "INVALID_ARGUMENT", "details": [detail]}
    loopback.on("GET", "/v1/batches/b1", Reply({"error": error}, 400))
    with pytest.raises(errors.AuthRefused):
        gemini.check("batches/b1")


ANTHROPIC_CODES: list[tuple[int, dict[str, Any], type[errors.ProviderError]]] = [
    (400, {"type": "invalid_request_error", "message": "Your credit balance is too low."}, errors.QuotaExhausted),
    (
        429,
        {"type": "rate_limit_error", "message": "m", "details": {"error_code": "enforced_spend_limit_reached"}},
        errors.QuotaExhausted,
    ),
    (
        429,
        {"type": "rate_limit_error", "message": "m", "details": {"error_code": "ramp_limit_exceeded"}},
        errors.RateLimited,
    ),
]


@pytest.mark.parametrize(("status", "inner", "expected"), ANTHROPIC_CODES)
def test_anthropics_money_is_told_from_its_rate_by_the_code(
    loopback: Loopback,
    connected: Callable[..., Provider],
    status: int,
    inner: dict[str, Any],
    expected: type[errors.ProviderError],
) -> None:
    wire = WIRES["anthropic"]
    loopback.on("GET", wire.batch, Reply({"type": "error", "error": inner}, status))
    with pytest.raises(expected):
        connected(wire).check(wire.batch_id)


def test_a_hang_up_and_a_silence_are_told_apart(
    loopback: Loopback, wire: Wire, connected: Callable[..., Provider]
) -> None:
    loopback.on("GET", wire.batch, Reply(reset=True), Reply(hang=True))
    provider = connected(wire, timeout_seconds=0.3)
    with pytest.raises(errors.ConnectionFailed):
        provider.check(wire.batch_id)
    with pytest.raises(errors.TimedOut):
        provider.check(wire.batch_id)


def test_no_server_at_all_is_a_failed_connection(wire: Wire) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound but not listening: refused at once
        base_url = f"http://127.0.0.1:{taken.getsockname()[1]}{wire.prefix}"
        provider = connect(wire.dialect, base_url=base_url, api_key=KEY)
        with pytest.raises(errors.ConnectionFailed, match=r"network.*base URL"):
            provider.check(wire.batch_id)
        provider.close()


@pytest.mark.parametrize("base_url", ["ftp://127.0.0.1/v1", "127.0.0.1:80/v1"])
def test_a_base_url_that_is_none_is_for_the_operator(wire: Wire, base_url: str) -> None:
    provider = connect(wire.dialect, base_url=base_url, api_key=KEY)
    with pytest.raises(errors.RequestRejected, match="base URL"):
        provider.check(wire.batch_id)
    provider.close()


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null", b"<html>", b'"text"'])
def test_a_200_that_is_no_object_is_unreadable(loopback: Loopback, wire: Wire, provider: Provider, body: bytes) -> None:
    loopback.on("GET", wire.batch, Reply(body))
    with pytest.raises(errors.UnreadableReply):
        provider.check(wire.batch_id)


@pytest.mark.parametrize("status", [400, 401, 429, 500])
def test_the_key_is_in_no_message(loopback: Loopback, wire: Wire, provider: Provider, status: int) -> None:
    loopback.on("GET", wire.batch, Reply(wire.error(status, "some_code", f"the key {KEY} is wrong"), status))
    with pytest.raises(errors.ProviderError) as caught:
        provider.check(wire.batch_id)
    assert KEY not in caught.value.message
    if status == 401:
        assert KEY not in "".join(traceback.format_exception(caught.value))


def test_a_message_says_what_to_do() -> None:
    for kind in errors.ProviderError.__subclasses__():
        message = provider_error(kind, "words", secret=KEY, status=418, code="tea").message
        assert message.endswith(".") and "HTTP 418, tea" in message and len(message) > 60


def test_the_key_is_sent_and_no_other(loopback: Loopback, wire: Wire, provider: Provider, shard: ShardFile) -> None:
    loopback.on("GET", wire.batch, Reply(wire.batch_object("x")))
    provider.check(wire.batch_id)
    headers = loopback.seen[0].headers
    sent = headers.get("x-goog-api-key") if wire.dialect is Dialect.GEMINI else headers.get("authorization")
    assert sent in {KEY, f"Bearer {KEY}"}
