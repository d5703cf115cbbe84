"""The Parquet snapshot of an upload: every cell text, plus each row's number as the spreadsheet shows it."""

from __future__ import annotations

from pathlib import Path

from batch_jobs.arrow import writing_behind
from batch_jobs.errors import FileRefused
from batch_jobs.models import SHEET_ROW
from batch_jobs.table import Table

GROUP_ROWS = 5_000
"""Rows of a range: what a worker renders, or writes, at once; its memory goes with it."""


def write_snapshot(table: Table, target: Path, filename: str) -> int:
    """Stream a table into a Parquet file, one row group per range of rows; reading it is its full validation.

    Returns:
        Rows written.

    Raises:
        FileRefused: the table holds something that can't be read without guessing, or no rows.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    if SHEET_ROW in table.columns:
        raise FileRefused("this name is reserved", file=filename, column=SHEET_ROW, fix="Rename the column")
    schema = pa.schema([(SHEET_ROW, pa.int64()), *((name, pa.string()) for name in table.columns)])
    total = 0
    with (
        pq.ParquetWriter(target, schema, compression="zstd") as writer,
        writing_behind(writer, "snapshot") as write,
    ):
        for block in table.blocks(GROUP_ROWS):
            write(block)
            total += block.num_rows
    if total == 0:
        raise FileRefused("it has a header but no rows", file=filename, fix="Add the rows, then upload it again")
    return total
