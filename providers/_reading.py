"""What the three codecs share when they read result lines: JSON with a reason, counts, and the end of an answer."""

from __future__ import annotations

from typing import Any

import orjson

from batch_jobs.models import ItemResult, Outcome, Usage

EMPTY = "empty"
"""The code of an answer without any text."""

UNREADABLE = "unreadable_body"
"""The code of a result whose body is not what the endpoint answers with."""


def load_object(line: bytes) -> dict[str, Any]:
    """Read one line as a JSON object.

    Raises:
        ValueError: it is none; the reason is short and holds nothing of the line.
    """
    try:
        record = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        raise ValueError(f"not valid JSON at character {error.pos}") from None
    if not isinstance(record, dict):
        raise ValueError("not a JSON object")
    return record


def required_id(record: dict[str, Any], name: str) -> str:
    """The id a result line carries.

    Raises:
        ValueError: there is none.
    """
    value = record.get(name)
    if not isinstance(value, str) or not value:
        raise ValueError(f'no "{name}"')
    return value


def as_dict(value: object) -> dict[str, Any]:
    """The value when it is a JSON object, else an empty one."""
    return value if isinstance(value, dict) else {}


def as_dicts(value: object) -> list[dict[str, Any]]:
    """The objects of a JSON array; empty when it is none."""
    return [entry for entry in value if isinstance(entry, dict)] if isinstance(value, list) else []


def as_text(value: object) -> str:
    """The value as text; empty for null and for anything that is no scalar."""
    if isinstance(value, str):
        return value
    return str(value) if isinstance(value, int | float) else ""


def as_count(value: object) -> int:
    """A non-negative count; int64 travels as a string in Google's JSON."""
    if isinstance(value, str) and value.isdecimal():
        return int(value)
    return value if isinstance(value, int) and value > 0 else 0


def answered(custom_id: str, text: str, usage: Usage, model: str, *, billed: bool) -> ItemResult:
    """The result of a call that ran to its end: succeeded, or invalid when it says nothing."""
    if text.strip():
        return ItemResult(custom_id, Outcome.SUCCEEDED, text, usage, model, billed=billed)
    detail = "the answer holds no text"
    return ItemResult(custom_id, Outcome.INVALID, text, usage, model, code=EMPTY, detail=detail, billed=billed)
