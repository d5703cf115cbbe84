r"""Our cells as SpreadsheetML: always inline text, so never a formula, a number or a date.

Escapes: ECMA-376 part 1, 22.9.2.19 (ST_Xstring: `_xHHHH_`), 18.3.1.53 (is), 18.18.11 (inlineStr); the longest
cell is Excel's own limit of 32,767 UTF-16 units ("Excel specifications and limits", support.microsoft.com).
"""

from __future__ import annotations

import re
from xml.sax.saxutils import escape

from batch_jobs.intake.text import column_letter

MAX_CELL_UNITS = 32_767
CUT_MARK = " […cut: a cell holds 32,767 characters at most]"
# What XML 1.0 can't hold, and CR, which every XML reader would turn into LF.
_UNWRITABLE = re.compile("[\x00-\x08\x0b-\x1f\ud800-\udfff\ufffe\uffff]")
# An underscore that Excel would take for the start of an escape.
_LOOKS_ESCAPED = re.compile(r"_(?=x[0-9A-Fa-f]{4}_)")


def cell_xml(prefix: str, column: int, row: int, text: str, style: str | None) -> bytes:
    """One cell.

    Args:
        prefix: of the part's elements, with its colon, or empty.
        column: counted from 1.
        row: counted from 1.
        text: as it shall show; at most MAX_CELL_UNITS long. Empty text makes an empty cell, or none without style.
        style: value of the `s` attribute.
    """
    styled = f' s="{escape(style, _QUOTE)}"' if style else ""
    start = f'<{prefix}c r="{column_letter(column - 1)}{row}"{styled}'
    if not text:
        return f"{start}/>".encode() if styled else b""
    inner = f'<{prefix}is><{prefix}t xml:space="preserve">{escaped(text)}</{prefix}t></{prefix}is>'
    return f'{start} t="inlineStr">{inner}</{prefix}c>'.encode()


_QUOTE = {'"': "&quot;"}


def escaped(text: str) -> str:
    """Text as XML character data from which Excel reads exactly this text."""
    if "_x" in text:
        text = _LOOKS_ESCAPED.sub("_x005F_", text)
    if not text.isprintable():
        text = _UNWRITABLE.sub(lambda found: f"_x{ord(found[0]):04X}_", text)
    return escape(text)


def fitted(text: str) -> str:
    """The text, or as much as a cell holds, with a mark that says so."""
    if len(text) * 2 <= MAX_CELL_UNITS or _units(text) <= MAX_CELL_UNITS:
        return text
    kept = text[: MAX_CELL_UNITS - len(CUT_MARK)]
    while _units(kept) > MAX_CELL_UNITS - len(CUT_MARK):
        kept = kept[: len(kept) - (_units(kept) - MAX_CELL_UNITS + len(CUT_MARK) + 1) // 2]
    return kept + CUT_MARK


def _units(text: str) -> int:
    """Length as Excel counts it: characters beyond U+FFFF are two."""
    return len(text) + sum(char > "\uffff" for char in text)
