"""Rows and results for the lines that need no real table; the same on both sides of a line."""

from __future__ import annotations

import hashlib
from typing import Any

RESULT: dict[str, Any] = {
    "answer": {
        "summary": "A payment was sent twice, found on the next day and called back; the amount was recovered in "
        "full, and a second check is made since."
    },
    "provider": "openai",
    "model": "bench-model",
    "simulated": False,
    "tokens": {"input": 420, "cached": 0, "output": 48},
    "cost_usd": 0.00012,
    "answered_at": "2026-11-25T12:00:00+00:00",
    "fingerprint": "5f" * 32,
    "task_id": "0f" * 16,
}


def identity_of(number: int) -> str:
    """A folder's name."""
    return hashlib.sha256(b"%d" % number).hexdigest()


def row_details(number: int) -> dict[str, str]:
    """The input columns of a row, of the size of a real one."""
    return {
        "event_id": f"{number:07d}",
        "event_date": "2019-03-30",
        "business_line": "Trading & Sales",
        "country": "Switzerland",
        "amount_eur": "1598.63",
        "DescriptionOfEvent": f"Event {number}: a transfer was executed twice when a stalled batch was started again. "
        "The order was keyed by hand from a telephone note, and the second pair of eyes signed without comparing. "
        "The correspondent bank queried the entry after 186 days. No client lost money.",
        "nfr_taxonomy": "Transaction processing",
        "comment": "checked",
    }
