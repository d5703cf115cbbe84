"""A cell's value as the text that stands for it in a request and in the snapshot.

Numbers as stored, not as formatted: a percentage is 0.25, a price 1234.5. Dates, which Excel stores as numbers with
a date format, are ISO 8601 (ECMA-376 part 1, 18.17.4); durations ([h]:mm) are hours:minutes:seconds.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any

CellValue = int | float | str | bool | time | date | datetime | timedelta
# Tab, line ends, vertical tab and form feed come with text pasted from Word; the others mean damage.
FORBIDDEN = re.compile(r"[\x00-\x08\x0e-\x1f]")
_PLAIN_BELOW = 1e21  # whole numbers from here on keep their exponent, as their digits would be invented


def as_text(values: Sequence[CellValue]) -> tuple[str, ...]:
    """The texts of one row.

    Text stays untouched; 3.0 is "3", 12345678901234.0 "12345678901234", 0.1 "0.1", 1e-07 "1e-07" (the shortest form
    that reads back as the same number); True is "TRUE"; a date-time at midnight is a date.
    """
    return tuple([value if type(value) is str else _WRITERS[type(value)](value) for value in values])


def number_text(value: float) -> str:
    """The shortest decimal that reads back as the same number, without `.0`."""
    if value.is_integer() and abs(value) < _PLAIN_BELOW:
        if abs(value) < 1e15:
            return str(int(value))
        return format(Decimal(repr(value)), "f").removesuffix(".0")
    return repr(value)


def _datetime_text(value: datetime) -> str:
    if value.time() == time():
        return value.date().isoformat()
    return value.isoformat(timespec="milliseconds" if value.microsecond else "seconds")


def _time_text(value: time) -> str:
    return value.isoformat(timespec="milliseconds" if value.microsecond else "seconds")


def _duration_text(value: timedelta) -> str:
    """Hours beyond 24 stay hours: 30:00:00, as [h]:mm:ss shows it."""
    milliseconds = round(abs(value) / timedelta(milliseconds=1))
    minutes, rest = divmod(milliseconds, 60_000)
    seconds = f"{rest // 1000:02}" + (f".{rest % 1000:03}" if rest % 1000 else "")
    return f"{'-' if value < timedelta() else ''}{minutes // 60:02}:{minutes % 60:02}:{seconds}"


_WRITERS: dict[type, Callable[[Any], str]] = {
    str: str,
    float: number_text,
    int: str,
    bool: lambda value: "TRUE" if value else "FALSE",
    date: date.isoformat,
    datetime: _datetime_text,
    time: _time_text,
    timedelta: _duration_text,
}
