"""Write a text table back: the user's own bytes, with our columns at the end of each record.

The original part is never parsed and written anew; it is repeated, so quoting, spaces and line ends stay.
"""

from __future__ import annotations

import csv
import io
import re
import unicodedata
from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import Path

from batch_jobs.intake.dialect import CHUNK_BYTES, Encoding, allow_any_cell, open_decoded
from batch_jobs.intake.text import Record, RecordReader, split_line_end
from batch_jobs.output.neutral import neutralise
from batch_jobs.table import Addition, TableFormat

_HYPHENS = str.maketrans({"\u2010": "-", "\u2011": "-", "\u2212": "-"})  # no NFKD form, and models like them


def write_text(
    upload: Path, fmt: TableFormat, target: Path, columns: Sequence[str], additions: Iterable[Addition]
) -> int:
    """Write `target`: the upload with our columns appended, in constant memory.

    Blank records, a `sep=` line and the BOM pass through; a last line without a line end stays without. The
    caller has made the cells harmless (`neutralise`), and renames and syncs the file.

    Args:
        upload: the kept original, already accepted by `open_text`.
        fmt: what `open_text` found.
        target: a path to write to; replaced when it exists.
        columns: names of our columns.
        additions: one per data row, in file order, each with `len(columns)` cells.

    Returns:
        Number of our cells in which a character had to be replaced, because the file's encoding lacks it.

    Raises:
        ValueError: when `additions` does not fit the upload's data rows.
    """
    encoding = Encoding(fmt.encoding, fmt.bom)
    ours = _OurCells(fmt)
    with open_decoded(upload, encoding) as source, target.open("wb", buffering=CHUNK_BYTES) as binary:
        binary.write(encoding.bom_bytes)
        with io.TextIOWrapper(binary, encoding=fmt.encoding, newline="") as out:
            _write_header(RecordReader(source, delimiter=fmt.delimiter, filename=upload.name), out, ours, columns)
            _write_rows(source, out, ours, len(columns), additions)
    return ours.changed


def _write_header(records: Iterable[Record], out: io.TextIOBase, ours: _OurCells, columns: Sequence[str]) -> None:
    """Write all down to the header, which is the first record that holds anything; no line after it is read."""
    for record in records:
        if any(record.cells):
            out.write(ours.appended(record.raw, columns))
            return
        out.write(record.raw)


def _write_rows(
    source: io.TextIOBase, out: io.TextIOBase, ours: _OurCells, width: int, additions: Iterable[Addition]
) -> None:
    """Write the rows, by the number of lines that each is known to take: parsing them again would cost the most."""
    entries = iter(additions)
    rows = 0
    for line in source:
        if ours.is_blank(line):
            out.write(line)
            continue
        entry, rows = next(entries, None), rows + 1
        if entry is None or len(entry.cells) != width:
            found = "no entry" if entry is None else f"{len(entry.cells)} cells"
            raise ValueError(f"data row {rows}: expected {width} cells to append, got {found}")
        record = line if entry.lines == 1 else line + "".join(islice(source, entry.lines - 1))
        out.write(ours.appended(record, entry.cells))
    if next(entries, None) is not None:
        raise ValueError("more entries to append than the upload has rows")


class _OurCells:
    """Writes our cells the way the file is written, and counts those its encoding could not hold."""

    def __init__(self, fmt: TableFormat) -> None:
        allow_any_cell()
        self.changed = 0
        self._blank = f'{fmt.delimiter}"\r\n'
        self._codec = fmt.encoding
        self._delimiter = fmt.delimiter
        self._quote_all = fmt.quote_all
        self._needs_quotes = re.compile(f'[{re.escape(fmt.delimiter)}"\r\n]')

    def is_blank(self, line: str) -> bool:
        """Whether a record that begins with this line is a blank one; only one that may be is parsed."""
        return not line.strip(self._blank) and not any(map(any, csv.reader([line], delimiter=self._delimiter)))

    def appended(self, raw: str, cells: Sequence[str]) -> str:
        """The record's raw text with the cells before its own line end."""
        body, line_end = split_line_end(raw)
        return self._delimiter.join((body, *map(self._written, cells))) + line_end

    def _written(self, cell: str) -> str:
        cell = self._encodable(cell)
        if self._quote_all or self._needs_quotes.search(cell):
            return '"' + cell.replace('"', '""') + '"'
        return cell

    def _encodable(self, cell: str) -> str:
        if cell.isascii():
            return cell
        try:
            cell.encode(self._codec)
        except UnicodeEncodeError:
            self.changed += 1
            plain = "".join(map(self._plain, cell))
            # a plain form may be a live formula where the character was none (U+207C becomes =)
            return neutralise(plain) if neutralise(cell) == cell else plain
        return cell

    def _plain(self, char: str) -> str:
        if self._holds(char):
            return char
        parts = unicodedata.normalize("NFKD", char.translate(_HYPHENS))
        return "".join(part for part in parts if self._holds(part) and not unicodedata.combining(part)) or "?"

    def _holds(self, char: str) -> bool:
        try:
            char.encode(self._codec)
        except UnicodeEncodeError:
            return False
        return True
