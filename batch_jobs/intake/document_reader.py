"""The process that reads one document: `python -m batch_jobs.intake.document_reader PATH NAME CHARS OVERLAP`.

Writes a JSON object a line to its standard output: chunks, and at the end what the document was, or what was wrong with
it. It limits itself before it opens the file.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson

from batch_jobs.errors import FileRefused
from batch_jobs.intake.dialect import extension_of
from batch_jobs.intake.document_pages import Page, pages_of

MEMORY_BYTES = 2 << 30
CPU_SECONDS = 300
NO_TEXT = {"problem": "there is no text in it", "fix": "Check that it is the right file"}
SCANNED = {
    "problem": "there is no text on any page: it is scanned, or a picture",
    "fix": "Run it through text recognition (OCR), and use what comes of that",
}


def limit_this_process() -> None:
    """Bound memory and processor time, where the system can (not on Windows)."""
    try:
        import resource
    except ImportError:
        return
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def lines_of(path: Path, filename: str, chunk_chars: int, overlap_chars: int) -> Iterator[dict[str, Any]]:
    """What there is to say of a document, in order."""
    splitter = _splitter(filename, chunk_chars, overlap_chars)
    number, empty, page = 0, list[int](), Page(None, "")
    try:
        for page in pages_of(path, filename):
            parts = [part for part in splitter.chunks(page.text) if part.strip()]
            if not parts and page.number is not None:
                empty.append(page.number)
            for part in parts:
                number += 1
                yield {"page": page.number, "chunk": number, "text": part}
    except FileRefused as error:
        yield {"problem": error.problem, "fix": error.fix}
        return
    if number:
        yield {"pages": page.number or 0, "empty_pages": empty}
    else:
        yield NO_TEXT if page.number is None else SCANNED


def _splitter(filename: str, chunk_chars: int, overlap_chars: int) -> Any:
    """Cuts at the largest unit that fits: headings of Markdown, paragraphs, sentences, words."""
    from semantic_text_splitter import MarkdownSplitter, TextSplitter

    kind = MarkdownSplitter if extension_of(filename) == ".md" else TextSplitter
    return kind(chunk_chars, overlap_chars)


def main(arguments: list[str]) -> None:
    """Read one document, and say what is in it."""
    path, filename, chunk_chars, overlap_chars = arguments
    limit_this_process()
    for line in lines_of(Path(path), filename, int(chunk_chars), int(overlap_chars)):
        sys.stdout.buffer.write(orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE))
        sys.stdout.buffer.flush()  # what was read before a page that ends this process tells which page it was


if __name__ == "__main__":
    main(sys.argv[1:])
