"""The packed store: the results of large jobs in Parquet segments, for queries; 20 KB and 5 inodes a record less.

A projection like the folders: a segment may be deleted and rebuilt at any time.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from batch_jobs.arrow import TableReader, texts
from batch_jobs.errors import StoreError
from batch_jobs.storage.results import Filed
from batch_jobs.storage.segments import GROUP_ROWS, MADE_AT, read_results
from batch_jobs.storage.workspace import checked_id

_COUNT = "SELECT count(*) FROM (SELECT DISTINCT identity, name FROM read_segments)"
_NOT_REPLACED = "SELECT s.* FROM read_segment s ANTI JOIN read_later l ON s.identity = l.identity AND s.name = l.name"


class PackedStore:
    """The segments of one data case: `to_process/<task>-<task_id>.parquet` and `processed/<task>-<task_id>.parquet`."""

    def __init__(self, store: Path, data_case: str) -> None:
        self.root = store / data_case
        self.to_process = self.root / "to_process"
        self.processed = self.root / "processed"

    def waiting(self, task: str, task_id: str) -> Path:
        """The segment of what a job has still to do."""
        return self.to_process / f"{task}-{checked_id(task_id)}.parquet"

    def segment(self, task: str, task_id: str) -> Path:
        """The segment of a job's results."""
        return self.processed / f"{task}-{checked_id(task_id)}.parquet"

    def segments(self) -> list[Path]:
        """All segments of results, the latest job's first."""
        return sorted(self.processed.glob("[!.]*.parquet"), key=_made_at, reverse=True)

    def results_of(self, identity: str) -> dict[str, dict[str, Any]]:
        """The results of an identity by name; empty where it has none."""
        return {filed.name: filed.result for filed in self.find([identity])}

    def find(self, identities: Sequence[str]) -> list[Filed]:
        """The results of some identities."""
        found: dict[tuple[str, str], Filed] = {}
        for segment in self.segments():
            for filed in find(segment, identities):
                found.setdefault((filed.identity, filed.name), filed)
        return list(found.values())

    def stream(self) -> Iterator[Filed]:
        """Every result, once, the latest job's first and in the order of its file."""
        later: list[Path] = []
        for segment in self.segments():
            yield from _not_replaced(segment, [path for path in later if _task(path) == _task(segment)])
            later.append(segment)

    def count(self) -> int:
        """How many results there are."""
        segments = self.segments()
        if not segments:
            return 0
        with _reading(self.processed), _duckdb(read_segments=segments) as connection:
            row = connection.execute(_COUNT).fetchone()
        return int(row[0])


def stream_segment(segment: Path) -> Iterator[Filed]:
    """Every result of one segment, in the order of the job's file.

    Raises:
        StoreError: it can't be read.
    """
    with _reading(segment), contextlib.closing(TableReader(segment)) as reader:
        while (table := reader.take(GROUP_ROWS)).num_rows:
            yield from read_results(table)


def find(segment: Path, identities: Sequence[str]) -> Iterator[Filed]:
    """The results of some identities in one segment; of the others only the identity is read.

    Raises:
        StoreError: it can't be read.
    """
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    wanted = texts(list(identities))
    with _reading(segment), pq.ParquetFile(segment) as file:
        for group in range(file.num_row_groups):
            there = pc.is_in(file.read_row_group(group, columns=["identity"]).column(0), value_set=wanted)
            if pc.any(there).as_py():
                yield from read_results(file.read_row_group(group).filter(there))


def _not_replaced(segment: Path, later: list[Path]) -> Iterator[Filed]:
    """The results of a segment that no later job of its task has, too."""
    if not later:
        yield from stream_segment(segment)
        return
    with _reading(segment), _duckdb(read_segment=[segment], read_later=later) as connection:
        reader = connection.sql(_NOT_REPLACED).to_arrow_reader(GROUP_ROWS)
        for batch in reader:
            yield from read_results(batch)


def _task(segment: Path) -> str:
    return segment.stem.rpartition("-")[0]


def _made_at(segment: Path) -> tuple[float, str]:
    import pyarrow.parquet as pq

    with _reading(segment):
        return float(pq.read_metadata(segment).metadata[MADE_AT]), segment.name


@contextlib.contextmanager
def _duckdb(**tables: list[Path]) -> Iterator[Any]:
    """A DuckDB over segments, in memory, which spills into the system's temp folder beyond 100 MB."""
    import duckdb
    import pyarrow.dataset as ds

    with (
        tempfile.TemporaryDirectory() as spill,
        duckdb.connect(config={"temp_directory": spill, "threads": 2, "memory_limit": "100MB"}) as connection,
    ):
        for name, paths in tables.items():
            connection.register(name, ds.dataset([str(path) for path in paths], format="parquet"))
        yield connection


@contextlib.contextmanager
def _reading(segment: Path) -> Iterator[None]:
    """Whatever a damaged segment makes its readers raise becomes a StoreError."""
    import duckdb
    import pyarrow as pa

    try:
        yield
    except (OSError, ValueError, KeyError, TypeError, pa.ArrowException, duckdb.Error) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise StoreError(f"{segment}: can't be read ({reason}). Make it anew: batch-jobs rebuild-store") from error
