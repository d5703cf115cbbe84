"""What an uploaded table is to the rest of the product, whatever file format it came in."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any, NamedTuple, Protocol


class FileKind(StrEnum):
    """The families of table files."""

    TEXT = "text"  # csv, tsv, psv
    XLSX = "xlsx"
    JSONL = "jsonl"
    PARQUET = "parquet"


@dataclass(frozen=True, slots=True)
class TableFormat:
    r"""How the upload is written: detected once at intake, kept with the job, used to write the output alike.

    Attributes:
        kind: of the file.
        encoding: Python codec name without BOM (`utf-8`, `utf-16-le`, `utf-16-be`, `cp1252`); text only.
        bom: the file starts with a byte order mark; text only.
        delimiter: one character; text only.
        line_end: of the header line: `\r\n`, `\n` or `\r`; text only.
        quote_all: every header cell is quoted, so ours are too; text only.
        sheet: name of the worksheet that holds the table; xlsx only.
    """

    kind: FileKind
    encoding: str = "utf-8"
    bom: bool = False
    delimiter: str = ","
    line_end: str = "\n"
    quote_all: bool = False
    sheet: str | None = None

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values, for the ledger."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> TableFormat:
        """The inverse of `to_json`; what older versions kept besides is left out."""
        known = {name: value for name, value in values.items() if name in cls.__slots__}
        return cls(**{**known, "kind": FileKind(known["kind"])})

    def describe(self) -> str:
        """For the plan: `sheet "Q3"`, or `utf-8, comma`."""
        if self.kind is FileKind.XLSX:
            return f'sheet "{self.sheet}"'
        if self.kind is not FileKind.TEXT:
            return "JSON Lines" if self.kind is FileKind.JSONL else "Parquet"
        names = {",": "comma", ";": "semicolon", "\t": "tab", "|": "pipe"}
        return f"{self.encoding}{' with BOM' if self.bom else ''}, {names.get(self.delimiter, repr(self.delimiter))}"


@dataclass(frozen=True, slots=True)
class IntakeLimits:
    """Upper bounds of a table.

    Attributes:
        max_bytes: of the uploaded file.
        max_rows: data rows.
        max_columns: columns.
        max_cell_chars: characters of one cell.
    """

    max_bytes: int
    max_rows: int
    max_columns: int
    max_cell_chars: int


class Row(NamedTuple):
    """One data row.

    Attributes:
        number: as the spreadsheet shows it (header = 1), blank rows counted; in JSON Lines and Parquet, which have no
            header, the first row is 1.
        cells: text, exactly as written, one per column.
    """

    number: int
    cells: tuple[str, ...]


class Addition(NamedTuple):
    """What the output gives to one row.

    Attributes:
        cells: ours, as the kind of file has them: in JSON Lines they are JSON texts.
        lines: that the row takes in a text table, by its line breaks; of no meaning elsewhere.
    """

    cells: Sequence[str]
    lines: int = 1


def free_names(names: Iterable[str], taken: Iterable[str]) -> list[str]:
    """The names of new columns beside those that are `taken`: one that is not free gets `_2`, or the next free number.

    Earlier names choose first.
    """
    used, free = set(taken), list[str]()
    for name in names:
        found, number = name, 2
        while found in used:
            found, number = f"{name}_{number}", number + 1
        used.add(found)
        free.append(found)
    return free


class Table(Protocol):
    """An opened, recognised table.

    In a spreadsheet blank rows (every cell empty) are no rows: skipped, but counted in numbers. In JSON Lines and
    Parquet every record is a row.
    """

    format: TableFormat
    columns: tuple[str, ...]

    def rows(self) -> Iterator[Row]:
        """Stream the data rows in file order, in constant memory; may be called again for a second pass.

        Raises:
            FileRefused: at the first part of the file that can't be read without guessing.
        """
        ...

    def blocks(self, size: int) -> Iterator[Any]:
        """The same rows as Arrow tables of `size` rows, the last one smaller; the quickest way through the table.

        Their columns: the numbers under the name SHEET_ROW, then a column of texts each.

        Raises:
            FileRefused: as `rows`.
        """
        ...
