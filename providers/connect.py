"""From a dialect's name to its codec, its published limits and its client: the one line a new provider adds."""

from __future__ import annotations

from dataclasses import replace
from typing import Protocol

from batch_jobs.models import Dialect
from providers.anthropic_codec import AnthropicCodec
from providers.contract import Codec, Limits, Provider, Rate
from providers.gemini_codec import GeminiCodec
from providers.openai_codec import OpenAICodec

_PUBLISHED = {
    Dialect.OPENAI: Limits(50_000, 200_000_000, creates=Rate(2_000, 3_600), uploads=Rate(1_000, 60)),
    Dialect.ANTHROPIC: Limits(100_000, 256_000_000, max_enqueued_requests=200_000, creates=Rate(1_000, 60)),
    Dialect.GEMINI: Limits(50_000, 2_000_000_000, max_in_flight_batches=100, max_output_bytes=1_000_000_000),
}
"""OpenAI Batch guide (50,000 requests, 200 MB, 2,000 batches an hour) and Files reference (1,000 uploads a minute);
Anthropic Message Batches guide (100,000, 256 MB) and its lowest tier (200,000 requests in the queue, 1,000 requests a
minute); Gemini Batch API guide (a 2 GB file, 100 jobs at once). Gemini publishes no number of requests: 50,000 keeps a
batch's results small enough to fetch, as does a bound on their expected bytes: above 1 GB they were seen not to come.
Enqueued tokens depend on tier and model, so nothing is assumed. Megabytes are read as 10^6 bytes, the smaller of the
two readings."""


def codec_for(dialect: Dialect, endpoint: str | None = None) -> Codec:
    """The pure half of a provider; imports no SDK.

    Args:
        dialect: whose wire format.
        endpoint: OpenAI's `/v1/chat/completions` (the default) or `/v1/responses`; no meaning elsewhere.
    """
    match dialect:
        case Dialect.OPENAI:
            return OpenAICodec(endpoint)
        case Dialect.ANTHROPIC:
            return AnthropicCodec()
        case Dialect.GEMINI:
            return GeminiCodec()


class LimitOverrides(Protocol):
    """Limits from the configuration; None where the published ones hold."""

    @property
    def max_requests(self) -> int | None:
        """Items of one batch."""
        ...

    @property
    def max_bytes(self) -> int | None:
        """Bytes of one batch's file or body."""
        ...


def default_limits(dialect: Dialect) -> Limits:
    """The provider's published limits of one batch, without any margin."""
    return _PUBLISHED[dialect]


def connect(
    dialect: Dialect,
    *,
    endpoint: str | None = None,
    model: str | None = None,
    base_url: str | None = None,
    api_key: str,
    timeout_seconds: float = 600,
    limits: LimitOverrides | None = None,
) -> Provider:
    """The wire half of a provider; imports its SDK, which takes about a second.

    Args:
        dialect: whose wire format.
        endpoint: as for `codec_for`.
        model: only Gemini's `complete` needs it, whose bodies do not name their model.
        base_url: None for the SDK's own default, which its environment variable overrides.
        api_key: sent as it is.
        timeout_seconds: of one request.
        limits: what the configuration sets instead of the published limits.
    """
    bounds = _overridden(default_limits(dialect), limits)
    match dialect:
        case Dialect.OPENAI:
            from providers.openai import OpenAIProvider

            return OpenAIProvider(
                OpenAICodec(endpoint), bounds, base_url=base_url, api_key=api_key, timeout_seconds=timeout_seconds
            )
        case Dialect.ANTHROPIC:
            from providers.anthropic import AnthropicProvider

            return AnthropicProvider(
                AnthropicCodec(), bounds, base_url=base_url, api_key=api_key, timeout_seconds=timeout_seconds
            )
        case Dialect.GEMINI:
            from providers.gemini import GeminiProvider

            return GeminiProvider(
                GeminiCodec(), bounds, model=model, base_url=base_url, api_key=api_key, timeout_seconds=timeout_seconds
            )


def _overridden(published: Limits, limits: LimitOverrides | None) -> Limits:
    if limits is None:
        return published
    return replace(
        published,
        max_requests=limits.max_requests or published.max_requests,
        max_bytes=limits.max_bytes or published.max_bytes,
    )
