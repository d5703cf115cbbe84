"""What a provider says to one request, in OpenAI's words, and what it takes for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import orjson

from batch_jobs.models import AskKind, Mode, Usage
from tests.contract.lifecycle.kit import JUDGE_MODEL, MODEL, PRICES, Sent, failed
from tests.simulation.asked import Asked
from tests.simulation.faults import Fault


class Fate(StrEnum):
    """What became of one sending of a request, or of an event's part in it, as the provider handed it out."""

    GOOD = "good"
    ACCEPTED = "accepted"
    REJECTED = "rejected"
    REFUSED = "refused"
    FAILED = "failed for good"
    NOT_RUN = "the batch failed for good"
    INVALID = "invalid"
    TRUNCATED = "truncated"
    NOT_NOW = "failed for now"
    QUOTA = "quota"
    MASS = "as all the others of its batch"
    EXPIRED = "expired"
    CANCELLED = "cancelled"
    MISSING = "missing"
    DOUBLED = "doubled"


VALID = frozenset({Fate.GOOD, Fate.ACCEPTED, Fate.REJECTED})
"""What was asked for: the same is never asked again, by no job."""
BILLED = VALID | {Fate.REFUSED, Fate.INVALID, Fate.TRUNCATED, Fate.DOUBLED}
"""Executed and handed out with a usage: what the job's cost has to be the sum of."""
MENDABLE = frozenset({Fate.FAILED, Fate.NOT_RUN, Fate.MASS})
"""What a job may be paused for when it happens to many of its items alike, and sent again after that."""
ENDS = MENDABLE | {Fate.REFUSED}
"""Without an answer, and for good; but for a request for several, whose events then go alone."""
JUDGE_PRICES = {mode: {kind: 3 * usd for kind, usd in prices.items()} for mode, prices in PRICES.items()}


@dataclass(frozen=True)
class Said:
    """One result line, and what it means.

    Attributes:
        text: the answer or the verdict.
        why: a verdict's words.
        parts: of a request for several: how each event fared.
        texts: the good ones' answers.
    """

    fate: Fate
    line: bytes = b""
    error: bool = False
    text: str = ""
    why: str = ""
    parts: Mapping[str, Fate] = field(default_factory=dict)
    texts: Mapping[str, str] = field(default_factory=dict)

    @property
    def is_any_good(self) -> bool:
        """Whether it is what was asked for; of several, for one of them at least."""
        return self.fate in VALID and bool(self.texts or not self.parts)

    def fate_of(self, event: str) -> Fate:
        """How an event fared in it."""
        return self.parts.get(event, self.fate)

    def gave(self, event: str) -> str | None:
        """The good answer that it holds for an event."""
        if self.parts:
            return self.texts.get(event)
        return self.text if self.fate is Fate.GOOD else None


def usage_of(asked: Asked) -> Usage:
    """What a call takes: another figure for each event and kind, so that a mixed-up cost shows."""
    number = sum(int(event.partition("-")[2]) for event in asked.events)
    base = {AskKind.ANSWER: 100, AskKind.BUNDLE: 300, AskKind.JUDGE: 500}[asked.kind] + (50 if asked.quoted else 0)
    return Usage(base + number, number % 3 * 10, base // 10 + number)


def price_of(asked: Asked, mode: Mode) -> float:
    """What the provider bills for a call, in USD."""
    prices = JUDGE_PRICES if asked.body["model"] == JUDGE_MODEL else PRICES
    usage, price = usage_of(asked), prices["batch" if mode is Mode.BATCH else "standard"]
    fresh = usage.input_tokens - usage.cached_tokens
    tokens = fresh * price["input"] + usage.cached_tokens * price["cached"] + usage.output_tokens * price["output"]
    return tokens / 1_000_000


def answered(asked: Asked, text: str, finish: str = "stop", refusal: str | None = None, custom_id: str = "") -> bytes:
    """A result line of an executed call; under another id where one is given."""
    usage = usage_of(asked)
    message = {"content": text, "refusal": refusal}
    tokens = {
        "prompt_tokens": usage.input_tokens,
        "completion_tokens": usage.output_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
    }
    model = JUDGE_MODEL if asked.kind is AskKind.JUDGE else MODEL
    body = {"model": model, "choices": [{"finish_reason": finish, "message": message}], "usage": tokens}
    return _line(custom_id or asked.custom_id, 200, body)


def not_executed(sent: Sent, code: str) -> bytes:
    """A line of the error file for a request that a batch did not come to."""
    error = {"code": code, "message": "not executed"}
    return orjson.dumps({"custom_id": sent.custom_id, "response": None, "error": error})


def _line(custom_id: str, status: int, body: Any) -> bytes:
    response = {"status_code": status, "body": body}
    return orjson.dumps({"custom_id": custom_id, "response": response, "error": None})


def invalid(asked: Asked, text: str) -> Said:
    """An answer that is none."""
    return Said(Fate.INVALID, answered(asked, text), text=text)


BY_FAULT: dict[Fault, Callable[[Asked], Said]] = {
    Fault.ITEM_500: lambda asked: Said(Fate.NOT_NOW, failed(asked, 500, "server_error"), error=True),
    Fault.ITEM_429: lambda asked: Said(Fate.NOT_NOW, failed(asked, 429, "rate_limit_exceeded"), error=True),
    Fault.ITEM_400: lambda asked: Said(Fate.FAILED, failed(asked, 400, "context_length_exceeded"), error=True),
    Fault.ITEM_422_SILENT: lambda asked: Said(Fate.FAILED, _line(asked.custom_id, 422, {}), error=True),
    Fault.ITEM_STATUS_0: lambda asked: Said(Fate.NOT_NOW, _line(asked.custom_id, 0, ""), error=True),
    Fault.ITEM_NO_BODY: lambda asked: Said(Fate.NOT_NOW, _line(asked.custom_id, 200, {})),
    Fault.ITEM_QUOTA: lambda asked: Said(Fate.QUOTA, failed(asked, 429, "insufficient_quota"), error=True),
    Fault.REFUSAL: lambda asked: Said(Fate.REFUSED, answered(asked, "", refusal="I'd rather not")),
    Fault.TRUNCATION: lambda asked: Said(Fate.TRUNCATED, answered(asked, '{"summary": "abo', finish="length")),
    Fault.INVALID_JSON: lambda asked: invalid(asked, "no JSON at all"),
    Fault.WRONG_SCHEMA: lambda asked: invalid(asked, '{"abstract": "of another schema"}'),
}


def mass_error(asked: Asked) -> Said:
    """The same error for every request of a batch: the account's trouble in the words of a bad request.

    Final for each item where so few are equal; sent again where the job was paused for them.
    """
    return Said(Fate.MASS, failed(asked, 400, "invalid_request_error"), error=True)
