"""Writes the user's file back with our columns, in its own format."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from batch_jobs.table import Addition, FileKind, TableFormat


def write_table(
    upload: Path, fmt: TableFormat, target: Path, columns: Sequence[str], additions: Iterable[Addition]
) -> int:
    """Write `upload` plus `columns` to `target` (a temp file that the caller makes durable).

    Args:
        upload: the kept upload.
        fmt: how it is written.
        target: where to.
        columns: names of our columns.
        additions: one per data row, in file order.

    Returns:
        How many of our cells had to be changed to fit the format (encoding, cell size).

    Raises:
        ValueError: fewer or more of them than rows.
    """
    if fmt.kind is FileKind.XLSX:
        from batch_jobs.output.xlsx import write_xlsx

        return write_xlsx(upload, fmt, target, columns, (addition.cells for addition in additions))
    if fmt.kind is FileKind.JSONL:
        from batch_jobs.output.jsonl import write_jsonl

        write_jsonl(upload, target, columns, additions)
        return 0
    if fmt.kind is FileKind.PARQUET:
        from batch_jobs.output.parquet import write_parquet

        write_parquet(upload, target, columns, additions)
        return 0
    from batch_jobs.output.text import write_text

    return write_text(upload, fmt, target, columns, additions)
