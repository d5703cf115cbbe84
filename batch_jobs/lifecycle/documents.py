"""A document as an upload: cut into chunks, a row each, for a data case that works on texts; the original is kept."""

from __future__ import annotations

import contextlib
import logging
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from batch_jobs.config import Intake, pick
from batch_jobs.errors import FileRefused
from batch_jobs.intake.document import COLUMNS, Chunk, Cut, Read, chunks_of, is_document, write_table
from batch_jobs.lifecycle.project import Project
from batch_jobs.output.neutral import neutralise
from batch_jobs.storage.files import store_errors

if TYPE_CHECKING:
    from batch_jobs.lifecycle.receive import Order

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Original:
    """The document that a table was made of.

    Attributes:
        file: where it lies.
        file_name: the name the user knows it by.
        pages: 0 where the format has none.
        empty_pages: without any text, so that no row speaks of them.
    """

    file: Path
    file_name: str
    pages: int
    chunks: int
    empty_pages: tuple[int, ...]


def cut_of(intake: Intake) -> Cut:
    """How documents are cut, by config.json."""
    return Cut(intake.chunk_chars, intake.chunk_overlap_chars, intake.max_bytes, intake.max_rows)


def read_document(path: Path, file_name: str, cut: Cut, read: Read) -> Iterator[Chunk]:
    """Stream a document's chunks, as text that no spreadsheet runs: our cells, though another's words.

    Raises:
        FileRefused: see `intake.document.chunks_of`.
    """
    for chunk in chunks_of(path, file_name, cut, read):
        text = neutralise(chunk.text)
        if text.strip():
            yield chunk._replace(text=text)
    if read.empty_pages:
        data = {"pages": read.pages, "without_text": read.empty_pages[:100]}
        logger.info("document.pages_without_text", extra={"data": data})


@contextlib.contextmanager
def as_table(project: Project, order: Order) -> Iterator[Order]:
    """The order with its document made into a table, while the block runs; any other order as it is.

    Raises:
        FileRefused: the document can't be read, or its data case wants other columns than a document has.
        UnknownName: no such task or data case.
    """
    if order.original is not None or not is_document(order.file_name) or not order.file.is_file():
        yield order
        return
    _check_columns(project, order)
    read = Read()
    with tempfile.TemporaryDirectory(prefix="batch-jobs-") as folder:
        table = Path(folder) / "chunks.csv"
        with store_errors(table):
            chunks = read_document(order.file, order.file_name, cut_of(project.settings.intake), read)
            count = write_table(neutralise(order.file_name), chunks, table)
        original = Original(order.file, order.file_name, read.pages, count, tuple(read.empty_pages))
        yield replace(order, file=table, file_name=f"{Path(order.file_name).stem}.csv", original=original)


def _check_columns(project: Project, order: Order) -> None:
    """Say that a data case does not fit before a long document is read."""
    task = pick("task", order.task, project.settings.tasks)
    case = pick("data case", order.data_case, task.data_cases, f'task "{order.task}"')
    wanted = dict.fromkeys([*case.mandatory_columns, *case.identity_columns, *case.context.include])
    missing = [name for name in wanted if name not in COLUMNS]
    if missing:
        raise FileRefused(
            f"a document becomes a table of the columns {', '.join(COLUMNS)}, and data case "
            f'"{order.data_case}" needs {", ".join(missing)}',
            file=order.file_name,
            fix="Save a table as .csv or .xlsx; for documents use a data case of the column text (docs/documents.md)",
        )
