"""groups.parquet of a plan: what each group is and shows, once; by its number, which is its line.

Kept with the plan for good: it says which rows were left out, and what the others were shown as.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from batch_jobs.arrow import integers, texts
from batch_jobs.models import GroupMode
from batch_jobs.render.grouping import Grouping, GroupText
from batch_jobs.storage.files import adopt, store_errors

GROUPED_AS = b"batch_jobs.grouping"
MADE_FROM = b"batch_jobs.made_from"
FLUSH_CHARS = 4_000_000
FLUSH_GROUPS = 1_000
FIGURES = ("group", "key", "rows", "rows_used")


class Group(NamedTuple):
    """What is known of a group without its text.

    Attributes:
        group: its number, by first appearance.
        key: its cells of the grouping columns, as a JSON list.
        rows: it has.
        rows_used: its text shows, the first ones.
    """

    group: int
    key: str
    rows: int
    rows_used: int


class GroupContent(NamedTuple):
    """What a group shows, and under which id."""

    group: int
    id: str
    rows: int
    text: str


def groups_path(plan: Path) -> Path:
    """Where it lies."""
    return plan / "groups.parquet"


def grouped_as(plan: Path) -> Grouping | None:
    """How a plan's groups were made; None where it has none."""
    import pyarrow.parquet as pq

    if not groups_path(plan).exists():
        return None
    mode, columns, max_rows = orjson.loads(pq.read_schema(groups_path(plan)).metadata[GROUPED_AS])
    return Grouping(GroupMode(mode), tuple(columns), max_rows)


def made_from(plan: Path) -> str | None:
    """What the writer of a plan's groups was told that they depend on; None where there are none."""
    import pyarrow.parquet as pq

    if not groups_path(plan).exists():
        return None
    return str(pq.read_schema(groups_path(plan)).metadata[MADE_FROM].decode())


def read_groups(plan: Path) -> Iterator[Group]:
    """Stream the groups in order, without their texts."""
    import pyarrow.parquet as pq

    with pq.ParquetFile(groups_path(plan)) as file:
        for batch in file.iter_batches(FLUSH_GROUPS, columns=list(FIGURES), use_threads=False):
            columns = batch.to_pydict()
            yield from map(Group._make, zip(*(columns[name] for name in FIGURES), strict=True))


def read_contents(plan: Path) -> Iterator[GroupContent]:
    """Stream what the groups show, in order; a few megabytes at a time."""
    import pyarrow.parquet as pq

    with pq.ParquetFile(groups_path(plan)) as file:
        for part in range(file.num_row_groups):
            table = file.read_row_group(part, columns=list(GroupContent._fields), use_threads=False)
            columns = (table.column(name).to_pylist() for name in GroupContent._fields)
            yield from map(GroupContent._make, zip(*columns, strict=True))


def content_id(text: str) -> str:
    """A group's id: hex sha256 of what it shows."""
    return hashlib.sha256(text.encode()).hexdigest()


class GroupTableWriter:
    """Writes the table, in order, a few megabytes at a time; it appears whole when the block ends well."""

    def __init__(self, plan: Path, grouping: Grouping, depends_on: str) -> None:
        """Prepare it.

        Args:
            plan: the plan's folder.
            grouping: how the rows are grouped.
            depends_on: a digest of all that the groups are made from.
        """
        said = orjson.dumps([grouping.mode, grouping.columns, grouping.max_rows])
        self._target = groups_path(plan)
        self._metadata = {GROUPED_AS: said, MADE_FROM: depends_on.encode()}
        self._lines: list[tuple[str, int, GroupText]] = []
        self._chars = self._written = 0
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> GroupTableWriter:
        import pyarrow.parquet as pq

        self._stack.enter_context(store_errors(self._target))
        schema = _schema().with_metadata(self._metadata)
        self._writer: Any = pq.ParquetWriter(self._temp, schema, compression="zstd", use_dictionary=False)
        self._stack.enter_context(self._writer)
        return self

    @property
    def _temp(self) -> Path:
        return self._target.with_suffix(".tmp")

    def __exit__(self, kind: type[BaseException] | None, *exc: Any) -> None:
        try:
            if kind is None:
                self._flush()
        finally:
            self._stack.__exit__(kind, *exc)
        if kind is None:
            adopt(self._temp, self._target)

    def add(self, key: str, rows: int, shown: GroupText) -> None:
        """Add the next group."""
        self._lines.append((key, rows, shown))
        self._chars += shown.chars
        if self._chars >= FLUSH_CHARS or len(self._lines) >= FLUSH_GROUPS:
            self._flush()

    def _flush(self) -> None:
        import pyarrow as pa

        if not self._lines:
            return
        keys, rows, shown = zip(*self._lines, strict=True)
        contents = [one.text() for one in shown]
        columns = {
            "group": integers(range(self._written, self._written + len(keys))),
            "key": texts(keys),
            "id": texts([content_id(text) for text in contents]),
            "rows": integers(rows),
            "rows_used": integers([one.rows for one in shown]),
            "cut": integers([one.cut for one in shown]),
            "text": texts(contents),
        }
        self._writer.write_table(pa.Table.from_arrays(list(columns.values()), schema=self._writer.schema))
        self._written += len(keys)
        self._lines, self._chars = [], 0


def _schema() -> Any:
    import pyarrow as pa

    whole, text = pa.int64(), pa.string()
    fields = [("group", whole), ("key", text), ("id", text), ("rows", whole), ("rows_used", whole)]
    return pa.schema([*fields, ("cut", whole), ("text", text)])


class ShownGroup(NamedTuple):
    """What a request needs of its group.

    Attributes:
        cut: characters that were left out of the rows it shows.
    """

    key: str
    rows: int
    cut: int
    text: str


class GroupReader:
    """Hands out groups by ascending number; holds a few megabytes of them."""

    def __init__(self, plan: Path) -> None:
        import pyarrow.parquet as pq

        self._file = pq.ParquetFile(groups_path(plan))
        self._part = -1
        self._first = self._end = 0
        self._lines: list[ShownGroup] = []

    def get(self, group: int) -> ShownGroup:
        """One group; none that comes before the last one that was asked for."""
        while group >= self._end:
            self._part += 1
            self._first = self._end
            self._end += self._file.metadata.row_group(self._part).num_rows
            self._lines = []
        if not self._lines:
            table = self._file.read_row_group(self._part, columns=list(ShownGroup._fields), use_threads=False)
            columns = (table.column(name).to_pylist() for name in ShownGroup._fields)
            self._lines = list(map(ShownGroup._make, zip(*columns, strict=True)))
        return self._lines[group - self._first]

    def close(self) -> None:
        """Release the file."""
        self._file.close()
