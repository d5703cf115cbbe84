"""Reads a plan back: its items, its rows, and where each answer is filed; streamed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from batch_jobs.arrow import integers
from batch_jobs.models import SHEET_ROW
from batch_jobs.render.query import plan_query

BATCH_ROWS = 10_000
_FILED = """
    SELECT r.item, r.identity, r.alternate, r.fingerprint, s.*
    FROM (SELECT item, identity, any_value(alternate) AS alternate, any_value(fingerprint) AS fingerprint,
                 min(number) AS number
          FROM read_rows WHERE item IS NOT NULL GROUP BY item, identity) r
    JOIN read_snapshot s ON s.{sheet_row} = r.number ORDER BY r.item, r.identity
"""


class PlannedItem(NamedTuple):
    """One item of the plan: where its body lies.

    Attributes:
        offset: where its own bytes begin, in the bodies of its segment.
        length: of the whole body, in bytes.
        shared: how many of these the segment's bodies begin with alike; they stand at the start of the file.
    """

    item: int
    fingerprint: bytes
    segment: int
    offset: int
    length: int
    shared: int


class PlannedRow(NamedTuple):
    """One row of the plan.

    Attributes:
        row: from 0, in file order.
        number: as the spreadsheet shows it.
        item: the item that answers it; None when its prompt failed.
        error: why the prompt failed.
    """

    row: int
    number: int
    item: int | None
    fingerprint: bytes | None
    error: str | None


@dataclass(frozen=True, slots=True)
class Place:
    """Where an item's answer is filed in the store.

    Attributes:
        alternate: another item of this job has the same identity and comes first.
        details: all input columns of the first such row.
    """

    item: int
    identity: str
    alternate: bool
    fingerprint: bytes
    details: dict[str, str]


def read_items(plan: Path) -> Iterator[PlannedItem]:
    """Stream the items in order."""
    for values in _stream(plan / "items.parquet", ("item", "fingerprint", "segment", "offset", "length", "shared")):
        yield PlannedItem._make(values)


def read_fingerprints(plan: Path) -> Iterator[bytes]:
    """Stream the items' fingerprints, in order."""
    return (value for (value,) in _stream(plan / "items.parquet", ("fingerprint",)))


def read_lengths(plan: Path) -> Iterator[int]:
    """Stream the lengths of the items' bodies in bytes, in order."""
    return (value for (value,) in _stream(plan / "items.parquet", ("length",)))


def read_rows(plan: Path, number: int | None = None) -> Iterator[PlannedRow]:
    """Stream the rows in file order: all of them, or those of one range."""
    names = ("row", "number", "item", "fingerprint", "error")
    for values in _stream(plan / "rows.parquet", names, None if number is None else [number]):
        yield PlannedRow._make(values)


def row_ranges(plan: Path) -> list[int]:
    """The sizes of the ranges that the rows are kept in: those of the snapshot, some thousands each."""
    import pyarrow.parquet as pq

    metadata = pq.read_metadata(plan / "rows.parquet")
    return [int(metadata.row_group(number).num_rows) for number in range(metadata.num_row_groups)]


def read_places(plan: Path, snapshot: Path, items: list[int] | None = None) -> Iterator[Place]:
    """Stream where the answers of `items` (None: all) are filed, one place per item and identity."""
    import pyarrow as pa

    names, cells_of = _snapshot(snapshot)
    tables = {"read_rows": [plan / "rows.parquet"], "read_snapshot": cells_of}
    query = _FILED.format(sheet_row=SHEET_ROW)
    if items is not None:
        tables["wanted"] = pa.Table.from_arrays([integers(items)], ["item"])
        query = query.replace("WHERE item IS NOT NULL", "WHERE item IN (SELECT item FROM wanted)")
    with plan_query(plan, **tables) as connection:
        result = connection.execute(query)
        while batch := result.fetchmany(BATCH_ROWS):
            for item, identity, alternate, fingerprint, _, *cells in batch:
                yield Place(item, identity, alternate, fingerprint, dict(zip(names, cells, strict=True)))


def figures(plan: Path) -> tuple[int, int]:
    """Rows whose prompt failed, and items."""
    import pyarrow.parquet as pq

    failed = sum(error is not None for (error,) in _stream(plan / "rows.parquet", ("error",)))
    return failed, int(pq.read_metadata(plan / "items.parquet").num_rows)


def first_errors(plan: Path, limit: int = 5) -> list[tuple[int, str]]:
    """The first rows whose prompt failed: (row number as the spreadsheet shows it, why)."""
    rows = _stream(plan / "rows.parquet", ("number", "error"))
    return list(islice(((int(number), str(error)) for number, error in rows if error is not None), limit))


def _snapshot(path: Path) -> tuple[list[str], Any]:
    """The names of the snapshot's columns, and its rows under names of ours: a user's may mean something to a tool."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    file = pq.ParquetFile(path)
    fields = list(file.schema_arrow)
    plain = pa.schema([(SHEET_ROW if n == 0 else f"c{n}", field.type) for n, field in enumerate(fields)])
    batches = (pa.RecordBatch.from_arrays(batch.columns, schema=plain) for batch in file.iter_batches(BATCH_ROWS))
    return [field.name for field in fields[1:]], pa.RecordBatchReader.from_batches(plain, batches)


def _stream(path: Path, columns: tuple[str, ...], groups: list[int] | None = None) -> Iterator[tuple[Any, ...]]:
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(BATCH_ROWS, row_groups=groups, columns=list(columns), use_threads=False):
            by_name = batch.to_pydict()
            yield from zip(*(by_name[name] for name in columns), strict=True)
