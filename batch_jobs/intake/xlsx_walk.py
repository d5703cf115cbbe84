"""One walk over a worksheet's XML that decides which rows are data rows: intake and output both take its word.

It sees every cell once, in constant memory, with expat, and refuses what two readers could place differently.
Elements: ECMA-376 part 1, 18.3.1.73 (row), 18.3.1.4 (c), 18.3.1.40 (f), 18.3.1.96 (v), 18.3.1.53 (is).
"""

from __future__ import annotations

import zipfile
from array import array
from collections.abc import Callable, Iterable
from functools import cache
from typing import NoReturn

from batch_jobs.errors import FileRefused
from batch_jobs.intake.text import column_letter
from batch_jobs.intake.xlsx_package import Nesting, Package, feed, xml_parser
from batch_jobs.intake.xlsx_workbook import MAIN_NAMESPACES, XML_SPACE

MAX_SHEET_ROWS = 1_048_576
MAX_SHEET_COLUMNS = 16_384
_CALCULATE = "Open it in Excel, let it calculate, and save it; then upload it again"
_SAVE_AGAIN = "Open it in Excel and save it again as .xlsx"


@cache
def _columns() -> dict[str, int]:
    """Column number, counted from 1, by its letters."""
    return {column_letter(position): position + 1 for position in range(MAX_SHEET_COLUMNS)}


def column_number(letters: str) -> int:
    """The column, counted from 1, by its letters; 0 when there is no such column."""
    return _columns().get(letters, 0)


def _plain_number(digits: str) -> int:
    """A number of few ASCII digits; -1 for anything else."""
    return int(digits) if len(digits) < 10 and digits.isascii() and digits.isdecimal() else -1


class SheetWalk:
    """Streams a worksheet part and tells, by overridable hooks, where rows end and which of them are blank.

    A row is blank when every cell is empty text; formulas that give "" are empty. `width` is the table's number
    of columns: the last column with a header; anything right of it must be empty (styled cells may stand there).

    Attributes:
        width: known once row 1 has closed, or as given.
        header_style: the `s` of the last header cell.
        row: number of the row in work, then of the last row.
        column: of the cell in work, counted from 1.
        filled: cells with a value, even an empty one.
        last_row: with such a cell.
        last_column: likewise.
        text_bytes: of all cells, at least; shared texts counted each time.
    """

    def __init__(self, package: Package, part: zipfile.ZipInfo, sizes: array[int], *, width: int = 0) -> None:
        """Prepare a walk.

        Args:
            package: the container.
            part: the worksheet's part.
            sizes: of the shared strings, as `shared_sizes` gives them.
            width: when it is known from an earlier walk.
        """
        self.package = package
        self.part = part
        self.width = width
        self.header_style: str | None = None
        self.row = 0
        self.column = 0
        self.last_row = 0
        self.last_column = 0
        self.filled = 0
        self.text_bytes = 0
        self.prefix = ""
        self.parser = xml_parser(package, part)
        self.parser.buffer_text = True
        self.parser.StartElementHandler = self._root_opens
        self._nesting = Nesting(package, part)  # of all tags but those that can't be nested in each other
        self._sizes = sizes
        self._names = _columns()
        self._opens: dict[str, Callable[[dict[str, str]], None]] = {}
        self._closes: dict[str, Callable[[], None]] = {}
        self._row_text = ""
        self._blank = True
        self._filled_before = 0
        self._header_width = 0
        self._kind: str | None = None
        self._style: str | None = None
        self._size = -1  # of the cell's text; -1 while there is neither v nor t
        self._formula = self._phonetic = self._preserve = False
        self._in_row = self._in_cell = self._in_value = self._in_text = False
        self._pieces: list[str] = []

    # Hooks

    def dimension_opened(self) -> None:
        """At the start of the `dimension` tag."""

    def dimension_closed(self) -> None:
        """At its end."""

    def row_opened(self) -> None:
        """At the start of a row's tag."""

    def row_closed(self, blank: bool) -> None:
        """At a row's end tag."""

    def error_found(self, text: str) -> None:
        """At the end of a cell that holds an error value."""

    def merge_found(self, ref: str) -> None:
        """At a range of merged cells; they stand behind the rows."""

    def spare_opened(self) -> None:
        """At the start of an empty cell right of the table."""

    def spare_closed(self, style: str | None) -> None:
        """At its end."""

    # The walk

    def run(self, chunks: Iterable[bytes] | None = None) -> None:
        """Walk over the whole part.

        Args:
            chunks: its bytes; read from the package when not given.

        Raises:
            FileRefused: no header in row 1, data without header, formulas without a calculated value, cells out
                of order or twice, and what `Package.chunks` and `feed` refuse.
        """
        feed(self.package, self.part, self.parser, self.package.chunks(self.part) if chunks is None else chunks)
        if not self.width:
            raise FileRefused("the sheet is empty", file=self.package.filename, fix="Put column names in the first row")

    def refuse_cell(self, problem: str, fix: str = _SAVE_AGAIN) -> NoReturn:
        """Raise FileRefused for the cell in work."""
        letter = column_letter(self.column - 1) if self.column else None
        raise FileRefused(problem, file=self.package.filename, rows=(self.row,), column=letter, fix=fix)

    def _root_opens(self, name: str, attributes: dict[str, str]) -> None:
        prefix, _, local = name.rpartition(":")
        if local != "worksheet" or attributes.get(f"xmlns:{prefix}" if prefix else "xmlns") not in MAIN_NAMESPACES:
            self.package.refuse(f'its part "{self.part.filename}" is no worksheet')
        self.prefix = f"{prefix}:" if prefix else ""
        self.parser.StartElementHandler = self._outside_opens
        self.parser.EndElementHandler = self._outside_closes

    def _outside_opens(self, name: str, attributes: dict[str, str]) -> None:
        self._nesting.opened()
        if name == f"{self.prefix}dimension":
            self.dimension_opened()
        elif name == f"{self.prefix}mergeCell":
            self.merge_found(attributes.get("ref", ""))
        elif name == f"{self.prefix}sheetData":
            if self._opens:
                self.package.refuse("the sheet holds its data twice")
            self._go_inside()

    def _outside_closes(self, name: str) -> None:
        self._nesting.closed()
        if name == f"{self.prefix}dimension":
            self.dimension_closed()

    def _go_inside(self) -> None:
        opens = {
            "row": self._row_opens,
            "c": self._cell_opens,
            "v": self._value_opens,
            "t": self._text_opens,
            "f": self._formula_opens,
            "rPh": self._phonetic_opens,
        }
        closes = {
            "row": self._row_closes,
            "c": self._cell_closes,
            "v": self._value_closes,
            "t": self._text_closes,
            "f": self._nesting.closed,
            "rPh": self._phonetic_closes,
            "sheetData": self._go_outside,
        }
        self._opens = {self.prefix + name: handler for name, handler in opens.items()}
        self._closes = {self.prefix + name: handler for name, handler in closes.items()}
        self.parser.StartElementHandler = self._opened
        self.parser.EndElementHandler = self._closed
        self.parser.CommentHandler = self._odd
        self.parser.StartCdataSectionHandler = self._odd
        self.parser.ProcessingInstructionHandler = self._odd

    def _go_outside(self) -> None:
        self._nesting.closed()
        self.parser.StartElementHandler = self._outside_opens
        self.parser.EndElementHandler = self._outside_closes

    def _opened(self, name: str, attributes: dict[str, str]) -> None:
        if name in self._opens:
            self._opens[name](attributes)
        else:
            self._nesting.opened()

    def _closed(self, name: str) -> None:
        if name in self._closes:
            self._closes[name]()
        else:
            self._nesting.closed()

    def _odd(self, *_: object) -> None:
        """A comment, CDATA section or instruction: within a value, readers disagree about what it says."""
        if self._in_value:
            self.refuse_cell("the cell's value is written in a way that can't be read without guessing")

    def _row_opens(self, attributes: dict[str, str]) -> None:
        written = attributes.get("r")
        number = self.row + 1 if written is None else _plain_number(written)
        if self._in_row or not self.row < number <= MAX_SHEET_ROWS:
            self.package.refuse(f"the sheet's rows are out of order after row {self.row:,}")
        self._in_row = True
        self.row = number
        self._row_text = str(number)
        self.column = 0
        self._blank = True
        self._filled_before = self.filled
        self.row_opened()

    def _row_closes(self) -> None:
        self._in_row = False
        if self.row == 1:
            self.width = self.width or self._header_width
        elif not self._blank and not self.width:
            raise FileRefused(
                "the first row of the sheet is empty; it must hold the column names",
                file=self.package.filename,
                fix=f"Move the header from row {self.row:,} to row 1, or delete the empty rows above it",
            )
        if self.filled > self._filled_before:
            self.last_row = self.row
        self.row_closed(self._blank)

    def _cell_opens(self, attributes: dict[str, str]) -> None:
        reference = attributes.get("r")
        before, row_text = self.column, self._row_text
        if reference is None:
            column = before + 1
        elif reference.endswith(row_text):
            column = self._names.get(reference[: -len(row_text)], 0)
        else:
            column = 0
        if self._in_cell or not self._in_row or not before < column <= MAX_SHEET_COLUMNS:
            self.package.refuse(f"the cells of row {self.row:,} are out of order or in a wrong place ({reference!r})")
        self._in_cell = True
        self.column = column
        self._kind = attributes.get("t")
        self._style = attributes.get("s")
        self._size = -1
        self._formula = False
        if 0 < self.width < column:
            self.spare_opened()

    def _value_opens(self, _attributes: dict[str, str]) -> None:
        if self._size >= 0 or self._in_value or not self._in_cell:
            self.refuse_cell("the cell has more than one value")
        self._in_value = True
        self._pieces = []
        self.parser.CharacterDataHandler = self._pieces.append

    def _value_closes(self) -> None:
        self.parser.CharacterDataHandler = None
        self._in_value = False
        pieces = self._pieces
        self._size = len(pieces[0]) if len(pieces) == 1 else sum(map(len, pieces))

    def _text_opens(self, attributes: dict[str, str]) -> None:
        if not self._in_cell:
            self.refuse_cell("a text stands outside of the cells")
        if self._in_text:
            self.refuse_cell("the cell's texts stand in each other")
        self._in_text = True
        if not self._phonetic:
            self._preserve = attributes.get("xml:space") == "preserve"
            self._pieces = []
            self.parser.CharacterDataHandler = self._pieces.append

    def _text_closes(self) -> None:
        self._in_text = False
        if not self._phonetic:
            self.parser.CharacterDataHandler = None
            text = "".join(self._pieces)
            self._size = max(self._size, 0) + len(text if self._preserve else text.strip(XML_SPACE))

    def _formula_opens(self, _attributes: dict[str, str]) -> None:
        self._nesting.opened()
        self._formula = True

    def _phonetic_opens(self, _attributes: dict[str, str]) -> None:
        self._nesting.opened()
        self._phonetic = True

    def _phonetic_closes(self) -> None:
        self._nesting.closed()
        self._phonetic = False

    def _cell_closes(self) -> None:
        self._in_cell = False
        size = self._size
        if self._formula and size < 1 and not (size == 0 and self._kind == "str"):
            self.refuse_cell("the cell holds a formula that was never calculated", _CALCULATE)
        if size >= 0:
            size = self._counted(size)
            if size:
                self._blank = False
        if self.column > self.width:
            self._right_of_table(occupied=size > 0 or self._formula)

    def _counted(self, size: int) -> int:
        """Take a cell with a value into account, and say how much text it shows."""
        kind = self._kind
        if kind == "s" and size:
            size = self._shared_size("".join(self._pieces))
        elif kind == "e" and size:
            self.error_found("".join(self._pieces))
        self.filled += 1
        self.text_bytes += size
        if self.column > self.last_column:
            self.last_column = self.column
        return size

    def _right_of_table(self, *, occupied: bool) -> None:
        """A cell behind the last header; while the header row is read, that is any cell."""
        if self.width == 0:
            if occupied and self.row == 1:
                self._header_width, self.header_style = self.column, self._style
        elif occupied:
            self.refuse_cell("the column holds data but has no name in the first row", "Name it in row 1, or delete it")
        else:
            self.spare_closed(self._style)

    def _shared_size(self, text: str) -> int:
        index = _plain_number(text.strip(XML_SPACE))
        if not 0 <= index < len(self._sizes):
            self.refuse_cell("the cell's text is missing from the workbook")
        return self._sizes[index]


class HeaderWalk(SheetWalk):
    """Reads no further than row 1: finds `width` and `header_style`."""

    def run(self, chunks: Iterable[bytes] | None = None) -> None:
        """Walk until the first row has closed."""
        try:
            super().run(chunks)
        except _RowClosed:
            return

    def row_closed(self, blank: bool) -> None:  # noqa: ARG002 - the hook's signature
        """Stop."""
        raise _RowClosed


class _RowClosed(Exception):
    """The first row has closed."""
