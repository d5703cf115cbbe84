"""The quick pass over a text table: megabytes of records at a time by Arrow's csv reader, for the snapshot.

It takes only what is beyond doubt: text whose every quote stands where a quote may stand, so that any reader of csv
finds the same cells in it, and as many of them in each record as the header has. At anything else (text after a closing
quote, a quote that is not closed, a NUL, a very long record) it stops, and the careful pass of `intake.text` says what
is wrong, or goes on where it stopped.
"""

from __future__ import annotations

import io
from codecs import BOM_UTF8
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from batch_jobs.intake.dialect import MAX_RECORD_CHARS, Encoding, open_decoded, sep_delimiter

PIECE_BYTES = 2 << 20
SEP_LINE_BYTES = 12
QUOTE, NEWLINE, RETURN = b'"\n\r'


class Doubtful(Exception):
    """The careful pass has to look at what comes now."""


class Layout(NamedTuple):
    """How the text is written.

    Attributes:
        columns: cells of each record.
        max_cell_bytes: of one cell.
    """

    encoding: Encoding
    delimiter: str
    columns: int
    max_cell_bytes: int


class Records(NamedTuple):
    """Records that follow each other, without blank ones.

    Attributes:
        numbers: of each, as the spreadsheet shows it (the first line is 1; a `sep=` line is none): a numpy array.
        cells: an Arrow table of texts.
    """

    numbers: Any
    cells: Any


def quick_records(path: Path, layout: Layout) -> Iterator[Records]:
    """Parse a text table, its header too, some megabytes at a time.

    Raises:
        Doubtful: it holds something that has to be looked at with care; what was yielded before stands.
    """
    first = 1
    with open_decoded(path, layout.encoding) as stream:
        read: Callable[[int], Any] = stream.buffer.read if layout.encoding.codec == "utf-8" else _as_utf8(stream)
        for text, ends in _pieces(_texts(read), layout.delimiter.encode()[0]):
            records = _records(text, ends, first, layout)
            if records is not None:
                yield records
            first += len(ends)


def _as_utf8(stream: io.TextIOBase) -> Callable[[int], bytes]:
    return lambda size: stream.read(size).encode()


def _texts(read: Callable[[int], bytes]) -> Iterator[bytes]:
    """The text by the megabyte, without a `sep=` line."""
    head = read(PIECE_BYTES)
    while b"\n" not in head and len(head) <= SEP_LINE_BYTES and (more := read(PIECE_BYTES)):
        head += more
    first = head.find(b"\n") + 1 or len(head)
    yield head[first:] if _is_sep_line(head[:first]) else head
    while text := read(PIECE_BYTES):
        yield text


def _pieces(texts: Iterator[bytes], delimiter: int) -> Iterator[tuple[bytes, Any]]:
    """Yield whole records, with the position where each ends."""
    rest = b""
    for text in texts:
        rest += text
        ends = _record_ends(rest)
        if len(ends):
            yield _beyond_doubt(rest[: ends[-1]], delimiter), ends
            rest = rest[ends[-1] :]
        if len(rest) > MAX_RECORD_CHARS:
            raise Doubtful
    if rest:
        if rest.count(b'"') % 2:
            raise Doubtful
        yield _beyond_doubt(rest, delimiter), _record_ends(rest + b"\n")


def _is_sep_line(line: bytes) -> bool:
    return len(line) <= SEP_LINE_BYTES and sep_delimiter(line.decode(errors="replace")) is not None


def _record_ends(text: bytes) -> Any:
    """Where records end: behind each newline that an even number of quotes comes before."""
    import numpy as np

    data = np.frombuffer(text, np.uint8)
    newlines = np.flatnonzero(data == NEWLINE)
    if b'"' in text:
        quotes = np.flatnonzero(data == QUOTE)
        newlines = newlines[np.searchsorted(quotes, newlines) % 2 == 0]
    return newlines + 1


def _beyond_doubt(text: bytes, delimiter: int) -> bytes:
    """Whole records that all readers read alike.

    Raises:
        Doubtful: they might not. A quote opens at the beginning of a cell, and closes at its end, where the next
            character is a delimiter or a line end; between these there are only pairs of them.
    """
    if text.startswith(BOM_UTF8) or b"\0" in text:
        raise Doubtful
    import numpy as np

    data = np.frombuffer(b"\n" + text + b"\n", np.uint8)
    if not (data[np.flatnonzero(data == RETURN) + 1] == NEWLINE).all():
        raise Doubtful
    quotes = np.flatnonzero(data == QUOTE)
    may_stand_beside = np.zeros(256, np.bool_)
    may_stand_beside[[delimiter, QUOTE, NEWLINE, RETURN]] = True
    before, behind = data[quotes[0::2] - 1], data[quotes[1::2] + 1]
    if not (may_stand_beside[before].all() and may_stand_beside[behind].all()):
        raise Doubtful
    return text


def _records(text: bytes, ends: Any, first: int, layout: Layout) -> Records | None:
    """Parse whole records; None when all of them are blank."""
    import numpy as np
    import pyarrow as pa
    from pyarrow import csv

    data, starts = np.frombuffer(text, np.uint8), np.concatenate(([0], ends[:-1]))
    written = np.flatnonzero((data[starts] != NEWLINE) & (data[starts] != RETURN))
    if not len(written):
        return None
    names = [str(number) for number in range(layout.columns)]
    try:
        cells = csv.read_csv(
            pa.py_buffer(text),
            csv.ReadOptions(use_threads=False, block_size=len(text) + 1, column_names=names),
            csv.ParseOptions(delimiter=layout.delimiter, newlines_in_values=True),
            csv.ConvertOptions(column_types=dict.fromkeys(names, pa.string())),
        ).combine_chunks()
    except pa.ArrowInvalid as error:  # not as many cells as the header has
        raise Doubtful from error
    if cells.num_rows != len(written):
        raise Doubtful
    return _filled(Records(first + written, cells), layout.max_cell_bytes)


def _filled(records: Records, max_cell_bytes: int) -> Records | None:
    """The records that have a cell that is not empty.

    Raises:
        Doubtful: a cell is longer than it may be.
    """
    import numpy as np
    import pyarrow as pa

    total = np.zeros(len(records.numbers), np.int64)
    for column in records.cells.columns:
        (chunk,) = column.chunks
        lengths = np.diff(np.frombuffer(chunk.buffers()[1], np.int32)[chunk.offset :][: len(total) + 1])
        if lengths.max() > max_cell_bytes:
            raise Doubtful
        total += lengths
    if total.all():
        return records
    kept = total > 0
    return Records(records.numbers[kept], records.cells.filter(pa.array(kept))) if kept.any() else None
