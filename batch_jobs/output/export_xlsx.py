"""A new workbook of one plain sheet, streamed: texts as inline strings, so never a formula; numbers as numbers.

Only the parts that ECMA-376 part 1 asks for (12.3.20, 12.3.24), with the zip's own first date on each of them.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterable, Sequence
from typing import IO

from batch_jobs.errors import UserError
from batch_jobs.intake.text import column_letter
from batch_jobs.output.export import Chunk, ExportColumn, Text, ValueKind
from batch_jobs.output.xlsx_cells import cell_xml, fitted

MAX_ROWS, MAX_COLUMNS = 1_048_576, 16_384
MAX_WHOLE = 2**53
"""Beyond it a worksheet rounds whole numbers."""
_FIRST_DATE = (1980, 1, 1, 0, 0, 0)
_HEAD = '<?xml version="1.0" encoding="UTF-8" standalone="yes"?>\n'
_MAIN = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
_OFFICE = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
_PACKAGE = "http://schemas.openxmlformats.org/package/2006"
_TYPE = "application/vnd.openxmlformats-officedocument.spreadsheetml"
_SHEET = "xl/worksheets/sheet1.xml"
_PARTS = {
    "[Content_Types].xml": f'<Types xmlns="{_PACKAGE}/content-types">'
    '<Default Extension="rels" ContentType="application/vnd.openxmlformats-package.relationships+xml"/>'
    '<Default Extension="xml" ContentType="application/xml"/>'
    f'<Override PartName="/xl/workbook.xml" ContentType="{_TYPE}.sheet.main+xml"/>'
    f'<Override PartName="/{_SHEET}" ContentType="{_TYPE}.worksheet+xml"/></Types>',
    "_rels/.rels": f'<Relationships xmlns="{_PACKAGE}/relationships">'
    f'<Relationship Id="rId1" Type="{_OFFICE}/officeDocument" Target="xl/workbook.xml"/></Relationships>',
    "xl/workbook.xml": f'<workbook xmlns="{_MAIN}" xmlns:r="{_OFFICE}">'
    '<sheets><sheet name="export" sheetId="1" r:id="rId1"/></sheets></workbook>',
    "xl/_rels/workbook.xml.rels": f'<Relationships xmlns="{_PACKAGE}/relationships">'
    f'<Relationship Id="rId1" Type="{_OFFICE}/worksheet" Target="worksheets/sheet1.xml"/></Relationships>',
}


def write_workbook(target: IO[bytes], columns: Sequence[ExportColumn], chunks: Iterable[Chunk], text: Text) -> int:
    """Write a workbook; see `write_export`.

    Raises:
        UserError: more rows or columns than a worksheet has.
    """
    if len(columns) > MAX_COLUMNS:
        raise UserError(f"a worksheet holds {MAX_COLUMNS:,} columns, and there are {len(columns):,}. Export as parquet")
    sheet = _Sheet(columns, text)
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as out:
        for name, xml in _PARTS.items():
            out.writestr(_entry(name), _HEAD + xml)
        with out.open(_entry(_SHEET), "w", force_zip64=True) as part:
            part.write(f'{_HEAD}<worksheet xmlns="{_MAIN}"><sheetData>'.encode())
            part.write(sheet.header())
            for chunk in chunks:
                part.write(b"".join(map(sheet.row, zip(*chunk, strict=True))))
            part.write(b"</sheetData></worksheet>")
    return sheet.cut


def _entry(name: str) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name, _FIRST_DATE)
    entry.compress_type, entry.create_system = zipfile.ZIP_DEFLATED, 0
    return entry


class _Sheet:
    """Makes the rows, and counts them and the cells that were cut."""

    def __init__(self, columns: Sequence[ExportColumn], text: Text) -> None:
        self.cut = self._row = 0
        self._columns, self._text = columns, text
        self._numeric = [column.kind in {ValueKind.INTEGER, ValueKind.NUMBER} for column in columns]
        self._letters = [column_letter(position) for position in range(len(columns))]

    def header(self) -> bytes:
        """The names."""
        self._row = 1
        return self._written([self._cell(place, column.name) for place, column in enumerate(self._columns)])

    def row(self, values: Sequence[object]) -> bytes:
        """One more row."""
        self._row += 1
        if self._row > MAX_ROWS:
            raise UserError(f"a worksheet holds {MAX_ROWS - 1:,} rows, and the job has more. Export as parquet or csv")
        return self._written([self._value(place, value) for place, value in enumerate(values)])

    def _written(self, cells: list[bytes]) -> bytes:
        return f'<row r="{self._row}">'.encode() + b"".join(cells) + b"</row>"

    def _value(self, place: int, value: object) -> bytes:
        if self._numeric[place] and isinstance(value, int | float) and abs(value) <= MAX_WHOLE:
            return f'<c r="{self._letters[place]}{self._row}"><v>{value!r}</v></c>'.encode()
        return self._cell(place, value)

    def _cell(self, place: int, value: object) -> bytes:
        text = self._text(value)
        short = fitted(text)
        self.cut += short is not text
        return cell_xml("", place + 1, self._row, short, None)
