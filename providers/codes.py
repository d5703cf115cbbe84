"""Error codes and HTTP statuses that mean the same for every provider: who must act, and whether to try again."""

from __future__ import annotations

from batch_jobs.errors import (
    AuthRefused,
    ProviderError,
    QuotaExhausted,
    RateLimited,
    RequestRejected,
    ServerFailed,
    TimedOut,
    UnreadableReply,
)

QUOTA_CODES = frozenset(
    {
        "insufficient_quota",
        "billing_hard_limit_reached",
        "billing_not_active",
        "billing_error",
        "enforced_spend_limit_reached",
        "contract_spend_limit_reached",
        "linked_organization_spend_limit_reached",
        "linked_organization_billing_unavailable",
        "quota_exhausted",
    }
)
"""Codes that say money or quota is used up: of a whole call, or of single items of a batch.

Sources: OpenAI error codes guide; the error details of the anthropic SDK (`types/shared`). `quota_exhausted` is ours,
for Gemini's 429 that names a used-up quota and no time to come back.
"""

QUEUE_CODES = frozenset({"token_limit_exceeded", "too_many_tasks"})
"""Codes that say that a batch finds no room in the queue, on its create or as the reason of a failed batch.

Sources: field reports on OpenAI, which publishes no list.
"""

RATE_CODES = QUEUE_CODES | {"rate_limit_exceeded", "ramp_limit_exceeded"}
"""Codes that only ask to come back later, whatever the status (OpenAI's enqueued-token limit may be a 400)."""

AUTH_CODES = frozenset({"invalid_api_key", "API_KEY_INVALID", "authentication_error", "permission_error"})
"""Codes that say the key is wrong; Gemini reports a wrong key with status 400."""


def transient_status(status: int) -> bool:
    """Whether a call that ended in this HTTP status may succeed when it is sent again; 0 is no HTTP at all."""
    return status in {0, 408, 409, 425, 429, 499} or status >= 500


def error_class(status: int, code: str) -> type[ProviderError]:
    """The one table from an answer with an error to our error; the code decides before the status.

    A 409 or 499 says nothing certain about a create, so it counts as a failed server.
    """
    if code in QUOTA_CODES or status == 402:
        return QuotaExhausted
    if code in RATE_CODES or status == 429:
        return RateLimited
    if code in AUTH_CODES or status in {401, 403}:
        return AuthRefused
    if status == 408:
        return TimedOut
    if transient_status(status):
        return ServerFailed
    return RequestRejected if 400 <= status < 500 else UnreadableReply
