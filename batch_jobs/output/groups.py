"""A table of groups, a line each: a new file of our own, as a workbook or as text."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from itertools import chain
from typing import IO

from batch_jobs.output.neutral import neutralise
from batch_jobs.table import FileKind, TableFormat

MAX_CELL_CHARS = 32_767
"""What Excel holds."""


def suffix_of(fmt: TableFormat, upload: str) -> str:
    """The suffix of a table of groups, where the upload has that format and suffix; `.csv` where it is no table."""
    if fmt.kind is FileKind.XLSX:
        return ".xlsx"
    return upload if fmt.kind is FileKind.TEXT else ".csv"


def write_group_table(
    handle: IO[bytes], fmt: TableFormat, header: Sequence[str], lines: Iterable[Sequence[str]]
) -> None:
    """Write it: a workbook for a workbook; else UTF-8 text with the upload's delimiter, and a BOM unless that had none.

    Every cell is text, and none of them can be run by the spreadsheet that opens it.
    """
    if fmt.kind is FileKind.XLSX:
        _write_workbook(handle, header, lines)
        return
    plain = fmt.encoding == "utf-8" and not fmt.bom
    out = io.TextIOWrapper(handle, "utf-8" if plain else "utf-8-sig", newline="")
    writer = csv.writer(out, delimiter=fmt.delimiter, lineterminator=fmt.line_end)
    writer.writerows(list(map(neutralise, line)) for line in chain([header], lines))
    out.flush()
    out.detach()  # the handle is the caller's


def _write_workbook(handle: IO[bytes], header: Sequence[str], lines: Iterable[Sequence[str]]) -> None:
    from openpyxl import Workbook
    from openpyxl.cell import WriteOnlyCell

    book = Workbook(write_only=True)
    sheet = book.create_sheet("groups")
    for line in chain([header], lines):
        cells = [WriteOnlyCell(sheet, neutralise(text)[:MAX_CELL_CHARS]) for text in line]
        for cell in cells:
            cell.data_type = "s"
        sheet.append(cells)
    book.save(handle)
