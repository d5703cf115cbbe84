"""The columns of a Parquet file as texts: what a person would write for a date, a number, a list.

Dates and times are ISO 8601, those with a time zone in UTC; whatever is nested is compact JSON; null is empty.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any


class Unreadable(Exception):
    """The value in this place, from 0, is no text."""

    def __init__(self, position: int, problem: str) -> None:
        super().__init__(problem)
        self.position, self.problem = position, problem


def column_texts(column: Any) -> Any:
    """An Arrow array as a string array without nulls.

    Raises:
        Unreadable: bytes that are no UTF-8, a NUL.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    written = pc.fill_null(_written(column), "").cast(pa.string())
    data = written.buffers()[2]
    if data is not None and b"\0" in data.to_pybytes():
        found = pc.indices_nonzero(pc.match_substring(written, "\0"))
        if len(found):
            raise Unreadable(found[0].as_py(), "the value holds a NUL character")
    return written


def _written(column: Any) -> Any:
    import pyarrow as pa

    kind = column.type
    if isinstance(kind, pa.BaseExtensionType):
        return _written(column.storage)
    if pa.types.is_dictionary(kind):
        return _written(column.dictionary).take(column.indices)
    if pa.types.is_timestamp(kind):
        return _iso(column if kind.tz is None else column.cast(pa.timestamp(kind.unit, "UTC")))
    if pa.types.is_time(kind):
        return _trimmed(column.cast(pa.string()))
    if pa.types.is_nested(kind) or pa.types.is_duration(kind) or pa.types.is_interval(kind):
        return _by_python(column)
    try:
        texts = column.cast(pa.string())
        texts.validate(full=True)
    except pa.ArrowNotImplementedError:
        return _by_python(column)
    except pa.ArrowInvalid:
        return _by_python(column)  # says where
    return texts


def _iso(moments: Any) -> Any:
    """`2024-01-31T12:00:00.5`, with `Z` at the end where they are in UTC."""
    import pyarrow as pa
    import pyarrow.compute as pc

    return _trimmed(pc.replace_substring(moments.cast(pa.string()), " ", "T", max_replacements=1))


def _trimmed(times: Any) -> Any:
    """Without the zeros at the end of a second's fraction."""
    import pyarrow.compute as pc

    whole = pc.replace_substring_regex(times, r"\.0+(Z?)$", r"\1")
    return pc.replace_substring_regex(whole, r"(\.\d*?[1-9])0+(Z?)$", r"\1\2")


def _by_python(column: Any) -> Any:
    from batch_jobs.arrow import texts

    return texts(list(_python_texts(column)))


def _python_texts(column: Any) -> Iterable[str]:
    for position, scalar in enumerate(column):
        try:
            value = scalar.as_py()
            text = "" if value is None else _plain(value) if not isinstance(value, dict | list) else _json(value)
            text.encode()
        except UnicodeError:
            raise Unreadable(position, "the value holds bytes that are no UTF-8") from None
        yield text


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), default=_plain)


def _plain(value: Any) -> str:
    """A value of Python's that JSON has not."""
    if isinstance(value, bytes):
        return value.decode()
    return str(value.isoformat() if hasattr(value, "isoformat") else value)
