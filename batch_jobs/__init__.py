"""Batch jobs: a spreadsheet in, the same spreadsheet back with columns written by an LLM.

In Python: a DataFrame, texts or documents in, the same with answers back (docs/python.md). Nothing is loaded before it
is used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from batch_jobs.errors import BatchJobsError
    from batch_jobs.frames.chunks import ProcessedChunk, process_chunks
    from batch_jobs.frames.documents import process_documents, read_documents
    from batch_jobs.frames.extract import extract_df, prepare_df, submit_df
    from batch_jobs.frames.handle import JobHandle, job

__all__ = [
    "BatchJobsError",
    "JobHandle",
    "ProcessedChunk",
    "extract_df",
    "job",
    "prepare_df",
    "process_chunks",
    "process_documents",
    "read_documents",
    "submit_df",
]
_HOMES = {
    "BatchJobsError": "batch_jobs.errors",
    "JobHandle": "batch_jobs.frames.handle",
    "ProcessedChunk": "batch_jobs.frames.chunks",
    "extract_df": "batch_jobs.frames.extract",
    "job": "batch_jobs.frames.handle",
    "prepare_df": "batch_jobs.frames.extract",
    "process_chunks": "batch_jobs.frames.chunks",
    "process_documents": "batch_jobs.frames.documents",
    "read_documents": "batch_jobs.frames.documents",
    "submit_df": "batch_jobs.frames.extract",
}


def __getattr__(name: str) -> object:
    """Load what is asked for."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    """What there is, loaded or not."""
    return sorted({*globals(), *__all__})
