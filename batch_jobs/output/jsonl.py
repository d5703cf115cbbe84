"""Write a JSON Lines file back: each line's own bytes, with our keys at the end of its object.

The object is never parsed and written anew; numbers, escapes, spaces and line ends stay as they are.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from batch_jobs.intake.dialect import CHUNK_BYTES
from batch_jobs.table import Addition

_WHITE_SPACE = b" \t\r\n"
_SPACED = re.compile(rb'\s*\{\s*"(?:[^"\\]|\\.)*"\s*:[ \t]')


def write_jsonl(upload: Path, target: Path, columns: Sequence[str], additions: Iterable[Addition]) -> None:
    """Write `target`: the upload with our keys appended, in constant memory.

    They are written with or without spaces, as the file's first line is. A last line without a line end stays without.

    Args:
        upload: the kept original, already accepted by `open_jsonl`.
        target: a path to write to; replaced when it exists. The caller renames and syncs it.
        columns: names of our keys; none is in the file.
        additions: one per line, each with `len(columns)` cells that are JSON texts.

    Raises:
        ValueError: when `additions` does not fit the upload's lines.
    """
    entries, count = iter(additions), len(columns)
    with upload.open("rb") as source, target.open("wb", buffering=CHUNK_BYTES) as out:
        comma, names = b",", list[bytes]()
        for number, line in enumerate(source, 1):
            if number == 1:
                space = b" " if _SPACED.match(line) else b""
                comma, names = b"," + space, [_quoted(name) + b":" + space for name in columns]
            entry = next(entries, None)
            if entry is None or len(entry.cells) != count:
                found = "no entry" if entry is None else f"{len(entry.cells)} cells"
                raise ValueError(f"line {number}: expected {count} values to append, got {found}")
            out.write(_appended(line, comma, [n + cell.encode() for n, cell in zip(names, entry.cells, strict=True)]))
    if next(entries, None) is not None:
        raise ValueError("more entries to append than the upload has lines")


def _quoted(name: str) -> bytes:
    return json.dumps(name, ensure_ascii=False).encode()


def _appended(line: bytes, comma: bytes, ours: Sequence[bytes]) -> bytes:
    """The line with our pairs before the brace that closes its object, and before white space there."""
    end = len(line.rstrip(_WHITE_SPACE)) - 1
    inside = line[:end].rstrip(_WHITE_SPACE)
    pairs = list(ours) if inside.endswith(b"{") else [inside[:0], *ours]
    return inside + comma.join(pairs) + line[len(inside) :]
