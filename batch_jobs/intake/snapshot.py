"""The Parquet snapshot of an upload: every cell text, plus each row's number as the spreadsheet shows it."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from batch_jobs.errors import FileRefused
from batch_jobs.models import SHEET_ROW
from batch_jobs.table import Table

GROUP_ROWS = 5_000
"""Rows of a range: what a worker renders, or writes, at once; its memory goes with it."""


def write_snapshot(table: Table, target: Path, filename: str) -> int:
    """Stream a table into a Parquet file, one row group per range of rows; reading it is its full validation.

    One group is compressed and written (by a thread) while the next one is read.

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
    under_way: Future[None] | None = None
    with pq.ParquetWriter(target, schema, compression="zstd") as writer, ThreadPoolExecutor(1, "snapshot") as thread:
        for block in table.blocks(GROUP_ROWS):
            if under_way is not None:
                under_way.result()
            under_way = thread.submit(writer.write_table, block)
            total += block.num_rows
        if under_way is not None:
            under_way.result()
    if total == 0:
        raise FileRefused("it has a header but no rows", file=filename, fix="Add the rows, then upload it again")
    return total
