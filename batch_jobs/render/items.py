"""Reads a plan back: its items, its rows, and where each answer is filed; streamed."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

BATCH_ROWS = 10_000


class PlannedItem(NamedTuple):
    """One item of the plan: where its body lies.

    Attributes:
        offset: where its own bytes begin, in the bodies of its segment.
        length: of the whole body, in bytes.
        shared: how many of these several bodies begin with alike.
        shared_at: where these stand; at the start of the file, unless the job has groups.
    """

    item: int
    fingerprint: bytes
    segment: int
    offset: int
    length: int
    shared: int
    shared_at: int = 0


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


def read_items(plan: Path, groups: list[int] | None = None) -> Iterator[PlannedItem]:
    """Stream the items in order: all of them, or those of some row groups."""
    names = tuple(name for name in PlannedItem._fields if name != "shared_at" or _grouped(plan))
    for values in _stream(plan / "items.parquet", names, groups):
        yield PlannedItem(*values)


def _grouped(plan: Path) -> bool:
    import pyarrow.parquet as pq

    return "shared_at" in pq.read_schema(plan / "items.parquet").names


def read_chosen(plan: Path, chosen: Sequence[int]) -> Iterator[PlannedItem]:
    """Stream some items, ascending; what lies before the first and behind the last of them is not read."""
    if not chosen:
        return
    wanted = iter(chosen)
    current = next(wanted, None)
    for planned in read_items(plan, _groups_between(plan, chosen[0], chosen[-1])):
        if planned.item == current:
            yield planned
            current = next(wanted, None)


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


def read_rows_of_groups(plan: Path) -> Iterator[PlannedRow]:
    """Stream the first row of each group, in the order of the groups, which are numbered by these rows."""
    seen = 0
    for group, *values in _stream(plan / "rows.parquet", ("group", *PlannedRow._fields)):
        if group == seen:
            seen += 1
            yield PlannedRow._make(values)


def row_ranges(plan: Path) -> list[int]:
    """The sizes of the ranges that the rows are kept in: those of the snapshot, some thousands each."""
    import pyarrow.parquet as pq

    metadata = pq.read_metadata(plan / "rows.parquet")
    return [int(metadata.row_group(number).num_rows) for number in range(metadata.num_row_groups)]


def read_places(plan: Path, snapshot: Path, items: Collection[int] | None = None) -> Iterator[Place]:
    """Stream where the answers of `items` (None: all) are filed, one place per item and identity.

    In the order of the first row of each; plan and snapshot are kept in the same ranges of rows. What was given is
    remembered, in 200 bytes a place: for jobs that are filed in folders, which have few.
    """
    import pyarrow.parquet as pq

    wanted = None if items is None else frozenset(items)
    seen: set[tuple[int, str]] = set()
    with pq.ParquetFile(plan / "rows.parquet") as rows, pq.ParquetFile(snapshot) as cells:
        for number in range(rows.num_row_groups):
            item_of = _columns(rows, number, "item")[0]
            lines = enumerate(item_of)
            chosen = [(n, item) for n, item in lines if item is not None and (wanted is None or item in wanted)]
            if chosen:
                yield from _places(rows, cells, number, chosen, seen)


def _places(
    rows: Any, cells: Any, number: int, chosen: list[tuple[int, int]], seen: set[tuple[int, str]]
) -> Iterator[Place]:
    """The places that the chosen rows of a range (position, item) are the first of."""
    columns = _columns(rows, number, "identity", "alternate", "fingerprint")
    _, *inputs = cells.read_row_group(number, use_threads=False).columns
    names = cells.schema_arrow.names[1:]
    details = list(zip(*(column.to_pylist() for column in inputs), strict=True))
    for position, item in chosen:
        identity, alternate, fingerprint = (column[position] for column in columns)
        if (item, identity) not in seen:
            seen.add((item, identity))
            texts = dict(zip(names, details[position], strict=True))
            yield Place(item, identity, alternate, fingerprint, texts)


def figures(plan: Path) -> tuple[int, int]:
    """Rows whose prompt failed, and items."""
    import pyarrow.parquet as pq

    failed = sum(error is not None for (error,) in _stream(plan / "rows.parquet", ("error",)))
    return failed, int(pq.read_metadata(plan / "items.parquet").num_rows)


def cut_rows(plan: Path) -> int:
    """Rows of which something was left out of their prompt."""
    return sum(cut > 0 for (cut,) in _stream(plan / "rows.parquet", ("cut",)))


def first_errors(plan: Path, limit: int = 5) -> list[tuple[int, str]]:
    """The first rows whose prompt failed: (row number as the spreadsheet shows it, why)."""
    rows = _stream(plan / "rows.parquet", ("number", "error"))
    return list(islice(((int(number), str(error)) for number, error in rows if error is not None), limit))


def _groups_between(plan: Path, first: int, last: int) -> list[int]:
    """The row groups of items.parquet with the items from `first` to `last`; an item's number is its line."""
    import pyarrow.parquet as pq

    metadata, start, found = pq.read_metadata(plan / "items.parquet"), 0, list[int]()
    for number in range(metadata.num_row_groups):
        end = start + metadata.row_group(number).num_rows
        if start <= last and first < end:
            found.append(number)
        start = end
    return found


def _columns(file: Any, number: int, *names: str) -> list[list[Any]]:
    """Columns of one range, as lists; by no thread, as each would keep a heap of its own."""
    table = file.read_row_group(number, columns=list(names), use_threads=False)
    return [table.column(name).to_pylist() for name in names]


def _stream(path: Path, columns: tuple[str, ...], groups: list[int] | None = None) -> Iterator[tuple[Any, ...]]:
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(BATCH_ROWS, row_groups=groups, columns=list(columns), use_threads=False):
            by_name = batch.to_pydict()
            yield from zip(*(by_name[name] for name in columns), strict=True)
