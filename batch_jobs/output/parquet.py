"""Write a Parquet file back with our columns: its own columns, types and metadata, row group by row group.

Values are decoded and encoded again, as a row group can't be made wider in place; they stay the same to the last bit.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from batch_jobs.arrow import texts
from batch_jobs.intake.parquet import BATCH_ROWS, opened
from batch_jobs.table import Addition

GROUP_BYTES = 64 << 20
"""Of a row group that is written, in memory; a larger one of the upload becomes several."""
_ARROW, _SPARK = b"ARROW:schema", b"org.apache.spark.sql.parquet.row.metadata"


def write_parquet(upload: Path, target: Path, columns: Sequence[str], additions: Iterable[Addition]) -> None:
    """Write `target`: the upload with our columns of texts at the end, in bounded memory.

    An empty text is null. The codec is that of the upload's first column.

    Args:
        upload: the kept original, already accepted by `open_parquet`.
        target: a path to write to; replaced when it exists. The caller renames and syncs it.
        columns: names of our columns; none is in the file.
        additions: one per row, each with `len(columns)` cells.

    Raises:
        ValueError: when `additions` does not fit the upload's rows.
    """
    import pyarrow.parquet as pq

    entries = iter(additions)
    with opened(upload, upload.name) as source:
        schema, alike = _widened(source.schema_arrow, columns), _alike(source)
        with pq.ParquetWriter(target, schema, **alike) as writer:
            if schema.metadata and not alike["store_schema"]:  # else Arrow writes it with its schema
                writer.add_key_value_metadata(schema.metadata)
            for group in range(source.num_row_groups):
                for table in _pieces(_wide_batches(source, group, schema, len(columns), entries)):
                    writer.write_table(table, row_group_size=table.num_rows)
    if next(entries, None) is not None:
        raise ValueError("more entries to append than the upload has rows")


def _widened(schema: Any, columns: Sequence[str]) -> Any:
    import pyarrow as pa

    metadata = dict(schema.metadata or {})
    with contextlib.suppress(KeyError, ValueError, AttributeError, TypeError):  # else Spark would not see our columns
        spark = json.loads(metadata[_SPARK])
        spark["fields"] += [{"name": name, "type": "string", "nullable": True, "metadata": {}} for name in columns]
        metadata[_SPARK] = json.dumps(spark, separators=(",", ":")).encode()
    return pa.schema([*schema, *(pa.field(name, pa.string()) for name in columns)], metadata=metadata or None)


def _alike(source: Any) -> dict[str, Any]:
    """How the upload is written, as far as a writer can be told."""
    leaves = [source.schema.column(place) for place in range(source.metadata.num_columns)]
    has_int96 = any(leaf.physical_type == "INT96" for leaf in leaves)
    has_other = any(leaf.logical_type.type == "TIMESTAMP" for leaf in leaves)
    codec = source.metadata.row_group(0).column(0).compression.lower()
    return {
        "compression": "none" if codec == "uncompressed" else codec.removesuffix("_raw"),
        "store_schema": _ARROW in (source.metadata.metadata or {}),
        "use_deprecated_int96_timestamps": has_int96 and not has_other,
    }


def _wide_batches(source: Any, group: int, schema: Any, width: int, entries: Iterator[Addition]) -> Iterator[Any]:
    import pyarrow as pa

    for batch in source.iter_batches(BATCH_ROWS, row_groups=[group], use_threads=False):
        rows = [entry.cells for entry in islice(entries, batch.num_rows)]
        if len(rows) != batch.num_rows or any(len(cells) != width for cells in rows):
            raise ValueError(
                f"expected {width} cells to append for each of {batch.num_rows} rows, got {len(rows)} rows"
            )
        ours = (texts([cell or None for cell in cells]) for cells in zip(*rows, strict=True))
        yield pa.Table.from_arrays([*batch.columns, *ours], schema=schema)


def _pieces(tables: Iterable[Any]) -> Iterator[Any]:
    """The tables of a row group together, as far as memory goes."""
    import pyarrow as pa

    held, size = list[Any](), 0
    for table in tables:
        held.append(table)
        size += table.nbytes
        if size >= GROUP_BYTES:
            yield pa.concat_tables(held)
            held, size = [], 0
    if held:
        yield pa.concat_tables(held)
