"""Figures as people read them, on the screen and in a report."""

from __future__ import annotations

from datetime import UTC, datetime


def count(number: int, noun: str) -> str:
    """`1 row`, `2,000 rows`, `2 batches`."""
    plural = f"{noun}es" if noun.endswith("ch") else f"{noun}s"
    return f"{number:,} {noun if number == 1 else plural}"


def money(usd: float | None) -> str:
    """`$0.41`, `under $0.01`, `$1,204.00`."""
    if usd is None:
        return "an unknown price"
    if usd == 0:
        return "$0.00"
    return "under $0.01" if usd < 0.01 else f"${usd:,.2f}"


def duration(seconds: float) -> str:
    """`8 s`, `6 min`, `2 h 5 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes = round(whole / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def brief(seconds: float) -> str:
    """`8.3 ms`, `0.83 s`, `8.3 s`, `75 s`, `12 min`: how long a call took."""
    if seconds < 0.0995:
        return f"{1000 * seconds:.2g} ms"
    if seconds < 600:
        return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"
    return duration(seconds)


def figure(number: float, digits: int = 4) -> str:
    """`0.05`, `1.25`, `1,250`: a number with so many digits at most, or whole."""
    return f"{number:,.0f}" if number >= 10 ** (digits - 1) else f"{number:.{digits}g}"


def share(part: int, whole: int) -> str:
    """`96.7 %`; all and none only where it is all or none."""
    if part in (0, whole) or whole == 0:
        return "100 %" if part and part == whole else "0 %"
    return f"{min(max(100 * part / whole, 0.1), 99.9):.1f} %"


def when(at: float | None) -> str:
    """`21 Nov 2026, 10:00:07 UTC`; a dash for what did not happen."""
    if at is None:
        return "–"
    moment = datetime.fromtimestamp(int(at), UTC)
    month = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")[moment.month - 1]
    return f"{moment.day} {month} {moment.year}, {moment:%H:%M:%S} UTC"
