"""Write a text table back: the user's own bytes, with our columns at the end of each record.

The original part is never parsed and written anew; it is repeated, so quoting, spaces and line ends stay.
"""

from __future__ import annotations

import csv
import io
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from batch_jobs.intake.dialect import CHUNK_BYTES, Encoding, allow_any_cell, open_decoded, sep_delimiter
from batch_jobs.intake.text import RecordReader, split_line_end
from batch_jobs.output.neutral import neutralise
from batch_jobs.table import TableFormat

_HYPHENS = str.maketrans({"\u2010": "-", "\u2011": "-", "\u2212": "-"})  # no NFKD form, and models like them


def write_text(
    upload: Path, fmt: TableFormat, target: Path, columns: Sequence[str], cells: Iterable[Sequence[str]]
) -> int:
    """Write `target`: the upload with our columns appended, in constant memory.

    Blank records, a `sep=` line and the BOM pass through; a last line without a line end stays without. The
    caller has made the cells harmless (`neutralise`), and renames and syncs the file.

    Args:
        upload: the kept original, already accepted by `open_text`.
        fmt: what `open_text` found.
        target: a path to write to; replaced when it exists.
        columns: names of our columns.
        cells: ours, one sequence of `len(columns)` texts per data row, in file order.

    Returns:
        Number of our cells in which a character had to be replaced, because the file's encoding lacks it.

    Raises:
        ValueError: when `cells` has not exactly one entry of the right length per data row.
    """
    encoding = Encoding(fmt.encoding, fmt.bom)
    ours = _OurCells(fmt)
    with open_decoded(upload, encoding) as source, target.open("wb", buffering=CHUNK_BYTES) as binary:
        binary.write(encoding.bom_bytes)
        with io.TextIOWrapper(binary, encoding=fmt.encoding, newline="") as out:
            records = _lines(source, fmt.delimiter) if fmt.one_line else _records(source, fmt, upload.name)
            _write_header(records, out, ours, columns)
            _write_rows(records, out, ours, len(columns), cells)
    return ours.changed


class _Raw(NamedTuple):
    """One record: its number in the spreadsheet, its text with its line end, whether it is the header or a row."""

    number: int
    text: str
    filled: bool


def _records(source: io.TextIOBase, fmt: TableFormat, name: str) -> Iterator[_Raw]:
    for record in RecordReader(source, delimiter=fmt.delimiter, filename=name):
        yield _Raw(record.number, record.raw, any(record.cells))


def _lines(source: io.TextIOBase, delimiter: str) -> Iterator[_Raw]:
    """The records of a file that has one a line; only those that may be blank are parsed."""
    allow_any_cell()
    blank = f'{delimiter}"\r\n'
    for number, line in enumerate(source):
        if line.strip(blank):
            yield _Raw(number + 1, line, number > 0 or sep_delimiter(line) is None)
        else:
            yield _Raw(number + 1, line, any(map(any, csv.reader([line], delimiter=delimiter))))


def _write_header(records: Iterator[_Raw], out: io.TextIOBase, ours: _OurCells, columns: Sequence[str]) -> None:
    for _, text, filled in records:
        if filled:
            out.write(ours.appended(text, columns))
            return
        out.write(text)


def _write_rows(
    records: Iterator[_Raw], out: io.TextIOBase, ours: _OurCells, width: int, cells: Iterable[Sequence[str]]
) -> None:
    entries = iter(cells)
    for number, text, filled in records:
        if not filled:
            out.write(text)
            continue
        entry = next(entries, None)
        if entry is None or len(entry) != width:
            found = "no entry" if entry is None else f"{len(entry)} cells"
            raise ValueError(f"row {number}: expected {width} cells to append, got {found}")
        out.write(ours.appended(text, entry))
    if next(entries, None) is not None:
        raise ValueError("more entries to append than the upload has rows")


class _OurCells:
    """Writes our cells the way the file is written, and counts those its encoding could not hold."""

    def __init__(self, fmt: TableFormat) -> None:
        self.changed = 0
        self._codec = fmt.encoding
        self._delimiter = fmt.delimiter
        self._quote_all = fmt.quote_all
        self._needs_quotes = re.compile(f'[{re.escape(fmt.delimiter)}"\r\n]')

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
