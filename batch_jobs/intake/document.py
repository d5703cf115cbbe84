"""Documents (pdf, docx, txt, md) as tables: a chunk a row, in the columns document, page, chunk and text.

They are read in a process of their own, with limits on its memory and its time: a document that was made to exhaust
its reader, or to crash it, takes that process with it and nothing else.
"""

from __future__ import annotations

import csv
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from batch_jobs.errors import FileRefused, FileTooLarge
from batch_jobs.intake.dialect import extension_of

EXTENSIONS = (".pdf", ".docx", ".txt", ".md")
COLUMNS = ("document", "page", "chunk", "text")
READER = "batch_jobs.intake.document_reader"
READ_SECONDS = 600.0
"""Of the whole document; one of 5,000 pages takes half a minute."""
_SPLIT = "Save it again from the program it was made with, or split it"


class Chunk(NamedTuple):
    """A piece of a document.

    Attributes:
        page: counted from 1; None where the format has none.
        number: counted from 1, over the whole document.
    """

    page: int | None
    number: int
    text: str


@dataclass(frozen=True, slots=True)
class Cut:
    """How documents are cut, and what is taken at most.

    Attributes:
        chunk_chars: of one chunk.
        overlap_chars: of these, repeated from the end of the chunk before.
        max_bytes: of the file, and of the text in it.
        max_chunks: that it may come to.
    """

    chunk_chars: int
    overlap_chars: int
    max_bytes: int
    max_chunks: int


@dataclass
class Read:
    """What is known of a document once all its chunks were taken.

    Attributes:
        pages: 0 where the format has none.
        empty_pages: on which there is no text: blank, or scanned.
    """

    pages: int = 0
    empty_pages: list[int] = field(default_factory=list)


def is_document(filename: str) -> bool:
    """Whether a file's name says that it is a document."""
    return extension_of(filename) in EXTENSIONS


def chunks_of(path: Path, filename: str, cut: Cut, read: Read) -> Iterator[Chunk]:
    """Stream the chunks of a document, in order.

    Args:
        path: the file on disk.
        filename: the name the user knows it by; its extension says what it is.
        cut: how it is cut.
        read: filled with what is known at the end.

    Raises:
        FileTooLarge: over `max_bytes`.
        FileRefused: it is no such document, encrypted, damaged, without text, or too much to read.
    """
    size = path.stat().st_size
    if size > cut.max_bytes:
        problem = f"has {size:,} bytes, more than the {cut.max_bytes:,} that are taken"
        raise FileTooLarge(problem, file=filename, fix=_SPLIT)
    if size == 0:
        raise FileRefused("is empty (0 bytes)", file=filename, fix="Save or upload it again")
    total = 0
    for line in _lines(path, filename, cut):
        if "text" not in line:
            _take_end(line, filename, read)
            continue
        total += len(line["text"])
        if line["chunk"] > cut.max_chunks or total > cut.max_bytes:
            raise FileRefused("holds far more text than a document does, like a bomb", file=filename, fix=_SPLIT)
        yield Chunk(line["page"], line["chunk"], line["text"])


def _take_end(line: dict[str, Any], filename: str, read: Read) -> None:
    if "problem" in line:
        raise FileRefused(line["problem"], file=filename, fix=line["fix"])
    read.pages, read.empty_pages = line["pages"], line["empty_pages"]


def _lines(path: Path, filename: str, cut: Cut) -> Iterator[dict[str, Any]]:
    """What the reading process says, until it has ended well."""
    options = [str(path), filename, str(cut.chunk_chars), str(cut.overlap_chars)]
    process = subprocess.Popen(
        [sys.executable, "-m", READER, *options],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert process.stdout is not None
    watch = threading.Timer(READ_SECONDS, process.kill)
    watch.daemon = True
    watch.start()
    last = None
    try:
        for text in process.stdout:
            line = orjson.loads(text)
            last = line.get("page", last)
            yield line
        if process.wait() != 0:
            where = f" after page {last:,}" if last is not None else ""
            problem = f"takes too much memory or time to read{where}, or breaks its reader: damaged, or made to do that"
            raise FileRefused(problem, file=filename, fix=_SPLIT)
    finally:
        watch.cancel()
        process.kill()
        process.stdout.close()
        process.wait()


def write_table(document: str, chunks: Iterator[Chunk], target: Path) -> int:
    """Write chunks as a csv that intake takes.

    Args:
        document: what the column of that name says.
        chunks: of it.
        target: replaced when it is there.

    Returns:
        How many there were.
    """
    number = 0
    with target.open("w", encoding="utf-8-sig", newline="") as handle:
        writer = csv.writer(handle, quoting=csv.QUOTE_ALL)
        writer.writerow(COLUMNS)
        for number, chunk in enumerate(chunks, 1):  # noqa: B007
            writer.writerow([document, "" if chunk.page is None else chunk.page, chunk.number, chunk.text])
    return number
