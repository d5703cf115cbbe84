"""Parquet files (parquet.apache.org): every record is a row, counted from 1; every column is shown as text.

Read as hostile: what the footer declares is held against the limits before anything is decoded. As a long value that is
stored once can stand in a million rows, the values that a file keeps so say how many rows are decoded at a time.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

from batch_jobs.arrow import integers
from batch_jobs.errors import FileRefused
from batch_jobs.intake.blocks import regrouped
from batch_jobs.intake.parquet_text import Unreadable, column_texts
from batch_jobs.models import SHEET_ROW
from batch_jobs.table import FileKind, IntakeLimits, Row, TableFormat

MAGIC, ENCRYPTED = b"PAR1", b"PARE"
BATCH_ROWS = 1_000
UNMEASURED_ROWS = 100
"""Of a batch where values are stored once that can't be looked at beforehand."""
BATCH_BYTES = 64 << 20
BUFFER_BYTES = 1 << 20
MAX_FOOTER_BYTES = 64_000_000
_TEXT_TYPES = {"STRING", "NONE", "JSON", "ENUM"}
_EXPORT_AGAIN = "Write it again, or download it again"


class ParquetTable:
    """A Parquet file whose footer has been checked."""

    def __init__(
        self, path: Path, *, filename: str, limits: IntakeLimits, columns: tuple[str, ...], batch_rows: int
    ) -> None:
        self.format = TableFormat(kind=FileKind.PARQUET)
        self.columns = columns
        self._path = path
        self._filename = filename
        self._limits = limits
        self._batch_rows = batch_rows

    def rows(self) -> Iterator[Row]:
        """Stream the rows; each call is a new pass over the file.

        Raises:
            FileRefused: a page is damaged or encrypted, a value is no text or too long, or all of them together are
                larger than `max_bytes`.
        """
        for table in self._tables():
            numbers, *columns = (column.to_pylist() for column in table.columns)
            for number, cells in zip(numbers, zip(*columns, strict=True), strict=True):
                yield Row(number, cells)

    def blocks(self, size: int) -> Iterator[Any]:
        """The same rows in blocks; see `rows`."""
        return regrouped(self._tables(), size)

    def _tables(self) -> Iterator[Any]:
        import pyarrow as pa

        names, row, unpacked = [SHEET_ROW, *self.columns], 0, 0
        with opened(self._path, self._filename) as file, _arrow_errors(self._filename):
            for batch in file.iter_batches(self._batch_rows, use_threads=False):
                unpacked += batch.nbytes
                if unpacked > self._limits.max_bytes:
                    _refuse_size(self._filename, self._limits)
                numbers = integers(range(row + 1, row + 1 + batch.num_rows))
                columns = [self._texts(row, place, column) for place, column in enumerate(batch.columns)]
                yield pa.Table.from_arrays([numbers, *columns], names)
                row += batch.num_rows

    def _texts(self, row: int, place: int, column: Any) -> Any:
        try:
            texts = column_texts(column)
        except Unreadable as error:
            raise self._refused(error.problem, row + error.position, place) from error
        self._check_length(row, place, texts)
        return texts

    def _check_length(self, row: int, place: int, texts: Any) -> None:
        import pyarrow.compute as pc

        most = self._limits.max_cell_chars
        if len(texts.buffers()[2] or b"") <= most:
            return
        found = pc.indices_nonzero(pc.greater(pc.utf8_length(texts), most))
        if len(found):
            raise self._refused(f"the value has more than {most:,} characters", row + found[0].as_py(), place)

    def _refused(self, problem: str, row: int, place: int) -> FileRefused:
        column, fix = self.columns[place], "Shorten or clean it, or leave the column out"
        return FileRefused(problem, file=self._filename, rows=(row + 1,), column=column, fix=fix)


def open_parquet(path: Path, *, filename: str, limits: IntakeLimits) -> ParquetTable:
    """Check what a file's footer declares.

    Args:
        path: the upload on disk.
        filename: the name the user knows it by.
        limits: upper bounds of the table.

    Raises:
        FileRefused: cut off, damaged, encrypted; no rows, no columns, or more than the limits; a name that is empty or
            there twice; values that unpack to more than `max_bytes`.
    """
    _check_ends(path, filename)
    with opened(path, filename) as file:
        columns = _checked_columns(file, filename, limits)
        _check_rows(file, filename, limits)
        texts = _text_columns(file)
    with opened(path, filename, read_dictionary=texts) as file, _arrow_errors(filename):
        row_bytes = max(_longest_row(file, group) for group in range(file.num_row_groups))
        _check_sizes(file, filename, limits)  # behind the first read: of encrypted columns Arrow ends the process there
        most = UNMEASURED_ROWS if _may_repeat(file, texts) else BATCH_ROWS
    batch_rows = max(1, min(most, BATCH_BYTES // max(1, row_bytes)))
    return ParquetTable(path, filename=filename, limits=limits, columns=columns, batch_rows=batch_rows)


@contextlib.contextmanager
def opened(path: Path, filename: str, read_dictionary: list[str] | None = None) -> Iterator[Any]:
    """A Parquet file that is read by the page, not by the row group.

    Raises:
        FileRefused: its footer can't be read.
    """
    import pyarrow.parquet as pq

    with _arrow_errors(filename):
        file = pq.ParquetFile(path, read_dictionary=read_dictionary, buffer_size=BUFFER_BYTES, pre_buffer=False)
    with file:
        yield file


@contextlib.contextmanager
def _arrow_errors(filename: str) -> Iterator[None]:
    """What Arrow says of a file that it can't read; a FileRefused of ours goes through."""
    import pyarrow as pa

    try:
        yield
    except (pa.ArrowException, OSError, ValueError, UnicodeDecodeError, OverflowError, MemoryError) as error:
        said = " ".join(str(error).split())
        if "encrypt" in said.lower() or "decrypt" in said.lower():
            _refuse_encrypted(filename)
        problem = f"is a Parquet file that can't be read ({said[:160]})"
        raise FileRefused(problem, file=filename, fix=_EXPORT_AGAIN) from error


def _check_ends(path: Path, filename: str) -> None:
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(4)
        file.seek(max(0, size - 8))
        tail = file.read()
    if ENCRYPTED in (start, tail[-4:]):
        _refuse_encrypted(filename)
    if start != MAGIC:
        problem = "is no Parquet file, though its name ends in .parquet"
        raise FileRefused(problem, file=filename, fix="Give it the ending of what it is, or write it as Parquet")
    footer = int.from_bytes(tail[:4], "little")
    if tail[-4:] != MAGIC or footer + 12 > size:
        problem = "is a Parquet file that was cut off: its footer, which is written last, is not there"
        raise FileRefused(problem, file=filename, fix=_EXPORT_AGAIN)
    if footer > MAX_FOOTER_BYTES:
        problem = f"has a footer of {footer:,} bytes, more than the {MAX_FOOTER_BYTES:,} that are taken"
        raise FileRefused(problem, file=filename, fix="Write it with fewer row groups and columns")


def _refuse_encrypted(filename: str) -> NoReturn:
    raise FileRefused("is an encrypted Parquet file", file=filename, fix="Write it without encryption, and upload that")


def _refuse_size(filename: str, limits: IntakeLimits) -> NoReturn:
    problem = f"unpacks to more than the {limits.max_bytes:,} bytes that are taken"
    raise FileRefused(problem, file=filename, fix="Split it into smaller files, or leave out columns")


def _checked_columns(file: Any, filename: str, limits: IntakeLimits) -> tuple[str, ...]:
    with _arrow_errors(filename):
        columns = tuple(str(name) for name in file.schema_arrow.names)
    width = max(len(columns), file.metadata.num_columns)
    if not columns:
        raise FileRefused("has no columns", file=filename, fix="Add columns and rows")
    if width > limits.max_columns:
        problem = f"has {width:,} columns, more than {limits.max_columns:,}"
        raise FileRefused(problem, file=filename, fix="Leave out the columns that are not needed")
    if not all(name.strip() for name in columns):
        raise FileRefused("has a column without a name", file=filename, fix="Name each column")
    doubled = [name for name, count in Counter(columns).items() if count > 1]
    if doubled:
        raise FileRefused("is the name of more than one column", file=filename, column=doubled[0], fix="Rename one")
    return columns


def _check_rows(file: Any, filename: str, limits: IntakeLimits) -> None:
    """Hold the rows and bytes that the footer declares against the limits."""
    declared = file.metadata
    if declared.num_rows > limits.max_rows:
        problem = f"has {declared.num_rows:,} rows, more than {limits.max_rows:,}"
        raise FileRefused(problem, file=filename, fix=f"Split it into files of {limits.max_rows:,} rows")
    groups = [declared.row_group(number) for number in range(declared.num_row_groups)]
    if declared.num_rows != sum(group.num_rows for group in groups):
        raise FileRefused("is a damaged Parquet file: its rows don't add up", file=filename, fix=_EXPORT_AGAIN)
    if declared.num_rows < 1:
        raise FileRefused("has columns but no rows", file=filename, fix="Add the rows, then upload it again")
    if sum(group.total_byte_size for group in groups) > limits.max_bytes:
        _refuse_size(filename, limits)


def _check_sizes(file: Any, filename: str, limits: IntakeLimits) -> None:
    """The same by its columns, each of which may say something else."""
    chunks = list(_chunks(file))
    values = sum(chunk.num_values for chunk in chunks)
    if sum(chunk.total_uncompressed_size for chunk in chunks) > limits.max_bytes or values > limits.max_bytes:
        _refuse_size(filename, limits)


def _chunks(file: Any) -> Iterator[Any]:
    for number in range(file.num_row_groups):
        group = file.metadata.row_group(number)
        if group.num_rows:
            yield from (group.column(place) for place in range(group.num_columns))


def _text_columns(file: Any) -> list[str]:
    """The columns that can be read as a dictionary and indices."""
    leaves = (file.schema.column(place) for place in range(file.metadata.num_columns))
    return [
        leaf.path
        for leaf in leaves
        if leaf.physical_type == "BYTE_ARRAY"
        and leaf.logical_type.type in _TEXT_TYPES
        and leaf.path == leaf.name
        and leaf.max_repetition_level == 0
    ]


def _longest_row(file: Any, group: int) -> int:
    """Bytes of a row that has the longest of those values which each column of a row group keeps in its dictionary."""
    import pyarrow as pa
    import pyarrow.compute as pc

    first = next(file.iter_batches(1, row_groups=[group], use_threads=False), None)
    kept = [column.dictionary for column in first.columns if pa.types.is_dictionary(column.type)] if first else []
    values = [column.cast(pa.binary()) for column in kept if _is_text(column.type)]
    return sum(int(pc.max(pc.binary_length(column)).as_py() or 0) for column in values)


def _is_text(kind: Any) -> bool:
    import pyarrow as pa

    return any(is_kind(kind) for is_kind in (pa.types.is_string, pa.types.is_binary, pa.types.is_large_string))


def _may_repeat(file: Any, measured: list[str]) -> bool:
    """Whether a column keeps values once that `_longest_row` has not seen."""
    return any(
        "DELTA_BYTE_ARRAY" in chunk.encodings
        or (chunk.physical_type == "BYTE_ARRAY" and chunk.path_in_schema not in measured)
        for chunk in _chunks(file)
    )
