"""The quick pass over a text table: whole blocks of records at the csv module's own speed, for the snapshot.

It takes only what is beyond doubt. At anything else (a quote that is not closed, a NUL, a very long record) it stops,
and the careful pass of `intake.text` says what is wrong, or goes on where it stopped.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from itertools import chain, islice
from typing import NamedTuple

from batch_jobs.intake.dialect import MAX_RECORD_CHARS, allow_any_cell, sep_delimiter

PIECE_CHARS = 1 << 20


class Doubtful(Exception):
    """The careful pass has to look at what comes now."""


class Records(NamedTuple):
    """Records that follow each other, blank ones too.

    Attributes:
        first: number of the first one, as the spreadsheet shows it (the first line is 1; a `sep=` line is none).
        cells: each record's, parsed.
    """

    first: int
    cells: list[list[str]]


def quick_records(stream: io.TextIOBase, delimiter: str, size: int) -> Iterator[Records]:
    """Parse an open text in blocks of `size` records.

    Raises:
        Doubtful: it holds something that has to be looked at with care; what was yielded before stands.
    """
    allow_any_cell()
    block: list[list[str]] = []
    reader = csv.reader(chain.from_iterable(_pieces(stream, block)), delimiter=delimiter, strict=True)
    number = 1
    try:
        while True:
            block.extend(islice(reader, size))
            if not block:
                return
            yield Records(number, block.copy())
            number += len(block)
            block.clear()
    except csv.Error as error:
        raise Doubtful from error


def _pieces(stream: io.TextIOBase, block: list[list[str]]) -> Iterator[io.StringIO]:
    """Hand out whole lines by the megabyte.

    The reader is in the middle of one record for as long as `block`, which grows with each record that it ends, stays
    as it is: that may not go on for longer than a record may be.
    """
    rest = stream.readline(MAX_RECORD_CHARS)
    if sep_delimiter(rest) is not None:
        rest = ""
    grown, waiting = -1, 0
    while text := stream.read(PIECE_CHARS):
        waiting = 0 if len(block) != grown else waiting + len(text)
        grown = len(block)
        rest += text
        if "\0" in text or max(waiting, len(rest)) > MAX_RECORD_CHARS:
            raise Doubtful
        cut = rest.rfind("\n") + 1
        if cut:
            yield io.StringIO(rest[:cut], newline="")
            rest = rest[cut:]
    if "\0" in rest:
        raise Doubtful
    yield io.StringIO(rest, newline="")
