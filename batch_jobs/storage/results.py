"""What the store keeps for people: one result per identity and name, whatever the layout it lies in.

Both layouts are read through one contract, so that whoever looks a record up need not know how it is kept.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Protocol

import orjson

from batch_jobs.storage.call_cache import Answer


@dataclass(frozen=True, slots=True)
class Filed:
    """One answer under the identity that it belongs to.

    Attributes:
        identity: hex sha256, the folder's name.
        name: the task, or `<task>.<first 8 of the fingerprint>` where another item of the job has this identity, too.
        result: what stands in `ai_results/<name>.json`.
        details: the row's input columns.
    """

    identity: str
    name: str
    result: dict[str, Any]
    details: dict[str, str]


class ResultStore(Protocol):
    """The results of one data case. A later job's result of the same identity and name takes the earlier one's place.

    Every method raises StoreError where a file can't be read.
    """

    def results_of(self, identity: str) -> dict[str, dict[str, Any]]:
        """The results of an identity by name; empty where it has none."""

    def stream(self) -> Iterator[Filed]:
        """Every result, once, in no order that means anything."""

    def count(self) -> int:
        """How many results there are."""


def result_name(task: str, fingerprint: bytes, alternate: bool) -> str:
    """The name that an answer is filed under."""
    return f"{task}.{fingerprint.hex()[:8]}" if alternate else task


def result_document(answer: Answer) -> dict[str, Any]:
    """What stands in `ai_results/<task>.json`."""
    return {
        "answer": orjson.loads(answer.answer),
        "provider": answer.provider,
        "model": answer.model,
        "simulated": bool(answer.simulated),
        "tokens": {
            "input": answer.input_tokens,
            "cached": answer.cached_tokens,
            "output": answer.output_tokens,
        },
        "cost_usd": answer.cost_usd,
        "answered_at": answered_at(answer),
        "fingerprint": answer.fingerprint.hex(),
        "task_id": answer.task_id,
    }


def answered_at(answer: Answer) -> str:
    """When it came, in ISO 8601, UTC, to the second."""
    return _second(int(answer.at))


@lru_cache(1_000)
def _second(at: int) -> str:
    """Many answers come within one second, and to write a time takes longer than all else about them."""
    return datetime.fromtimestamp(at, UTC).isoformat()
