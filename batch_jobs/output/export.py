"""Write rows of typed columns as csv, tsv, psv, jsonl, xlsx or parquet: the same rows make the same bytes each time.

Streamed, a chunk of rows at a time. In what a spreadsheet opens no cell is a formula, whoever wrote it.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import IO, Any

import orjson

from batch_jobs.arrow import texts
from batch_jobs.errors import UserError

Chunk = Sequence[Sequence[object]]
"""Some rows, column by column, all as long."""
Text = Callable[[object], str]
_DELIMITERS = {"csv": ",", "tsv": "\t", "psv": "|"}


class ExportFormat(StrEnum):
    """What a job's rows can be exported as."""

    CSV = "csv"
    TSV = "tsv"
    PSV = "psv"
    JSONL = "jsonl"
    XLSX = "xlsx"
    PARQUET = "parquet"


class ValueKind(StrEnum):
    """What a column holds; None is always allowed."""

    TEXT = "text"
    INTEGER = "integer"
    NUMBER = "number"
    BOOLEAN = "boolean"
    JSON = "json"  # lists, objects, or now this and now that


@dataclass(frozen=True, slots=True)
class ExportColumn:
    """One column."""

    name: str
    kind: ValueKind


def write_export(
    fmt: ExportFormat, target: IO[bytes], columns: Sequence[ExportColumn], chunks: Iterable[Chunk], text: Text
) -> int:
    """Write all chunks to `target`, in bounded memory.

    Args:
        fmt: what to write.
        target: an open binary file; the caller makes it durable.
        columns: their names differ.
        chunks: rows, column by column, in the order of `columns`.
        text: makes a value a cell of a spreadsheet that is not run.

    Returns:
        How many cells were cut to what a worksheet's cell holds.

    Raises:
        UserError: the format can't hold it; says what can.
    """
    if fmt is ExportFormat.XLSX:
        from batch_jobs.output.export_xlsx import write_workbook

        return write_workbook(target, columns, chunks, text)
    if fmt is ExportFormat.PARQUET:
        _write_parquet(target, columns, chunks)
    elif fmt is ExportFormat.JSONL:
        _write_jsonl(target, columns, chunks)
    else:
        _write_text(target, columns, chunks, text, _DELIMITERS[fmt])
    return 0


def _write_text(
    target: IO[bytes], columns: Sequence[ExportColumn], chunks: Iterable[Chunk], text: Text, delimiter: str
) -> None:
    """UTF-8 and CR LF, as RFC 4180 has it."""
    out = io.TextIOWrapper(target, encoding="utf-8", newline="")
    writer = csv.writer(out, delimiter=delimiter, lineterminator="\r\n")
    writer.writerow([text(column.name) for column in columns])
    for chunk in chunks:
        writer.writerows(zip(*(map(text, values) for values in chunk), strict=True))
    out.detach()  # flushed; the caller closes its file


def _write_jsonl(target: IO[bytes], columns: Sequence[ExportColumn], chunks: Iterable[Chunk]) -> None:
    names = [column.name for column in columns]
    for chunk in chunks:
        for values in zip(*chunk, strict=True):
            target.write(orjson.dumps(dict(zip(names, values, strict=True))) + b"\n")


def _write_parquet(target: IO[bytes], columns: Sequence[ExportColumn], chunks: Iterable[Chunk]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    kinds = {ValueKind.INTEGER: pa.int64(), ValueKind.NUMBER: pa.float64(), ValueKind.BOOLEAN: pa.bool_()}
    schema = pa.schema([(column.name, kinds.get(column.kind, pa.string())) for column in columns])
    with pq.ParquetWriter(target, schema, compression="zstd") as writer:
        for chunk in chunks:
            arrays = [
                _array(column, values, kind) for column, values, kind in zip(columns, chunk, schema.types, strict=True)
            ]
            writer.write_table(pa.Table.from_arrays(arrays, schema=schema))


def _array(column: ExportColumn, values: Sequence[Any], kind: Any) -> Any:
    import pyarrow as pa

    if column.kind is ValueKind.TEXT:
        return texts(values)
    if column.kind is ValueKind.JSON:
        return texts([None if value is None else orjson.dumps(value).decode() for value in values])
    try:
        return pa.array(values, kind)
    except (OverflowError, pa.ArrowException) as error:
        problem = f'column "{column.name}" holds a whole number of more than 64 bits, which Parquet has not'
        raise UserError(f"{problem}. Export it as jsonl") from error
