"""How one field of an answer is written: by the kind of file that it goes into."""

from __future__ import annotations

from collections.abc import Callable

import orjson

from batch_jobs.output.neutral import neutralise
from batch_jobs.render.answers import cell_text
from batch_jobs.table import FileKind

Write = Callable[[object], str]


def spreadsheet_text(value: object) -> str:
    """As a cell that no spreadsheet runs."""
    return neutralise(cell_text(value))


def json_text(value: object) -> str:
    """As JSON, with its own type."""
    return orjson.dumps(value).decode()


def writer_for(kind: FileKind) -> Write:
    """What writes a field into such a file; only what spreadsheets open has to be made harmless."""
    return {FileKind.JSONL: json_text, FileKind.PARQUET: cell_text}.get(kind, spreadsheet_text)
