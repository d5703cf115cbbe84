"""The text of a document, page by page where it has pages. Read it in a process of its own: see `intake.document`."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from batch_jobs.errors import FileRefused
from batch_jobs.intake.dialect import detect_encoding, extension_of, open_decoded
from batch_jobs.intake.xlsx_package import MAX_ENTRIES, MAX_RATIO, RATIO_FROM_BYTES

HEAD_BYTES = 1024
MAX_PAGES = 20_000
MAX_UNPACKED_BYTES = 500_000_000
"""Of a docx: a book with its pictures has a tenth."""
MAX_XML_BYTES = 100_000_000
"""Of one XML part: python-docx keeps it whole, in some ten times the bytes. War and Peace has 10 million."""
OLE2 = bytes.fromhex("D0CF11E0A1B11AE1")
SAVE_AGAIN = "Open it, save it again, and use that"
BROKEN_ZIP = (zipfile.BadZipFile, NotImplementedError, ValueError, OSError, RuntimeError, EOFError)


class Page(NamedTuple):
    """One page, or the whole of a document without pages (`number` None)."""

    number: int | None
    text: str


def pages_of(path: Path, filename: str) -> Iterator[Page]:
    """Stream a document's pages.

    Raises:
        FileRefused: it is not what its name says, encrypted, damaged, or a bomb; names the page where it has pages.
    """
    with path.open("rb") as file:
        head = file.read(HEAD_BYTES)
    extension = extension_of(filename)
    if extension == ".pdf":
        if b"%PDF-" not in head:
            _refuse("is no PDF, though its name ends in .pdf", "Check that it was downloaded or saved whole")
        yield from _pdf(path)
    elif extension == ".docx":
        yield Page(None, _docx(path, head))
    else:
        if head.startswith((b"%PDF-", b"PK\x03\x04", OLE2)):
            _refuse(f"is no plain text, though its name ends in {extension}", "Rename it to what it is")
        yield Page(None, _text(path, filename))


def _refuse(problem: str, fix: str) -> NoReturn:
    raise FileRefused(problem, fix=fix)


def _text(path: Path, filename: str) -> str:
    try:
        encoding = detect_encoding(path, filename=filename)
    except FileRefused as error:
        _refuse(error.problem, "Save it as UTF-8, and use that")
    with open_decoded(path, encoding) as text:
        whole = text.read()
    if "\0" in whole:
        _refuse("holds NUL characters, so it is damaged or no text", SAVE_AGAIN)
    return whole.replace("\r\n", "\n")


def _pdf(path: Path) -> Iterator[Page]:
    import pypdfium2

    try:
        document = pypdfium2.PdfDocument(path)
    except pypdfium2.PdfiumError as error:
        if "password" in str(error).lower():
            _refuse("is protected by a password", "Save it without a password, and use that")
        _refuse("is a damaged PDF", SAVE_AGAIN)
    count = len(document)
    if not 0 < count <= MAX_PAGES:
        _refuse(f"has {count:,} pages, and 1 to {MAX_PAGES:,} are read", "Split it")
    for number in range(count):
        yield Page(number + 1, _page_text(document, number))


def _page_text(document: Any, number: int) -> str:
    import pypdfium2

    try:
        page = document[number]
        text = page.get_textpage()
        found: str = text.get_text_range()
        text.close()
        page.close()
    except pypdfium2.PdfiumError:
        _refuse(f"page {number + 1:,} is damaged", SAVE_AGAIN)
    # a hyphen at a line's end is U+FFFE in PDFium's words; NULs stand for glyphs without a character
    return found.replace("\ufffe", "-").replace("\0", "").replace("\r\n", "\n")


def _docx(path: Path, head: bytes) -> str:
    if head.startswith(OLE2):
        _refuse("is protected by a password, or in the old Word format", "Save it as .docx without a password")
    _check_docx(path)
    import docx
    from docx.opc.exceptions import OpcError
    from lxml.etree import LxmlError

    try:
        document = docx.Document(str(path))
        return "\n\n".join(filter(str.strip, _blocks(document)))
    except (OpcError, LxmlError, KeyError, ValueError, AttributeError, *BROKEN_ZIP):
        _refuse("is a damaged Word document", "Open it in Word and save it again as .docx")


def _blocks(container: Any) -> Iterator[str]:
    """Paragraphs, and tables a row a line, in the order of the document."""
    from docx.table import Table

    for block in container.iter_inner_content():
        if isinstance(block, Table):
            yield "\n".join(" | ".join(cell.text.replace("\n", " ") for cell in row.cells) for row in block.rows)
        else:
            yield block.text


def _check_docx(path: Path) -> None:
    """Bound what is unpacked before anything is; a header that lies is caught where zipfile reads it."""
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except BROKEN_ZIP:
        _refuse("is no Word document (.docx), or a damaged one", SAVE_AGAIN)
    if not any(entry.filename == "word/document.xml" for entry in entries):
        _refuse("is no Word document (.docx)", "Save it as .docx, or rename it to what it is")
    if len(entries) > MAX_ENTRIES or sum(entry.file_size for entry in entries) > MAX_UNPACKED_BYTES:
        _refuse("is far too large when unpacked, like a zip bomb", SAVE_AGAIN)
    for entry in entries:
        if _is_bomb(entry):
            _refuse(f'its part "{entry.filename}" is far too large when unpacked, like a zip bomb', SAVE_AGAIN)
        if entry.flag_bits & 1:
            _refuse("is encrypted", "Save it without a password")


def _is_bomb(entry: zipfile.ZipInfo) -> bool:
    """Whether a part is XML, which python-docx unpacks, and becomes far too large then."""
    most_bytes = min(MAX_XML_BYTES, max(RATIO_FROM_BYTES, MAX_RATIO * max(entry.compress_size, 1)))
    return entry.file_size > most_bytes and entry.filename.lower().endswith((".xml", ".rels"))
