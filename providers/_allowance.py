"""What the headers of a single call say of the account's limits a minute: each provider's own form, one value.

Gemini sends none: its 429 only names a time to come back (`RetryInfo`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime

from batch_jobs.models import Allowance
from providers._transport import parse_time

_UNITS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9}
_PART = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ms|us|µs|ns|h|m|s)")
_NOTHING = Allowance()


def openai_allowance(headers: Mapping[str, str]) -> Allowance | None:
    """`x-ratelimit-{limit,remaining,reset}-{requests,tokens}`, resets as Go durations; None without any of them.

    Source: OpenAI rate limits guide, "Rate limits in headers".
    """
    found = Allowance(
        requests_limit=_count(headers.get("x-ratelimit-limit-requests")),
        requests_remaining=_count(headers.get("x-ratelimit-remaining-requests")),
        requests_reset_seconds=go_seconds(headers.get("x-ratelimit-reset-requests")),
        tokens_limit=_count(headers.get("x-ratelimit-limit-tokens")),
        tokens_remaining=_count(headers.get("x-ratelimit-remaining-tokens")),
        tokens_reset_seconds=go_seconds(headers.get("x-ratelimit-reset-tokens")),
    )
    return found if found != _NOTHING else None


def anthropic_allowance(headers: Mapping[str, str], now: datetime) -> Allowance | None:
    """`anthropic-ratelimit-{requests,tokens,...}-{limit,remaining,reset}`, resets as RFC 3339; None without any.

    Tokens are those of input and output together; where one of the two has its own limit used up, that is what remains.
    Source: Anthropic rate limits documentation, "Response headers".
    """
    requests = _anthropic(headers, "requests", now)
    tokens, read, written = (_anthropic(headers, name, now) for name in ("tokens", "input-tokens", "output-tokens"))
    limit = tokens[0] if tokens[0] is not None else _sum(read[0], written[0])
    used_up = next((one for one in (tokens, read, written) if one[1] == 0), tokens)
    found = Allowance(*requests, limit, used_up[1], used_up[2])
    return found if found != _NOTHING else None


def go_seconds(text: str | None) -> float | None:
    """A Go duration (`6m0s`, `1.5s`, `120ms`) in seconds; None for anything else."""
    if not text or _PART.sub("", text):
        return None
    return sum(float(number) * _UNITS[unit] for number, unit in _PART.findall(text))


def _anthropic(headers: Mapping[str, str], name: str, now: datetime) -> tuple[int | None, int | None, float | None]:
    limit, remaining, reset = (
        headers.get(f"anthropic-ratelimit-{name}-{what}") for what in ("limit", "remaining", "reset")
    )
    at = parse_time(reset)
    return _count(limit), _count(remaining), max((at - now).total_seconds(), 0.0) if at is not None else None


def _count(text: str | None) -> int | None:
    return int(text) if text is not None and text.isascii() and text.isdecimal() else None


def _sum(first: int | None, second: int | None) -> int | None:
    return first + second if first is not None and second is not None else None
