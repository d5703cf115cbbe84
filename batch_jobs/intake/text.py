"""Text tables (csv, tsv, psv): cells exactly as written, records with their raw text, one pass in constant memory.

The standard library's csv reader parses, in strict mode; the lines it consumes are kept beside each record,
so that the output file can repeat them byte for byte.
"""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from batch_jobs.arrow import integers
from batch_jobs.errors import FileRefused
from batch_jobs.intake.blocks import blocks_of, regrouped
from batch_jobs.intake.dialect import (
    DELIMITERS,
    MAX_RECORD_CHARS,
    SAMPLE_CHARS,
    Encoding,
    allow_any_cell,
    detect_delimiter,
    detect_encoding,
    extension_of,
    open_decoded,
    sep_delimiter,
)
from batch_jobs.intake.quick import Doubtful, Layout, quick_records
from batch_jobs.models import SHEET_ROW
from batch_jobs.table import FileKind, IntakeLimits, Row, TableFormat

MAX_RAGGED_ROWS = 1_000
_CLOSE_QUOTES = 'Quote the whole cell and double every " inside it, or save the table again from the spreadsheet'


class Record(NamedTuple):
    """One record of the file, blank ones too.

    Attributes:
        number: as the spreadsheet shows it; 0 for a `sep=` line.
        raw: the exact text with its line end; a quoted newline makes it several lines.
        cells: parsed; empty for a `sep=` line.
    """

    number: int
    raw: str
    cells: list[str]


class RecordReader:
    """Iterates over the records of an open text with the raw text of each.

    Raises FileRefused at a NUL, a quote that is never closed, text after a closing quote, or a cell or record
    over its bound; `number` is that of the record where it begins.
    """

    def __init__(
        self,
        stream: io.TextIOBase,
        *,
        delimiter: str,
        filename: str,
        max_cell_chars: int = MAX_RECORD_CHARS,
        columns: Sequence[str] = (),
    ) -> None:
        allow_any_cell()
        self._stream = stream
        self._delimiter = delimiter
        self._filename = filename
        self._max_cell_chars = min(max_cell_chars, MAX_RECORD_CHARS)
        self._columns = columns
        self._number = 0
        self._lines: list[str] = []

    def __iter__(self) -> Iterator[Record]:
        """Yield every record; the `sep=` line, if any, comes first with number 0."""
        feed = self._feed()
        first = next(feed, None)
        if first is None:
            return
        if sep_delimiter(first) is not None:
            yield Record(0, self._taken(), [])
            yield from self._records(feed)
        else:
            yield from self._records(_chained(first, feed))

    def _records(self, feed: Iterator[str]) -> Iterator[Record]:
        longest = self._max_cell_chars
        try:
            for cells in csv.reader(feed, delimiter=self._delimiter, strict=True):
                self._number = number = self._number + 1
                raw = self._taken()
                if len(raw) > longest:
                    self._check_cells(number, cells)
                yield Record(number, raw, cells)
        except csv.Error as error:
            raise self._broken(error) from error

    def _taken(self) -> str:
        lines = self._lines
        raw = lines[0] if len(lines) == 1 else "".join(lines)
        lines.clear()
        return raw

    def _feed(self) -> Iterator[str]:
        """Hand out lines and keep those of the record in work; a record that grows is looked at as it doubles."""
        lines, size, look_at = self._lines, 0, self._max_cell_chars
        for line in iter(partial(self._stream.readline, MAX_RECORD_CHARS), ""):
            if lines:
                size += len(line)
                if size > look_at:
                    self._check_growing(size, line)
                    look_at = 2 * size
            else:
                size, look_at = len(line), self._max_cell_chars
                if size >= MAX_RECORD_CHARS:
                    raise self._too_long()
            if "\0" in line:
                raise self._refused(
                    "holds a NUL character, so it is damaged or no text table", "Save it again from the spreadsheet"
                )
            lines.append(line)
            yield line

    def _check_growing(self, size: int, line: str) -> None:
        if size >= MAX_RECORD_CHARS:
            raise self._too_long()
        self._check_cells(self._number + 1, next(csv.reader([*self._lines, line], delimiter=self._delimiter)))

    def _check_cells(self, number: int, cells: Sequence[str]) -> None:
        for position, cell in enumerate(cells):
            if len(cell) > self._max_cell_chars:
                raise FileRefused(
                    f"the cell has more than {self._max_cell_chars:,} characters",
                    file=self._filename,
                    rows=(number,),
                    column=self._columns[position] if position < len(self._columns) else column_letter(position),
                    fix="Shorten it; if it is not meant to be that long, a quote is opened there and not closed",
                )

    def _too_long(self) -> FileRefused:
        return self._refused(f"the row has more than {MAX_RECORD_CHARS:,} characters", _CLOSE_QUOTES)

    def _broken(self, error: csv.Error) -> FileRefused:
        if "end of data" in str(error):
            return self._refused("a quote is opened in this row and never closed", _CLOSE_QUOTES)
        return self._refused("there is text between a closing quote and the next delimiter", _CLOSE_QUOTES)

    def _refused(self, problem: str, fix: str) -> FileRefused:
        return FileRefused(problem, file=self._filename, rows=(self._number + 1,), fix=fix)


def _chained(first: str, rest: Iterator[str]) -> Iterator[str]:
    yield first
    yield from rest


class TextTable:
    """A csv, tsv or psv file whose header has been read and checked."""

    def __init__(
        self, path: Path, *, filename: str, limits: IntakeLimits, table_format: TableFormat, columns: tuple[str, ...]
    ) -> None:
        self.format = table_format
        self.columns = columns
        self._path = path
        self._filename = filename
        self._limits = limits

    def rows(self) -> Iterator[Row]:
        """Stream the data rows; each call is a new pass over the file.

        Rows with more or fewer cells than the header are not yielded; they are collected, and raised together at
        the end of the pass (or as soon as there are 1,000), so that the user can mend them in one go.

        Raises:
            FileRefused: for ragged rows, and for what `RecordReader` refuses, and over `max_rows`.
        """
        width, taken, ragged = len(self.columns), 0, _Ragged(len(self.columns), self._filename)
        with open_decoded(self._path, Encoding(self.format.encoding, self.format.bom)) as stream:
            records = _filled(self._reader(stream))
            next(records, None)
            for number, _, cells in records:
                taken += 1
                if taken > self._limits.max_rows:
                    raise self._too_many_rows()
                if len(cells) == width:
                    yield Row(number, tuple(cells))
                else:
                    ragged.add(number, len(cells))
        ragged.refuse_if_any()

    def blocks(self, size: int) -> Iterator[Any]:
        """The same rows in blocks, by the quick pass for as long as there is no doubt.

        Raises:
            FileRefused: as `rows`.
        """
        taken = 0
        try:
            for block in regrouped(self._quick_tables(), size):
                taken += block.num_rows
                if taken > self._limits.max_rows:
                    raise self._too_many_rows()
                yield block
        except Doubtful:
            yield from blocks_of(islice(self.rows(), taken, None), self.columns, size)

    def _quick_tables(self) -> Iterator[Any]:
        import pyarrow as pa

        encoding, names = Encoding(self.format.encoding, self.format.bom), [SHEET_ROW, *self.columns]
        layout = Layout(encoding, self.format.delimiter, len(self.columns), self._limits.max_cell_chars)
        header = 1
        for numbers, cells in quick_records(self._path, layout):
            table = pa.Table.from_arrays([integers(numbers), *cells.columns], names)
            yield table.slice(header)
            header = 0

    def _reader(self, stream: io.TextIOBase) -> RecordReader:
        return RecordReader(
            stream,
            delimiter=self.format.delimiter,
            filename=self._filename,
            max_cell_chars=self._limits.max_cell_chars,
            columns=self.columns,
        )

    def _too_many_rows(self) -> FileRefused:
        most = f"{self._limits.max_rows:,}"
        return FileRefused(f"has more than {most} rows", file=self._filename, fix=f"Split it into files of {most} rows")


class _Ragged:
    """Collects the rows that are not as wide as the header."""

    def __init__(self, width: int, filename: str) -> None:
        self._width = width
        self._filename = filename
        self._found: dict[int, int] = {}

    def add(self, number: int, width: int) -> None:
        """Remember one row; raise when there are as many as are worth naming."""
        self._found[number] = width
        if len(self._found) >= MAX_RAGGED_ROWS:
            self.refuse_if_any()

    def refuse_if_any(self) -> None:
        """Raise FileRefused that names the rows and says how wide they are."""
        if not self._found:
            return
        found = " or ".join(f"{width:,}" for width in sorted(set(self._found.values()))[:5])
        problem = f"expected {_cells(self._width)} as in the header, found {found}"
        if len(self._found) >= MAX_RAGGED_ROWS:
            problem += f" (reading stopped at {MAX_RAGGED_ROWS:,} such rows)"
        fix = "Give each row one cell for each column, and put quotes around a cell that holds the delimiter"
        if self._width == 1:
            fix = f"The first row must hold the names of all columns. {fix}"
        raise FileRefused(problem, file=self._filename, rows=tuple(self._found), fix=fix)


def _cells(count: int) -> str:
    return "1 cell" if count == 1 else f"{count:,} cells"


def _filled(records: RecordReader) -> Iterator[Record]:
    """Only the records that have a cell that is not empty."""
    return (record for record in records if any(record.cells))


def open_text(path: Path, *, filename: str, limits: IntakeLimits) -> TextTable:
    """Recognise how the file is written, and check its header.

    Args:
        path: the upload on disk.
        filename: the name the user knows it by; its extension is a hint for the delimiter.
        limits: upper bounds of the table.

    Raises:
        FileRefused: when it can't be read without guessing, has no header or no rows, or a bad header.
    """
    encoding = detect_encoding(path, filename=filename)
    with open_decoded(path, encoding) as stream:
        delimiter = detect_delimiter(stream.read(SAMPLE_CHARS), extension=extension_of(filename))
    if delimiter not in DELIMITERS:
        raise FileRefused(
            f'its first line says "sep={delimiter}", which is not read',
            file=filename,
            fix="Save it with commas, semicolons, tabs or pipes",
        )
    with open_decoded(path, encoding) as stream:
        reader = RecordReader(stream, delimiter=delimiter, filename=filename, max_cell_chars=limits.max_cell_chars)
        records = _filled(reader)
        header = next(records, None)
        if header is None:
            raise FileRefused("has no header and no rows", file=filename, fix="Put the column names in the first row")
        columns = _checked_columns(header, filename, limits)
        if next(records, None) is None:
            raise FileRefused("has a header but no rows", file=filename, fix="Add the rows below the header")
    table_format = _format(encoding, delimiter, header)
    return TextTable(path, filename=filename, limits=limits, table_format=table_format, columns=columns)


def _format(encoding: Encoding, delimiter: str, header: Record) -> TableFormat:
    body, line_end = split_line_end(header.raw)
    quoted = delimiter.join('"' + cell.replace('"', '""') + '"' for cell in header.cells)
    return TableFormat(
        kind=FileKind.TEXT,
        encoding=encoding.codec,
        bom=encoding.bom,
        delimiter=delimiter,
        line_end=line_end or "\n",
        quote_all=body == quoted,
    )


def _checked_columns(header: Record, filename: str, limits: IntakeLimits) -> tuple[str, ...]:
    columns = tuple(cell.strip().strip("\ufeff").strip() for cell in header.cells)
    if len(columns) > limits.max_columns:
        problem = f"has {len(columns):,} columns, more than {limits.max_columns:,}"
        raise FileRefused(problem, file=filename, fix="Leave out the columns that are not needed")
    empty = [column_letter(position) for position, name in enumerate(columns) if not name]
    if empty:
        problem = f"the header has no name in column {_listed(empty)}"
        raise FileRefused(problem, file=filename, rows=(header.number,), fix="Name each column, or delete empty ones")
    doubled = [f'"{name}"' for name, count in Counter(columns).items() if count > 1]
    if doubled:
        problem = f"the header has the same name more than once: {_listed(doubled)}"
        raise FileRefused(problem, file=filename, rows=(header.number,), fix="Give each column its own name")
    return columns


def _listed(names: Sequence[str], most: int = 10) -> str:
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def split_line_end(raw: str) -> tuple[str, str]:
    r"""Split a record's raw text into its body and its own line end (`\r\n`, `\n`, `\r` or nothing)."""
    for line_end in ("\r\n", "\n", "\r"):
        if raw.endswith(line_end):
            return raw[: -len(line_end)], line_end
    return raw, ""


def column_letter(position: int) -> str:
    """The spreadsheet's letters for a column, counted from 0: A, B, ... Z, AA."""
    letters = ""
    position += 1
    while position:
        position, place = divmod(position - 1, 26)
        letters = chr(ord("A") + place) + letters
    return letters
