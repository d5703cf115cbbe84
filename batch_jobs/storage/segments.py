"""Segments of the packed layout: one Parquet file a job and task, written whole or not at all, a line a result.

The columns are the same in every segment, whatever columns the uploads have, so that a query takes all of a folder.
"""

from __future__ import annotations

import contextlib
import uuid
from array import array
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import orjson

from batch_jobs.arrow import integers, texts, writing_behind
from batch_jobs.storage.call_cache import Answer
from batch_jobs.storage.files import adopt, remove_files, store_errors
from batch_jobs.storage.results import Filed, answered_at

GROUP_ROWS = 10_000
MADE_AT = b"batch_jobs.created_at"
TEXTS: dict[str, Callable[[Answer], str]] = {
    "answer": lambda answer: answer.answer,
    "provider": lambda answer: answer.provider,
    "model": lambda answer: answer.model,
    "answered_at": answered_at,
    "fingerprint": lambda answer: answer.fingerprint.hex(),
    "paid_by": lambda answer: answer.task_id,
}
"""Text columns that come from the call cache; `paid_by` is the job that paid, `task_id` the one that the file is of."""
COUNTS = ("input_tokens", "cached_tokens", "output_tokens")
REPEATED = ["name", "provider", "model", "answered_at", "paid_by", "task_id", "details.key_value.key"]
"""What is worth a dictionary; in the others hardly a value comes twice."""


class SegmentWriter:
    """Takes batches of any size, writes row groups of 10,000."""

    def __init__(self, write: Callable[..., None]) -> None:
        self._write = write
        self._waiting: list[Any] = []

    def add(self, batch: Any) -> None:
        """Add a table of `result_columns` or `waiting_columns`."""
        self._waiting.append(batch)
        if sum(part.num_rows for part in self._waiting) >= GROUP_ROWS:
            self._write_groups(keep_rest=True)

    def end(self) -> None:
        """Write what is left."""
        self._write_groups(keep_rest=False)

    def _write_groups(self, *, keep_rest: bool) -> None:
        import pyarrow as pa

        if not self._waiting:
            return
        whole = pa.concat_tables(self._waiting)
        ready = whole.num_rows // GROUP_ROWS * GROUP_ROWS if keep_rest else whole.num_rows
        self._waiting = [whole.slice(ready)] if ready < whole.num_rows else []
        self._write(whole.slice(0, ready), GROUP_ROWS)


@contextlib.contextmanager
def new_segment(target: Path, created_at: float, *, answered: bool) -> Iterator[SegmentWriter]:
    """Write a segment that appears under its name, durably, when the block ends well; else nothing is left of it.

    Args:
        target: its name; a segment that stands there is replaced.
        created_at: when its job was made, unix seconds: of two results of one name the later job's counts.
        answered: a segment of results; else one of rows that wait.

    Raises:
        StoreError: the disk is full, or there is no right to write.
    """
    import pyarrow.parquet as pq

    temp = target.with_name(f".{target.stem}.{uuid.uuid4().hex[:16]}.tmp")
    schema = (result_schema() if answered else waiting_schema()).with_metadata({MADE_AT: repr(created_at)})
    repeated = [name for name in REPEATED if name.partition(".")[0] in schema.names]
    with store_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            with (
                temp.open("xb") as file,
                pq.ParquetWriter(file, schema, compression="zstd", use_dictionary=repeated) as writer,
                writing_behind(writer, "segment") as write,
            ):
                segment = SegmentWriter(write)
                yield segment
                segment.end()
            adopt(temp, target)
        except BaseException:
            temp.unlink(missing_ok=True)
            raise
    remove_files(target.parent, f".{target.stem}.*.tmp")  # of runs that were killed


def waiting_schema() -> Any:
    """Columns of a segment in `to_process`."""
    import pyarrow as pa

    return pa.schema([("identity", pa.string()), ("details", pa.map_(pa.string(), pa.large_string()))])


def result_schema() -> Any:
    """Columns of a segment in `processed`."""
    import pyarrow as pa

    fields = [("identity", pa.string()), ("name", pa.string())]
    fields += [(name, pa.string()) for name in TEXTS]
    fields += [("simulated", pa.bool_()), *((name, pa.int64()) for name in COUNTS), ("cost_usd", pa.float64())]
    return pa.schema([*fields, ("task_id", pa.string()), waiting_schema().field("details")])


def waiting_columns(identities: Any, cells: Any) -> Any:
    """A table of rows that wait.

    Args:
        identities: a string column.
        cells: the rows' input columns, a table as long.
    """
    import pyarrow as pa

    return pa.Table.from_arrays([identities, _details(cells)], schema=waiting_schema())


def result_columns(task_id: str, identities: Any, names: Sequence[str], answers: Sequence[Answer], cells: Any) -> Any:
    """A table of results.

    Args:
        task_id: the job whose results they are.
        identities: a string column.
        names: what each is filed under.
        answers: as long; what comes from the call cache is the only work per row here.
        cells: the rows' input columns, a table as long.
    """
    import pyarrow as pa

    columns = [identities, texts(names), *(texts([value(answer) for answer in answers]) for value in TEXTS.values())]
    columns.append(integers([answer.simulated for answer in answers]).cast(pa.bool_()))
    columns += [integers([getattr(answer, name) for answer in answers]) for name in COUNTS]
    costs = array("d", [answer.cost_usd for answer in answers])
    columns.append(pa.Array.from_buffers(pa.float64(), len(costs), [None, pa.py_buffer(costs)]))
    columns += [pa.repeat(task_id, len(answers)), _details(cells)]
    return pa.Table.from_arrays(columns, schema=result_schema())


def _details(cells: Any) -> Any:
    """The input columns as one map a row: safe with any names, also such as SQL would take for equal."""
    import pyarrow as pa

    rows, width = cells.num_rows, cells.num_columns
    ends = array("i", range(0, rows * width + 1, width)) if width else array("i", bytes(4 * (rows + 1)))
    offsets = pa.Array.from_buffers(pa.int32(), rows + 1, [None, pa.py_buffer(ends)])
    values = [column.combine_chunks().cast(pa.large_string()) for column in cells.columns]
    row_by_row = array("q")
    for row in range(rows):
        row_by_row.extend(range(row, rows * width, rows))
    order = pa.Array.from_buffers(pa.int64(), rows * width, [None, pa.py_buffer(row_by_row)])
    items = pa.concat_arrays(values).take(order) if rows and width else pa.nulls(0, pa.large_string())
    return pa.MapArray.from_arrays(offsets, texts(cells.column_names * rows), items)


def read_results(table: Any) -> Iterator[Filed]:
    """The lines of a segment's table as what is filed in folders."""
    for line in table.to_pylist():
        yield Filed(line["identity"], line["name"], _document(line), dict(line["details"]))


def _document(line: dict[str, Any]) -> dict[str, Any]:
    """What `result_document` makes of the answer."""
    return {
        "answer": orjson.loads(line["answer"]),
        "provider": line["provider"],
        "model": line["model"],
        "simulated": line["simulated"],
        "tokens": {name.removesuffix("_tokens"): line[name] for name in COUNTS},
        "cost_usd": line["cost_usd"],
        "answered_at": line["answered_at"],
        "fingerprint": line["fingerprint"],
        "task_id": line["paid_by"],
    }
