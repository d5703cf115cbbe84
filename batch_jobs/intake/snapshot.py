"""The Parquet snapshot of an upload: every cell text, plus each row's number as the spreadsheet shows it."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

from batch_jobs.arrow import integers, texts
from batch_jobs.errors import FileRefused
from batch_jobs.models import SHEET_ROW
from batch_jobs.table import Row, Table

GROUP_ROWS = 10_000


def write_snapshot(table: Table, target: Path, filename: str) -> int:
    """Stream a table into a Parquet file, one row group per 10,000 rows; reading it is its full validation.

    Returns:
        Rows written.

    Raises:
        FileRefused: the table holds something that can't be read without guessing, or no rows.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    if SHEET_ROW in table.columns:
        raise FileRefused("this name is reserved", file=filename, column=SHEET_ROW, fix="Rename the column")
    fields = [(SHEET_ROW, pa.int64()), *((name, pa.string()) for name in table.columns)]
    total = 0
    rows = table.rows()
    with pq.ParquetWriter(target, pa.schema(fields), compression="zstd") as writer:
        while group := list(islice(rows, GROUP_ROWS)):
            writer.write_table(_arrow(group, pa.schema(fields)))
            total += len(group)
    if total == 0:
        raise FileRefused("it has a header but no rows", file=filename, fix="Add the rows, then upload it again")
    return total


def _arrow(group: list[Row], schema: object) -> object:
    import pyarrow as pa

    columns = [texts(cells) for cells in zip(*(row.cells for row in group), strict=True)]
    return pa.Table.from_arrays([integers([row.number for row in group]), *columns], schema=schema)
