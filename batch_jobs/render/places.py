"""Which rows stand for an item and an identity: of equal rows the first, so that each result is kept once."""

from __future__ import annotations

from pathlib import Path

from batch_jobs.arrow import duckdb_over

_FIRST = """
    SELECT min("row") AS "row" FROM read_rows WHERE item IS NOT NULL GROUP BY item, md5_number(identity)
"""


def firsts_of_places(plan: Path, rows: int) -> bytearray:
    """One byte a row of the plan, in file order: 1 where its item and identity have not come before; 0 without an item.

    Grouping is left to DuckDB, which spills.
    """
    marks = bytearray(rows)
    with duckdb_over(read_rows=[plan / "rows.parquet"]) as connection:
        for batch in connection.sql(_FIRST).to_arrow_reader():
            for row in batch.column(0).to_pylist():
                marks[row] = 1
    return marks
