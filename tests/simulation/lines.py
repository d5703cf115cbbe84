"""What a provider says about one item, in OpenAI's words, and what each of these words allows to happen next."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import orjson

from batch_jobs.models import Mode, Usage
from tests.contract.lifecycle.kit import MODEL, PRICES, Sent, answer_text, failed
from tests.simulation.faults import Fault, Faults


class Fate(StrEnum):
    """What became of one sending of an item, as the provider handed it out."""

    GOOD = "good"
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


BILLED = frozenset({Fate.GOOD, Fate.REFUSED, Fate.INVALID, Fate.TRUNCATED, Fate.DOUBLED})
"""Executed and handed out with a usage: what the job's cost has to be the sum of."""
LAST = frozenset({Fate.GOOD, Fate.REFUSED, Fate.FAILED, Fate.NOT_RUN, Fate.MASS})
MENDABLE = frozenset({Fate.FAILED, Fate.NOT_RUN, Fate.MASS})
"""What a job may be paused for when it happens to many of its items alike, and sent again after that."""
_ONCE = frozenset({Fate.INVALID, Fate.TRUNCATED})
_MAY_GO_ON: tuple[list[Fate], ...] = ([], [Fate.INVALID], [Fate.TRUNCATED], [Fate.INVALID, Fate.TRUNCATED])


def may_be_sent_again(history: Sequence[Fate], *, calls: bool) -> bool:
    """The table of what is sent again, written down a second time: invalid once, truncated once, the provider's fault.

    A single call is tried again at once where it may help, as often as the config says.
    """
    if any(fate in LAST for fate in history):
        return False
    return calls or [fate for fate in history if fate in _ONCE] in _MAY_GO_ON


@dataclass(frozen=True)
class Said:
    """One result line, and what it means."""

    fate: Fate
    line: bytes
    error: bool = False


def usage_of(event: str) -> Usage:
    """What a call for an event takes: another figure for each, so that a mixed-up cost shows."""
    number = int(event.partition("-")[2])
    return Usage(100 + number, number % 3 * 10, 10 + number)


def price_of(event: str, mode: Mode) -> float:
    """What the provider bills for a call, in USD."""
    usage, price = usage_of(event), PRICES["batch" if mode is Mode.BATCH else "standard"]
    fresh = usage.input_tokens - usage.cached_tokens
    tokens = fresh * price["input"] + usage.cached_tokens * price["cached"] + usage.output_tokens * price["output"]
    return tokens / 1_000_000


def answered(sent: Sent, text: str | None = None, finish: str = "stop", refusal: str | None = None) -> bytes:
    """A result line of an executed call."""
    usage = usage_of(sent.event)
    message = {"content": answer_text(sent.event) if text is None else text, "refusal": refusal}
    tokens = {
        "prompt_tokens": usage.input_tokens,
        "completion_tokens": usage.output_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
    }
    body = {"model": MODEL, "choices": [{"finish_reason": finish, "message": message}], "usage": tokens}
    return _line(sent, 200, body)


def not_executed(sent: Sent, code: str) -> bytes:
    """A line of the error file for an item that a batch did not come to."""
    error = {"code": code, "message": "not executed"}
    return orjson.dumps({"custom_id": sent.custom_id, "response": None, "error": error})


def _line(sent: Sent, status: int, body: Any) -> bytes:
    response = {"status_code": status, "body": body}
    return orjson.dumps({"custom_id": sent.custom_id, "response": response, "error": None})


_BY_FAULT: dict[Fault, Callable[[Sent], Said]] = {
    Fault.ITEM_500: lambda sent: Said(Fate.NOT_NOW, failed(sent, 500, "server_error"), error=True),
    Fault.ITEM_429: lambda sent: Said(Fate.NOT_NOW, failed(sent, 429, "rate_limit_exceeded"), error=True),
    Fault.ITEM_400: lambda sent: Said(Fate.FAILED, failed(sent, 400, "context_length_exceeded"), error=True),
    Fault.ITEM_422_SILENT: lambda sent: Said(Fate.FAILED, _line(sent, 422, {}), error=True),
    Fault.ITEM_STATUS_0: lambda sent: Said(Fate.NOT_NOW, _line(sent, 0, ""), error=True),
    Fault.ITEM_NO_BODY: lambda sent: Said(Fate.NOT_NOW, _line(sent, 200, {})),
    Fault.ITEM_QUOTA: lambda sent: Said(Fate.QUOTA, failed(sent, 429, "insufficient_quota"), error=True),
    Fault.REFUSAL: lambda sent: Said(Fate.REFUSED, answered(sent, "", refusal="I'd rather not")),
    Fault.TRUNCATION: lambda sent: Said(Fate.TRUNCATED, answered(sent, '{"summary": "abo', finish="length")),
    Fault.INVALID_JSON: lambda sent: Said(Fate.INVALID, answered(sent, "no JSON at all")),
    Fault.WRONG_SCHEMA: lambda sent: Said(Fate.INVALID, answered(sent, '{"abstract": "of another schema"}')),
}


def say(faults: Faults, sent: Sent) -> Said:
    """Execute one item: a good answer, or what one of the faults that are on makes of it."""
    for fault, said in _BY_FAULT.items():
        if faults.strikes(fault):
            return said(sent)
    return Said(Fate.GOOD, answered(sent))


def mass_error(sent: Sent) -> Said:
    """The same error for every item of a batch: the account's trouble in the words of a bad request.

    Final for each item where so few are equal; sent again where the job was paused for them.
    """
    return Said(Fate.MASS, failed(sent, 400, "invalid_request_error"), error=True)


def error_of(faults: Faults, sent: Sent) -> Said:
    """An item that was not executed: for now, or for good."""
    if faults.draw("error") < 0.5:
        return Said(Fate.NOT_NOW, not_executed(sent, "server_error"), error=True)
    return _BY_FAULT[Fault.ITEM_400](sent)
