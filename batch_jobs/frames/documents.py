"""Documents as rows: read_documents cuts them into chunks, process_documents asks the same of every chunk."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

from batch_jobs.config import Intake
from batch_jobs.errors import FileRefused, UserError
from batch_jobs.frames.extract import Options, answered, question
from batch_jobs.intake.document import COLUMNS, EXTENSIONS, Cut, Read, is_document

if TYPE_CHECKING:
    import pandas as pd

    from batch_jobs.frames.asked import Prompted

    Files = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]

DEFAULTS = Intake()
EMPTY_PAGES = "pages_without_text"


def read_documents(
    files: Files,
    *,
    chunk_chars: int = DEFAULTS.chunk_chars,
    overlap_chars: int = DEFAULTS.chunk_overlap_chars,
) -> pd.DataFrame:
    """Cut documents into chunks; nothing is asked.

    Args:
        files: one pdf, docx, txt or md, or several.
        chunk_chars: of one chunk; it ends at the end of a paragraph, a sentence or a word.
        overlap_chars: of these, repeated from the end of the chunk before; at most half.

    Returns:
        A row a chunk: `document` (the file's name), `page` (from 1; missing where the format has none), `chunk` (its
        number within the document, from 1) and `text`. `attrs["pages_without_text"]` names, for each document that has
        such, the pages that gave no row: blank, or scanned.

    Raises:
        FileRefused: one can't be read (no such file, encrypted, scanned, damaged, a bomb); says which and where.
    """
    import pandas as pd

    from batch_jobs.lifecycle.documents import cut_of, read_document

    if not (chunk_chars >= 100 and 0 <= 2 * overlap_chars <= chunk_chars):
        raise UserError("chunk_chars has to be 100 or more, and overlap_chars at most half of it")
    cut: Cut = cut_of(DEFAULTS.model_copy(update={"chunk_chars": chunk_chars, "chunk_overlap_chars": overlap_chars}))
    rows, empty = [], {}
    for path in _paths(files):
        read = Read()
        chunks = read_document(path, path.name, cut, read)
        rows += [(path.name, chunk.page, chunk.number, chunk.text) for chunk in chunks]
        if read.empty_pages:
            empty[path.name] = read.empty_pages
    types = dict(zip(COLUMNS, ("str", "Int64", "int64", "str"), strict=True))
    frame = pd.DataFrame(rows, columns=list(COLUMNS)).astype(types)
    frame.attrs[EMPTY_PAGES] = empty
    return frame


def process_documents(
    files: Files,
    *,
    prompt: Prompted,
    mode: str = "concurrent",
    chunk_chars: int = DEFAULTS.chunk_chars,
    overlap_chars: int = DEFAULTS.chunk_overlap_chars,
    **options: Unpack[Options],
) -> pd.DataFrame:
    """Cut documents into chunks, and ask the same of every chunk.

    Args:
        files: see `read_documents`; also the two sizes.
        prompt: see `extract_df`.
        mode: `concurrent`, `batch` or `auto`.
        chunk_chars: of one chunk.
        overlap_chars: of these, repeated from the chunk before.
        options: see `extract_df`; the model sees the column `text` unless `text_col` says otherwise.

    Returns:
        The rows of `read_documents`, with the answer's fields and a `status`.

    Raises:
        FileRefused: a document can't be read.
        BatchJobsError: as `extract_df`.
    """
    rows = read_documents(files, chunk_chars=chunk_chars, overlap_chars=overlap_chars)
    return answered(question(rows, prompt, mode, {"text_col": "text", **options}))


def _paths(files: Files) -> list[Path]:
    given = [files] if isinstance(files, str | os.PathLike) else list(files)
    paths = [Path(file) for file in given]
    if not paths:
        raise UserError("files: there is none; give the path of a document, or several")
    for path in paths:
        if not path.is_file():
            raise FileRefused("there is no such file", file=str(path), fix="Check the path")
        if not is_document(path.name):
            raise FileRefused(f"is no document: {', '.join(EXTENSIONS)} are read", file=str(path), fix="Convert it")
    return paths
