"""Rows to items: equal requests become one item, numbered by its first row; with groups, by the first of its group.

Writes `items.parquet` (one line an item) and `rows.parquet` (one line a row) into the plan folder. Arrow's dictionary
encoding numbers fingerprints by their first appearance, which is what an item is; nothing becomes a Python object per
row but its number.
"""

from __future__ import annotations

import contextlib
from array import array
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from batch_jobs.arrow import integers
from batch_jobs.render.worker import GROUP_COLUMN
from batch_jobs.storage.files import adopt, store_errors

IDENTITY_CHARS = 32
"""Of an identity's hex digits, enough to tell a row from any other: 128 bits."""
REPEATED = ["error"]
"""The one column of both files that is worth a dictionary; digests don't compress."""
NOBODY = -1


def join_items(plan: Path) -> None:
    """Make items.parquet and rows.parquet from the workers' index files; done already is done.

    Where there are many rows, in a process that ends: 100 bytes a row are not given back.
    """
    if (plan / "rows.parquet").exists():
        return
    index = sorted(plan.glob("index-*.parquet"))
    item_of = _numbered(_column(path, "fingerprint") for path in index)
    alternates = _alternates(index, item_of)
    _write(plan, index, item_of, alternates)


def _column(path: Path, name: str) -> Any:
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        return file.read(columns=[name], use_threads=False).column(0).combine_chunks()


def _numbered(columns: Iterable[Any]) -> list[Any]:
    """For each column, the number of each of its values by first appearance in all of them; nulls stay nulls."""
    import pyarrow as pa

    return [chunk.indices for chunk in pa.chunked_array(list(columns)).dictionary_encode().chunks]


def _alternates(index: Sequence[Path], item_of: Sequence[Any]) -> set[int]:
    """Rows that share their identity with an earlier one, and ask something else, by their place in the index."""
    import pyarrow.compute as pc

    slices = (pc.utf8_slice_codeunits(_column(path, "identity"), 0, IDENTITY_CHARS) for path in index)
    identity_of = _numbered(slices)
    rows = sum(map(len, identity_of))
    distinct = max(pc.max(numbers).as_py() for numbers in identity_of) + 1
    if distinct == rows:
        return set()
    first_item, found, row = array("q", [NOBODY]) * distinct, set[int](), 0
    for identities, items in zip(identity_of, item_of, strict=True):
        for who, item in zip(identities.to_pylist(), items.to_pylist(), strict=True):
            if item is not None:
                if first_item[who] == NOBODY:
                    first_item[who] = item
                elif first_item[who] != item:
                    found.add(row)
            row += 1
    return found


def _write(plan: Path, index: Sequence[Path], item_of: Sequence[Any], alternates: set[int]) -> None:
    """Write both files, one range of rows for each index file."""
    import pyarrow.parquet as pq

    temps = [plan / "items.tmp", plan / "rows.tmp"]
    row = items = 0
    by_group: list[Any] = []
    with contextlib.ExitStack() as stack:
        writers: list[Any] = []
        for path, numbers in zip(index, item_of, strict=True):
            with pq.ParquetFile(path) as file:
                table = file.read(use_threads=False)
            news = _first_of_their_items(numbers.to_pylist(), items)
            made = [_items(table, numbers, news), _rows(table, numbers, row, alternates)]
            for temp, one in zip(temps, made, strict=True) if not writers else ():
                stack.enter_context(store_errors(temp))
                repeated = [name for name in REPEATED if name in one.column_names]
                writer = pq.ParquetWriter(temp, one.schema, use_dictionary=repeated, compression="none")
                writers.append(stack.enter_context(writer))
            if GROUP_COLUMN in table.column_names:
                by_group.append(made.pop())
            for temp, writer, one in zip(temps, writers, made, strict=False):
                with store_errors(temp):
                    writer.write_table(one)
            row += table.num_rows
            items += len(news)
        for one in _in_file_order(by_group):
            with store_errors(temps[1]):
                writers[1].write_table(one)
    adopt(temps[0], plan / "items.parquet")
    adopt(temps[1], plan / "rows.parquet")


def _in_file_order(by_group: list[Any]) -> Iterator[Any]:
    """The rows of ranges that came group by group, in ranges of the same sizes, as they stand in the file."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if not by_group:
        return
    table = pa.concat_tables(by_group)
    order, first = pc.sort_indices(table.column("row")), 0
    for size in map(len, by_group):
        yield table.take(order.slice(first, size))
        first += size


def _first_of_their_items(numbers: Sequence[int | None], items: int) -> list[int]:
    """Where the items that are numbered from `items` on stand first."""
    found: list[int] = []
    for position, item in enumerate(numbers):
        if item == items:
            found.append(position)
            items += 1
    return found


def _items(table: Any, numbers: Any, news: list[int]) -> Any:
    """The items whose first row is in this range."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if len(news) < table.num_rows:
        chosen = integers(news)
        table, numbers = table.take(chosen), numbers.take(chosen)
    columns = {
        "item": numbers.cast(pa.int64()),
        "fingerprint": table["fingerprint"],
        "first_row": table["row"],
        "segment": table["segment"],
        "offset": table["offset"],
        "length": pc.add(table["length"], table["shared"]),
        "shared": table["shared"],
        **{name: table[name] for name in ("shared_at", GROUP_COLUMN) if name in table.column_names},
    }
    return pa.table(list(columns.values()), names=list(columns))


def _rows(table: Any, numbers: Any, first: int, alternates: set[int]) -> Any:
    import pyarrow as pa
    import pyarrow.compute as pc

    places = range(first, first + len(numbers))  # with groups, not the numbers of the rows
    later = alternates.intersection(places) if alternates else ()
    columns = {
        "row": table["row"],
        "number": table["number"],
        "identity": table["identity"],
        "error": table["error"],
        "cut": table["cut"],
        "item": numbers.cast(pa.int64()),
        "fingerprint": table["fingerprint"],
        "alternate": pc.is_in(integers(places), value_set=integers(sorted(later))),
        **{name: table[name] for name in (GROUP_COLUMN,) if name in table.column_names},
    }
    return pa.table(list(columns.values()), names=list(columns))
