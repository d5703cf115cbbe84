"""Blocks of rows as Arrow tables (`batch_jobs.table.Table.blocks`): what the snapshot is made of, a row group each."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

from batch_jobs.arrow import integers, texts
from batch_jobs.models import SHEET_ROW
from batch_jobs.table import Row


def blocks_of(rows: Iterable[Row], columns: Sequence[str], size: int) -> Iterator[Any]:
    """Gather rows into blocks of `size`, the last one smaller; see `Table.blocks`."""
    import pyarrow as pa

    source, names = iter(rows), [SHEET_ROW, *columns]
    while group := list(islice(source, size)):
        cells = zip(*(row.cells for row in group), strict=True)
        yield pa.Table.from_arrays([integers([row.number for row in group]), *map(texts, cells)], names)


def regrouped(tables: Iterable[Any], size: int) -> Iterator[Any]:
    """The rows of some tables, in tables of `size` rows, the last one smaller."""
    import pyarrow as pa

    ahead: Any = None
    for table in tables:
        ahead = table if ahead is None or not ahead.num_rows else pa.concat_tables([ahead, table])
        start = 0
        while ahead.num_rows - start >= size:
            yield ahead.slice(start, size).combine_chunks()
            start += size
        ahead = ahead.slice(start)
    if ahead is not None and ahead.num_rows:
        yield ahead.combine_chunks()
