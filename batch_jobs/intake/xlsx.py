"""Read one worksheet as a table of texts: guarded and surveyed by our own walk, its values read by calamine.

calamine (Rust) is fast but trusting: it allocates every cell between A1 and the last one, copies a shared text for
each cell that shows it, blanks error cells. So the survey bounds all that first, and both must name the same rows.
"""

from __future__ import annotations

import io
import re
import zipfile
from array import array
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.sax.saxutils import quoteattr

from batch_jobs.errors import FileRefused
from batch_jobs.intake.blocks import blocks_of
from batch_jobs.intake.text import column_letter
from batch_jobs.intake.xlsx_package import Package
from batch_jobs.intake.xlsx_values import FORBIDDEN, CellValue, as_text
from batch_jobs.intake.xlsx_walk import SheetWalk, column_number
from batch_jobs.intake.xlsx_workbook import SheetPart, Workbook, check_xml, read_workbook, shared_sizes
from batch_jobs.intake.xlsx_zip import add_packed
from batch_jobs.table import FileKind, IntakeLimits, Row, TableFormat

if TYPE_CHECKING:
    from python_calamine import CalamineSheet

# calamine's dense memory: see XlsxTable.
MAX_CELLS = 25_000_000
MAX_TEXT_BYTES = 1 << 30
SPARSE_FROM_CELLS = 2_000_000
MIN_FILLED_SHARE = 0.02
MAX_ERROR_CELLS = 1_000_000
# The error values of ECMA-376 part 1, 18.17.2.7; Excel stores the newer ones (#SPILL!, #CALC!) as #VALUE!.
ERROR_VALUES = frozenset(
    {"#DIV/0!", "#GETTING_DATA", "#N/A", "#NAME?", "#NULL!", "#NUM!", "#REF!", "#VALUE!", "#DATA!"}
)
_MERGED_TO = re.compile(r"^[A-Z]{1,3}([0-9]{1,7}):([A-Z]{1,3})[0-9]{1,7}$")
_SAVE_AGAIN = "Open it in Excel and save it again as .xlsx"
_SPLIT = "Split the table into several files"
_OFFICE = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"


class XlsxTable:
    """One worksheet, surveyed and loaded.

    Costs about 65 MB for 100,000 rows of 10 columns (half of them text of 30 characters) from opening until it is let
    go, and 95 MB for a moment while it is loaded; `rows()` streams from there. The sheet's XML is never held whole.
    Not loaded at all: more than MAX_CELLS cells between A1 and the last cell, more than MAX_TEXT_BYTES of text
    counted once per cell, a large sheet of which less than MIN_FILLED_SHARE is filled.
    """

    def __init__(
        self, sheet: CalamineSheet, survey: _Survey, *, name: str, columns: tuple[str, ...], limits: IntakeLimits
    ) -> None:
        self.format = TableFormat(kind=FileKind.XLSX, sheet=name)
        self.columns = columns
        self._sheet = sheet
        self._survey = survey
        self._filename = survey.package.filename
        self._max_cell_chars = limits.max_cell_chars

    def rows(self) -> Iterator[Row]:
        """Stream the data rows; each call is a new pass.

        Raises:
            FileRefused: a cell over `max_cell_chars` or with a control character; calamine and the survey disagree
                about which rows are blank.
        """
        width, errors = len(self.columns), self._survey.errors
        expected = iter(self._survey.numbers)
        for number, values in enumerate(self._sheet.iter_rows(), 1):
            if number == 1:
                continue
            cells = as_text(values[:width])
            if number in errors:
                cells = _with_errors(cells, errors[number])
            if not any(cells):
                continue
            if next(expected, None) != number:
                raise self._ambiguous(number)
            self._check(number, cells)
            yield Row(number, cells)
        missing = next(expected, None)
        if missing is not None:
            raise self._ambiguous(missing)

    def blocks(self, size: int) -> Iterator[Any]:
        """The same rows in blocks."""
        return blocks_of(self.rows(), self.columns, size)

    def _ambiguous(self, number: int) -> FileRefused:
        problem = "the row can't be read without guessing: it is blank by one reading and not by another"
        return FileRefused(problem, file=self._filename, rows=(number,), fix=_SAVE_AGAIN)

    def _check(self, number: int, cells: tuple[str, ...]) -> None:
        joined = "".join(cells)
        if len(joined) <= self._max_cell_chars and not FORBIDDEN.search(joined):
            return
        for name, cell in zip(self.columns, cells, strict=True):
            problem = ""
            if len(cell) > self._max_cell_chars:
                problem = f"the cell has more than {self._max_cell_chars:,} characters"
            elif found := FORBIDDEN.search(cell):
                problem = f"the cell holds a control character (U+{ord(found[0]):04X})"
            if problem:
                raise FileRefused(
                    problem, file=self._filename, rows=(number,), column=name, fix="Shorten or clean the cell"
                )


class _Survey(SheetWalk):
    """What has to be known before calamine may load the sheet.

    Attributes:
        numbers: of the data rows, blank ones left out.
        errors: texts of the error cells, by row and position.
    """

    def __init__(self, package: Package, part: zipfile.ZipInfo, sizes: array[int], limits: IntakeLimits) -> None:
        super().__init__(package, part, sizes)
        self.numbers: array[int] = array("L")
        self.errors: dict[int, dict[int, str]] = {}
        self._limits = limits
        self._errors_left = MAX_ERROR_CELLS

    def row_closed(self, blank: bool) -> None:
        """Count the row, and stop at the first limit."""
        if self.row == 1:
            if self.width > self._limits.max_columns:
                problem = f"has {self.width:,} columns, more than {self._limits.max_columns:,}"
                self.package.refuse(problem, "Leave out the columns that are not needed")
        elif not blank:
            self.numbers.append(self.row)
            if len(self.numbers) > self._limits.max_rows:
                most = f"{self._limits.max_rows:,}"
                self.package.refuse(f"has more than {most} rows", f"Split it into files of {most} rows")
        if self.filled > MAX_CELLS or self.text_bytes > MAX_TEXT_BYTES:
            self.package.refuse("the sheet holds more cells or text than can be loaded", _SPLIT)

    def merge_found(self, ref: str) -> None:
        """Refuse what would hide our cells: of merged cells, only the first is shown (18.3.1.55)."""
        corner = _MERGED_TO.search(ref)
        if corner is None or not self.numbers:
            return
        first_row, letters = int(corner[1]), corner[2]
        if first_row <= self.numbers[-1] and column_number(letters) > self.width:
            problem = f"the merged cells {ref[:20]} reach to the right of the table, where the new columns go"
            self.package.refuse(problem, "Unmerge them")

    def check_area(self) -> None:
        """Bound the memory that calamine takes for everything between A1 and the last cell."""
        area = self.last_row * self.last_column
        if area > MAX_CELLS:
            problem = f"the sheet spans {area:,} cells, more than {MAX_CELLS:,} can be loaded"
            self.package.refuse(problem, "Delete the columns that are not needed, or split the table")
        if area > SPARSE_FROM_CELLS and self.filled < area * MIN_FILLED_SHARE:
            problem = f"the sheet spans {area:,} cells, of which only {self.filled:,} are filled"
            self.package.refuse(problem, "Delete the empty rows and columns between the data")

    def error_found(self, text: str) -> None:
        """Keep the text, as calamine drops it."""
        if text not in ERROR_VALUES:
            self.refuse_cell(f"the cell holds an error that can't be read ({text[:20]!r})", "Correct or clear the cell")
        self._errors_left -= 1
        if self._errors_left < 0:
            self.package.refuse(f"the sheet holds more than {MAX_ERROR_CELLS:,} error cells", "Correct the formulas")
        self.errors.setdefault(self.row, {})[self.column - 1] = text


def open_xlsx(path: Path, *, filename: str, sheet: str | None, limits: IntakeLimits) -> XlsxTable:
    """Check a workbook, survey its sheet and load it.

    The header is the sheet's first row; columns that are empty but for their format are none.

    Args:
        path: the upload on disk.
        filename: the name the user knows it by.
        sheet: name of the worksheet; None for the first visible one.
        limits: upper bounds of the table.

    Raises:
        FileRefused: hostile, damaged, with macros or a password; formulas that were never calculated; no header in
            row 1, names missing or doubled, no rows; over the limits.
        UnknownName: no such sheet.
    """
    package = Package(path, filename=filename)
    workbook = read_workbook(package)
    picked = workbook.pick(sheet, filename)
    check_xml(package, workbook.styles)
    survey = _Survey(package, picked.part, shared_sizes(package, workbook.shared_strings), limits)
    survey.run()
    survey.check_area()
    if not survey.numbers:
        package.refuse("has a header but no rows", "Add the rows below the header")
    loaded = _load(package, workbook, picked)
    columns = _checked_columns(loaded, survey)
    return XlsxTable(loaded, survey, name=picked.name, columns=columns, limits=limits)


def _load(package: Package, workbook: Workbook, sheet: SheetPart) -> CalamineSheet:
    """Have calamine read the parts that were checked, and no others, from a container of our making."""
    from python_calamine import CalamineError, CalamineWorkbook

    try:
        with CalamineWorkbook.from_filelike(_container(package, workbook, sheet)) as book:
            return book.get_sheet_by_index(0)
    except CalamineError as error:
        problem = f"the sheet can't be read ({error})"
        raise FileRefused(problem, file=package.filename, fix=_SAVE_AGAIN) from error


def _container(package: Package, workbook: Workbook, sheet: SheetPart) -> io.BytesIO:
    """A minimal workbook with the one sheet; its parts are copied compressed."""
    target = io.BytesIO()
    parts = {"worksheet": ("worksheets/sheet1.xml", sheet.part)}
    if workbook.styles is not None:
        parts["styles"] = ("styles.xml", workbook.styles)
    if workbook.shared_strings is not None:
        parts["sharedStrings"] = ("sharedStrings.xml", workbook.shared_strings)
    relations = "".join(
        f'<Relationship Id="{kind}" Type="{_OFFICE}/{kind}" Target="{name}"/>' for kind, (name, _) in parts.items()
    )
    with zipfile.ZipFile(target, "w") as out:
        for kind, text in _SMALL_PARTS.items():
            out.writestr(kind, text)
        out.writestr("xl/workbook.xml", _book_xml(sheet.name, workbook.date1904))
        out.writestr("xl/_rels/workbook.xml.rels", _RELATIONSHIPS.format(relations))
        for name, info in parts.values():
            add_packed(package, info, out, name=f"xl/{name}")
    target.seek(0)
    return target


def _book_xml(sheet: str, date1904: bool) -> str:
    return (
        f'<workbook xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main" xmlns:r="{_OFFICE}">'
        f'<workbookPr date1904="{int(date1904)}"/>'
        f'<sheets><sheet name={quoteattr(sheet)} sheetId="1" r:id="worksheet"/></sheets></workbook>'
    )


_RELATIONSHIPS = (
    '<Relationships xmlns="http://schemas.openxmlformats.org/package/2006/relationships">{}</Relationships>'
)
_SMALL_PARTS = {
    "[Content_Types].xml": (
        '<Types xmlns="http://schemas.openxmlformats.org/package/2006/content-types">'
        '<Default Extension="xml" ContentType="application/xml"/></Types>'
    ),
    "_rels/.rels": _RELATIONSHIPS.format(
        f'<Relationship Id="book" Type="{_OFFICE}/officeDocument" Target="xl/workbook.xml"/>'
    ),
}


def _checked_columns(sheet: CalamineSheet, survey: _Survey) -> tuple[str, ...]:
    """The names in row 1, without blanks at their ends."""
    first: list[CellValue] = next(iter(sheet.iter_rows()), [])
    cells = as_text(first[: survey.width])
    cells = _with_errors(cells + ("",) * (survey.width - len(cells)), survey.errors.get(1, {}))
    names = tuple(cell.strip() for cell in cells)
    if sheet.start != (0, 0) and any(names):
        survey.package.refuse("the sheet can't be read without guessing where it starts")
    problem = _header_problem(names)
    if problem:
        fix = "Give each column its own name (of merged cells, only the first has one), or delete empty columns"
        raise FileRefused(problem, file=survey.package.filename, rows=(1,), fix=fix)
    return names


def _header_problem(names: tuple[str, ...]) -> str:
    empty = [column_letter(position) for position, name in enumerate(names) if not name]
    if empty:
        return f"the header has no name in column {', '.join(empty[:10])}"
    doubled = [f'"{name}"' for name, count in Counter(names).items() if count > 1]
    if doubled:
        return f"the header has the same name more than once: {', '.join(doubled[:10])}"
    return "the header holds a control character" if any(map(FORBIDDEN.search, names)) else ""


def _with_errors(cells: tuple[str, ...], errors: dict[int, str]) -> tuple[str, ...]:
    """Put the error texts where calamine has blanks."""
    return tuple(errors.get(position, cell) for position, cell in enumerate(cells))
