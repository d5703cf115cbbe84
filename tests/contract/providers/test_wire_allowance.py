"""What the headers of a single call say of the account's limits comes with its answer, and with its 429."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from batch_jobs.errors import RateLimited
from batch_jobs.models import Allowance, Dialect, Outcome
from providers._allowance import anthropic_allowance, go_seconds, openai_allowance
from providers.contract import Provider
from tests.contract.providers.conftest import a_request
from tests.contract.providers.loopback import Loopback, Reply
from tests.contract.providers.wires import Wire

NOW = datetime(2026, 11, 25, 10, 0, 0, tzinfo=UTC)
LATER = (datetime.now(UTC) + timedelta(days=1)).strftime("%Y-%m-%dT%H:%M:%SZ")
HEADERS = {
    Dialect.OPENAI: {
        "x-ratelimit-limit-requests": "3000",
        "x-ratelimit-remaining-requests": "2999",
        "x-ratelimit-reset-requests": "20ms",
        "x-ratelimit-limit-tokens": "200000",
        "x-ratelimit-remaining-tokens": "199000",
        "x-ratelimit-reset-tokens": "6m0s",
    },
    Dialect.ANTHROPIC: {
        f"anthropic-ratelimit-{name}-{what}": value
        for name, limit, left in (("requests", "3000", "2999"), ("tokens", "200000", "199000"))
        for what, value in (("limit", limit), ("remaining", left), ("reset", LATER))
    },
    Dialect.GEMINI: {},
}


def check(wire: Wire, found: Allowance | None) -> None:
    if wire.dialect is Dialect.GEMINI:
        assert found is None
        return
    assert found is not None
    assert (found.requests_limit, found.requests_remaining) == (3000, 2999)
    assert (found.tokens_limit, found.tokens_remaining) == (200_000, 199_000)
    if wire.dialect is Dialect.OPENAI:
        assert (found.requests_reset_seconds, found.tokens_reset_seconds) == (0.02, 360)
    else:
        assert 80_000 < (found.requests_reset_seconds or 0) <= 86_400


def test_an_answer_carries_the_allowance(loopback: Loopback, wire: Wire, provider: Provider) -> None:
    loopback.on("POST", wire.complete, Reply(wire.answer(), headers=HEADERS[wire.dialect]))
    result = provider.complete(provider.codec.encode_body(a_request("text")))
    assert result.outcome is Outcome.SUCCEEDED
    check(wire, result.allowance)


def test_a_refusal_carries_it_too(loopback: Loopback, wire: Wire, provider: Provider) -> None:
    headers = {**HEADERS[wire.dialect], "retry-after": "7"}
    loopback.on("POST", wire.complete, Reply(wire.error(429, "rate_limit_error", "slower"), 429, headers=headers))
    with pytest.raises(RateLimited) as caught:
        provider.complete(provider.codec.encode_body(a_request("text")))
    assert caught.value.retry_after_seconds == 7
    check(wire, caught.value.allowance)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("1s", 1), ("6m0s", 360), ("120ms", 0.12), ("1h2m3.5s", 3723.5), ("2µs", 2e-6), ("0s", 0)],
)
def test_go_durations(text: str, seconds: float) -> None:
    assert go_seconds(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", [None, "", "soon", "12", "1s later", "-1s", "6 m"])
def test_what_is_no_duration_says_nothing(text: str | None) -> None:
    assert go_seconds(text) is None


def test_without_any_of_the_headers_there_is_no_allowance() -> None:
    assert openai_allowance({"content-type": "application/json"}) is None
    assert anthropic_allowance({"x-ratelimit-limit-requests": "5"}, NOW) is None


def test_what_can_not_be_read_is_left_out() -> None:
    found = openai_allowance({"x-ratelimit-limit-requests": "many", "x-ratelimit-limit-tokens": "50"})
    assert found == Allowance(tokens_limit=50)


def test_anthropics_tokens_are_input_and_output_together_and_what_is_used_up_counts() -> None:
    base = {
        "anthropic-ratelimit-input-tokens-limit": "800",
        "anthropic-ratelimit-input-tokens-remaining": "100",
        "anthropic-ratelimit-output-tokens-limit": "200",
        "anthropic-ratelimit-output-tokens-remaining": "0",
        "anthropic-ratelimit-output-tokens-reset": "2026-11-25T10:00:30Z",
    }
    assert anthropic_allowance(base, NOW) == Allowance(tokens_limit=1000, tokens_remaining=0, tokens_reset_seconds=30)
