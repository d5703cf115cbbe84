"""Keep what a model wrote from being run by the spreadsheet that opens it (CWE-1236, formula injection).

For our own columns only: the user's cells are repeated as they are.
Rule: OWASP "CSV Injection" and ASVS 5.0 1.2.10: a leading apostrophe makes a cell text.
"""

from __future__ import annotations

import re
import unicodedata

_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
_TRIGGERS = frozenset(
    "=+-@＝＋－＠﹦﹢﹣﹫"
)  # Excel takes the full-width forms for the plain ones in East Asian locales
_LEADING = frozenset("\t\r\0")
# A signed number and nothing else: no second operator, no name, no reference can stand in it.
_NUMBER = re.compile(r"[+-](?:[0-9]+(?:[.,][0-9]+)*|[.,][0-9]+)(?:[eE][+-]?[0-9]+)?[ \u00a0\u202f]?%?|-")


def neutralise(text: str) -> str:
    """Make a cell that a spreadsheet would run into text, and drop control characters except tab and line ends.

    A leading apostrophe goes before a cell that starts with tab, CR or NUL, or, after any blank or invisible
    characters, with `=`, `+`, `-`, `@` or one of their full-width forms. Signed numbers (-5, +3.2, -1e5, -5 %)
    and a lone `-` are left alone. Doing it twice changes nothing more.
    """
    if text.isalnum():
        return text
    clean = _CONTROL.sub("", text)
    if text[:1] in _LEADING or clean[:1] in _LEADING:
        return f"'{clean}"
    if _first_visible(clean) in _TRIGGERS and not _NUMBER.fullmatch(clean.strip()):
        return f"'{clean}"
    return clean


def _first_visible(text: str) -> str:
    for char in text:
        if not char.isspace() and unicodedata.category(char) not in {"Cf", "Mn", "Me"}:
            return char
    return ""
