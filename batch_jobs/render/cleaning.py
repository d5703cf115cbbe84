"""Cleans the cells that a prompt sees, as config.json asks for; the user's file keeps them as they are."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

COMMON_NULLS = ("none", "null", "nan", "nat", "n/a", "#n/a", "<na>", "(null)", "[none]", "[null]")
"""What programs write for nothing. Not `NA`, which is also a region, nor `-`."""

_ESCAPED = re.compile(r"""\\([,;|\t"'\\])""")
_BREAKS = re.compile(r"\s*[\r\n\t\v\f\u0085\u2028\u2029]\s*|[ \u00a0\u202f]{2,}")


@dataclass(frozen=True, slots=True)
class Cleaning:
    """What is done to each cell, in this order.

    Attributes:
        unescape: a backslash before a delimiter, a quote or a backslash is taken off.
        collapse: line breaks, tabs and runs of spaces become one space.
        trim: white space at both ends is taken off.
        null_tokens: a cell that is one of these, in any case and with white space around it, becomes empty.
    """

    unescape: bool = False
    collapse: bool = False
    trim: bool = False
    null_tokens: tuple[str, ...] = ()


AS_IT_IS = Cleaning()


def cleaner(cleaning: Cleaning) -> Callable[[str], str] | None:
    """What cleans a cell; None where there is nothing to do."""
    if cleaning == AS_IT_IS:
        return None
    nulls = frozenset(token.strip().casefold() for token in cleaning.null_tokens)

    def clean(cell: str) -> str:
        if cleaning.unescape:
            cell = _ESCAPED.sub(r"\1", cell)
        if cleaning.collapse:
            cell = _BREAKS.sub(" ", cell)
        if cleaning.trim:
            cell = cell.strip()
        return "" if nulls and cell.strip().casefold() in nulls else cell

    return clean
