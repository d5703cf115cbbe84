"""A pass before rendering: numbers the groups of a snapshot, and lays its rows down group by group.

Rows are scattered into as many files as the snapshot has ranges, a range of it at a time, so memory does not grow with
the table. What a group shows is made from these files, once, into groups.parquet; the render workers read both.
"""

from __future__ import annotations

import contextlib
import hashlib
from array import array
from collections.abc import Iterator
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

from batch_jobs import system
from batch_jobs.arrow import integers
from batch_jobs.errors import ConfigError
from batch_jobs.render.answers import shorten
from batch_jobs.render.cleaning import cleaner
from batch_jobs.render.group_table import GroupTableWriter, groups_path, made_from
from batch_jobs.render.grouping import MAX_GROUP_CHARS, Grouping, GroupText, key_of
from batch_jobs.render.spec import RenderSpec
from batch_jobs.render.worker import ordered_path, remove_bodies
from batch_jobs.storage.files import remove_file, store_errors

OURS = ("group", "row", "number")
"""The columns before the table's own, which have names that nobody chose: c0, c1, ..."""
MAX_OPEN_FILES = 256


def order_groups(spec: RenderSpec) -> None:
    """Make groups.parquet and the ordered rows; done already is done.

    Where there are many rows, in a process of its own.

    Raises:
        ConfigError: a group is too large to be shown whole.
        StoreError: the disk is full, or can't be written.
    """
    assert spec.grouping is not None
    folder, depends_on = ordered_path(spec.plan), _depends_on(spec)
    if made_from(spec.plan) == depends_on and (folder.exists() or (spec.plan / "rows.parquet").exists()):
        return
    with store_errors(spec.plan):
        _forget(spec.plan)
        numbers, keys = _numbers(spec, spec.grouping)
        temp = folder.with_suffix(".tmp")
        temp.mkdir()
        _scatter(spec, numbers, temp)
        system.sync_filesystem(spec.plan)
        temp.rename(folder)
        system.sync_folder(spec.plan)
        with GroupTableWriter(spec.plan, spec.grouping, depends_on) as table:
            _describe(spec, keys, numbers, table)


def forget_groups(plan: Path) -> None:
    """Drop a half-made plan with groups, where config.json asks for none now; there mostly is none."""
    if groups_path(plan).exists():
        with store_errors(plan):
            _forget(plan)


def _forget(plan: Path) -> None:
    """Drop what a run that was killed has made of another config.json: bodies and items must be of one plan."""
    for name in ("rows.parquet", "items.parquet", groups_path(plan).name):
        remove_file(plan / name)
    remove_bodies(plan)


def _depends_on(spec: RenderSpec) -> str:
    """A digest of what makes groups what they are, besides the rows."""
    said = repr([spec.grouping, spec.context, spec.cleaning, spec.mandatory_columns])
    return hashlib.sha256(said.encode()).hexdigest()


def range_sizes(snapshot: Path) -> list[int]:
    """The rows of each range of a snapshot; the ordered rows come in ranges of the same sizes."""
    import pyarrow.parquet as pq

    metadata = pq.read_metadata(snapshot)
    return [int(metadata.row_group(number).num_rows) for number in range(metadata.num_row_groups)]


def ordered_rows(spec: RenderSpec, number: int) -> Any:
    """One range of the ordered rows: a table with the columns OURS, then the snapshot's own under other names."""
    sizes = range_sizes(spec.snapshot)
    per_file = _ranges_a_file(len(sizes))
    table = _sorted(ordered_path(spec.plan) / str(number // per_file))
    before = sum(sizes[number // per_file * per_file : number])
    return table.slice(before, sizes[number])


def _ranges_a_file(ranges: int) -> int:
    return -(-ranges // MAX_OPEN_FILES)


def _numbers(spec: RenderSpec, grouping: Grouping) -> tuple[array[int], list[str]]:
    """Each row's group, numbered by first appearance, and the groups' keys."""
    import pyarrow.parquet as pq

    clean, numbers, seen = cleaner(spec.cleaning), array("q"), dict[tuple[str, ...], int]()
    with pq.ParquetFile(spec.snapshot) as snapshot:
        for number in range(snapshot.num_row_groups):
            table = snapshot.read_row_group(number, columns=list(grouping.columns), use_threads=False)
            columns = [table.column(name).to_pylist() for name in grouping.columns]
            if clean is not None:
                columns = [[clean(cell) for cell in column] for column in columns]
            numbers.extend(seen.setdefault(key, len(seen)) for key in zip(*columns, strict=True))
    return numbers, [key_of(key) for key in seen]


def _scatter(spec: RenderSpec, numbers: array[int], folder: Path) -> None:
    """Write each row into the file of the range that it comes into when the rows are ordered by group."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    sizes = range_sizes(spec.snapshot)
    per_file = _ranges_a_file(len(sizes))
    ends = list(accumulate(sizes))[per_file - 1 :: per_file]
    group_of: Any = np.frombuffer(numbers, dtype=np.int64)
    place_of = np.empty_like(group_of)
    place_of[np.argsort(group_of, kind="stable")] = np.arange(len(group_of))
    with _Files(folder) as files, pq.ParquetFile(spec.snapshot) as snapshot:
        schema = _schema(snapshot.schema_arrow)
        for number, (start, end) in enumerate(pairwise([0, *accumulate(sizes)])):
            cells = snapshot.read_row_group(number, use_threads=False).columns
            ours = [integers(group_of[start:end]), integers(range(start, end))]
            order: Any = np.argsort(place_of[start:end])
            table = pa.Table.from_arrays([*ours, *cells], schema=schema).take(integers(order))
            file_of = np.searchsorted(ends, place_of[start:end][order], side="right")
            for first, last in _runs(file_of):
                files.write(int(file_of[first]), table.slice(first, last - first))


class _Files:
    """Files that take tables as they come, each by its number."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._stack, self._writers = folder, contextlib.ExitStack(), dict[int, Any]()

    def __enter__(self) -> _Files:
        return self

    def __exit__(self, *exc: Any) -> None:
        self._stack.__exit__(*exc)

    def write(self, number: int, table: Any) -> None:
        """Add a table to one of them."""
        import pyarrow as pa

        if number not in self._writers:
            sink = self._stack.enter_context(pa.OSFile(str(self._folder / str(number)), "wb"))
            options = pa.ipc.IpcWriteOptions(compression="lz4")
            self._writers[number] = self._stack.enter_context(pa.ipc.new_stream(sink, table.schema, options=options))
        self._writers[number].write_table(table)


def _schema(snapshot: Any) -> Any:
    import pyarrow as pa

    columns = ((f"c{number}", field.type) for number, field in enumerate(list(snapshot)[1:]))
    return pa.schema([*((name, pa.int64()) for name in OURS), *columns])


def _runs(values: Any) -> Iterator[tuple[int, int]]:
    """The stretches of equal values, as (first, behind the last)."""
    import numpy as np

    changes = np.flatnonzero(values[1:] != values[:-1]) + 1
    return pairwise([0, *changes.tolist(), len(values)])


def _sorted(path: Path) -> Any:
    """A file's rows in the order of their groups, and within a group in that of the table."""
    import pyarrow as pa

    with store_errors(path), pa.OSFile(str(path)) as file, pa.ipc.open_stream(file) as reader:
        table = reader.read_all()
    return table.sort_by([("group", "ascending"), ("row", "ascending")])


def _describe(spec: RenderSpec, keys: list[str], numbers: array[int], table: GroupTableWriter) -> None:
    """Say of each group its key, how many rows it has, and what it shows of them."""
    import numpy as np

    counts = np.bincount(np.frombuffer(numbers, dtype=np.int64), minlength=len(keys))
    shown = _shown(spec, np.concatenate([[0], np.cumsum(counts)]))
    row = next(shown, None)
    for group, (key, rows) in enumerate(zip(keys, counts.tolist(), strict=True)):
        text = GroupText(spec.context, spec.mandatory_columns)
        while row is not None and row[0] == group:
            text.add(row[1])
            if text.chars > MAX_GROUP_CHARS:
                raise ConfigError(_too_large(spec, key, rows))
            row = next(shown, None)
        table.add(key, rows, text)


def _too_large(spec: RenderSpec, key: str, rows: int) -> str:
    return (
        f"the group {shorten(key)} has {rows:,} rows and shows more than {MAX_GROUP_CHARS:,} characters in a request. "
        f"Set grouping.max_rows_per_group of the data case {spec.data_case}, for example to 50, or a shorter "
        "context.max_cell_chars; nothing was sent"
    )


def _shown(spec: RenderSpec, starts: Any) -> Iterator[tuple[int, dict[str, str]]]:
    """The rows that the groups show, group by group: (group, column name -> cell).

    Args:
        spec: what to render with.
        starts: where each group begins among the ordered rows.
    """
    import numpy as np
    import pyarrow.parquet as pq

    assert spec.grouping is not None
    names, clean = pq.read_schema(spec.snapshot).names[1:], cleaner(spec.cleaning)
    files, place = sorted(ordered_path(spec.plan).iterdir(), key=lambda path: int(path.name)), 0
    for path in files:
        table = _sorted(path)
        groups = table.column("group").to_numpy()
        within = np.arange(place, place + len(groups)) - starts[groups]
        place += len(groups)
        if spec.grouping.max_rows is not None:
            kept: Any = np.flatnonzero(within < spec.grouping.max_rows)
            table = table.take(integers(kept))
        group_of, _, _, *columns = (column.to_pylist() for column in table.columns)
        for group, *cells in zip(group_of, *columns, strict=True):
            row = dict(zip(names, cells, strict=True))
            yield group, row if clean is None else {name: clean(cell) for name, cell in row.items()}
