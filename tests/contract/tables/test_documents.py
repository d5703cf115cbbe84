"""Documents as tables: what is read of each kind, how it is cut, and what is refused, with its place."""

from __future__ import annotations

import base64
import io
import zipfile
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import docx
import pytest

from batch_jobs.errors import FileRefused, FileTooLarge
from batch_jobs.intake import document, document_pages, document_reader
from batch_jobs.intake.document import Chunk, Cut, Read, chunks_of
from tests.acceptance.frames_kit import pdf_of, pdf_with

CUT = Cut(chunk_chars=120, overlap_chars=0, max_bytes=1_000_000, max_chunks=50)
ENCRYPTED = (  # "secret", by 40-bit RC4
    "JVBERi0xLjQKJeLjz9MKMSAwIG9iago8PAovUHJvZHVjZXIgPDdmYzUxMjA3ZDU+Cj4+CmVuZG9iagoyIDAgb2JqCjw8Ci9UeXBlIC9QYWdlcw"
    "ovQ291bnQgMQovS2lkcyBbIDQgMCBSIF0KPj4KZW5kb2JqCjMgMCBvYmoKPDwKL1R5cGUgL0NhdGFsb2cKL1BhZ2VzIDIgMCBSCj4+CmVuZG9i"
    "ago0IDAgb2JqCjw8Ci9UeXBlIC9QYWdlCi9NZWRpYUJveCBbIDAgMCA1OTUgODQyIF0KL1Jlc291cmNlcyA8PAovRm9udCA8PAovRjEgNSAwIF"
    "IKPj4KPj4KL0NvbnRlbnRzIDYgMCBSCi9QYXJlbnQgMiAwIFIKPj4KZW5kb2JqCjUgMCBvYmoKPDwKL1R5cGUgL0ZvbnQKL1N1YnR5cGUgL1R5"
    "cGUxCi9CYXNlRm9udCAvSGVsdmV0aWNhCj4+CmVuZG9iago2IDAgb2JqCjw8Ci9MZW5ndGggMjEzCj4+CnN0cmVhbQoJBCKLcfKu/J+DoUi9Td"
    "f74/g88B8UoN/sKzzA9nn9aeVmfyZDXvIOWkSIyvAEm9ukks01S50bNPxJ5zdq2TXhT2FSAQI/RfTmscR96lt1asRXy2ELQn1JMbmRChY95J7S"
    "EEQMKnRoK3SiGX4qcusn26qw2Lrvm7s2Xy9buPZ9Erx8xc3W1Tke/h8yerfxOAtxFUtZc+SHLUVUsfxFfO747fJCZ1cu344i5TRAt/2fgxOQwH"
    "U37pC1JIVKVVmqgPFIOzBg/6OqojWPLLtvp4hj37P3sm8KZW5kc3RyZWFtCmVuZG9iago3IDAgb2JqCjw8Ci9WIDEKL1IgMgovTGVuZ3RoIDQw"
    "Ci9QIDQyOTQ5NjcyOTIKL0ZpbHRlciAvU3RhbmRhcmQKL08gPGU1YThkMjY4N2JkOWQwY2ZmOTQ2YjdhYzU1ZjUxMDgxZGNmMGQxMTY1NTRjNG"
    "JmY2IwYTVlNDQ2ZjY5ZWE0OGE+Ci9VIDw3NTkyZjMxYTIzNTZkNDg4NWFjMDkyM2Q1NjdmYTU0N2EwMjY2NWEwY2EwZGIyYjVhMmMzYjU1YTUx"
    "ZTM5Mzg1Pgo+PgplbmRvYmoKeHJlZgowIDgKMDAwMDAwMDAwMCA2NTUzNSBmIAowMDAwMDAwMDE1IDAwMDAwIG4gCjAwMDAwMDAwNTkgMDAwMD"
    "AgbiAKMDAwMDAwMDExOCAwMDAwMCBuIAowMDAwMDAwMTY3IDAwMDAwIG4gCjAwMDAwMDAyOTUgMDAwMDAgbiAKMDAwMDAwMDM2NSAwMDAwMCBu"
    "IAowMDAwMDAwNjI5IDAwMDAwIG4gCnRyYWlsZXIKPDwKL1NpemUgOAovUm9vdCAzIDAgUgovSW5mbyAxIDAgUgovSUQgWyA8YTBlMWMwNTQ4Y2"
    "M1ZjFjYmY1YjlkYThmZjExY2YwZjc+IDxhMGUxYzA1NDhjYzVmMWNiZjViOWRhOGZmMTFjZjBmNz4gXQovRW5jcnlwdCA3IDAgUgo+PgpzdGFy"
    "dHhyZWYKODQzCiUlRU9GCg=="
)


def nested_forms(levels: int = 12, times: int = 10) -> bytes:
    """A PDF whose page draws a form ten times, which draws a form ten times, and so on: 10**12 words."""
    draw = b"/X Do " * times
    stream = b">>\nstream\n" + draw + b"\nendstream"
    size = b"/Length %d " % len(draw)
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Kids [3 0 R 4 0 R] /Count 2 >>",
        b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 9 9] /Resources << /Font << /F1 5 0 R >> >> /Contents 6 0 R >>",
        b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 9 9] /Resources << /XObject << /X 8 0 R >> >> /Contents 7 0 R >>",
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
        b"<< /Length 31 >>\nstream\nBT /F1 9 Tf 9 9 Td (fine) Tj ET \nendstream",
        b"<< " + size + stream,
    ]
    for level in range(levels):
        inside = b"/XObject << /X %d 0 R >>" % (9 + level) if level < levels - 1 else b"/Font << /F1 5 0 R >>"
        form = b"<< /Type /XObject /Subtype /Form /BBox [0 0 9 9] /Resources << " + inside + b" >> "
        last = b"/Length 30 >>\nstream\nBT /F1 9 Tf 9 9 Td (lol) Tj ET\nendstream"
        objects.append(form + (size + stream if level < levels - 1 else last))
    return pdf_with(objects)


def docx_of(build: Callable[[docx.document.Document], object]) -> bytes:
    """A Word document."""
    made, file = docx.Document(), io.BytesIO()
    build(made)
    made.save(file)
    return file.getvalue()


def zip_of(**parts: bytes) -> bytes:
    """A zip archive, deflated."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in parts.items():
            archive.writestr(name.replace("__", "/") + ".xml", content)
    return file.getvalue()


def read(tmp_path: Path, name: str, content: bytes, cut: Cut = CUT) -> tuple[list[Chunk], Read]:
    path, found = tmp_path / "upload", Read()
    path.write_bytes(content)
    return list(chunks_of(path, name, cut, found)), found


def test_a_pdf_is_cut_page_by_page_and_tells_which_pages_are_empty(tmp_path: Path) -> None:
    long = " ".join(f"Sentence {number} is here." for number in range(12))
    chunks, found = read(tmp_path, "r.pdf", pdf_of(["First page.", "", long]))
    assert (found.pages, found.empty_pages) == (3, [2])
    assert [chunk.number for chunk in chunks] == list(range(1, len(chunks) + 1))
    assert chunks[0] == Chunk(1, 1, "First page.")
    assert {chunk.page for chunk in chunks[1:]} == {3}
    assert " ".join(chunk.text for chunk in chunks[1:]) == long  # nothing lost, nothing twice
    assert all(len(chunk.text) <= CUT.chunk_chars and chunk.text.endswith(".") for chunk in chunks)


def test_a_word_document_gives_paragraphs_and_tables_in_order(tmp_path: Path) -> None:
    def build(made: docx.document.Document) -> None:
        made.add_heading("A loss", 1)
        table = made.add_table(2, 2)
        for row, cells in zip(table.rows, (("amount", "5 EUR"), ("where", "Bank1")), strict=True):
            for cell, text in zip(row.cells, cells, strict=True):
                cell.text = text
        made.add_paragraph("It ended well.")

    chunks, found = read(tmp_path, "r.DOCX", docx_of(build))
    assert chunks == [Chunk(None, 1, "A loss\n\namount | 5 EUR\nwhere | Bank1\n\nIt ended well.")]
    assert (found.pages, found.empty_pages) == (0, [])


def test_texts_are_read_in_their_encoding_and_overlap_where_asked(tmp_path: Path) -> None:
    text = " ".join(f"Größe {number}." for number in range(40))
    for encoding in ("utf-8", "utf-8-sig", "utf-16", "cp1252"):
        chunks, _ = read(tmp_path, "r.txt", text.encode(encoding))
        assert " ".join(chunk.text for chunk in chunks) == text
    overlapping, _ = read(tmp_path, "r.md", text.encode(), Cut(120, 40, 1_000_000, 50))
    assert all(one.text[-9:] in other.text for one, other in pairwise(overlapping))


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("r.pdf", base64.b64decode(ENCRYPTED), "is protected by a password"),
        ("r.pdf", pdf_of(["", ""]), "no text on any page: it is scanned"),
        ("r.pdf", pdf_of(["Text."])[:200], "is a damaged PDF"),
        ("r.pdf", b"Dear Sir", "is no PDF, though its name ends in .pdf"),
        ("r.pdf", b"", "is empty (0 bytes)"),
        ("r.docx", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(600), "is protected by a password, or in the old"),
        ("r.docx", docx_of(lambda made: made.add_paragraph("x"))[:900], "or a damaged one"),
        ("r.docx", docx_of(lambda made: made.add_paragraph(" ")), "there is no text in it"),
        ("r.docx", zip_of(xl__workbook=b"<x/>"), "is no Word document (.docx)"),
        ("r.docx", zip_of(word__document=b"<a>"), "is a damaged Word document"),
        ("r.docx", zip_of(word__document=b" " * 30_000_000), 'its part "word/document.xml" is far too large'),
        ("r.txt", pdf_of(["Text."]), "is no plain text, though its name ends in .txt"),
        ("r.txt", b"a text of some length with one \0 in it", "NUL characters"),
        ("r.md", b"\n \n", "there is no text in it"),
        ("r.txt", b"word " * 30_000, "holds far more text than a document does"),
    ],
)
def test_what_can_not_be_read_is_refused_by_its_name(tmp_path: Path, name: str, content: bytes, said: str) -> None:
    with pytest.raises(FileRefused) as caught:
        read(tmp_path, name, content)
    assert caught.value.message.startswith("r.")
    assert said in caught.value.message
    assert caught.value.fix


def test_a_document_that_is_too_large_is_not_opened(tmp_path: Path) -> None:
    with pytest.raises(FileTooLarge):
        read(tmp_path, "r.txt", b"x" * 101, Cut(100, 0, 100, 5))


def test_a_pdf_that_would_take_for_ever_is_stopped_and_its_page_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(document, "READ_SECONDS", 3.0)
    with pytest.raises(FileRefused, match="takes too much memory or time to read after page 1"):
        read(tmp_path, "r.pdf", nested_forms())


def test_a_page_that_is_damaged_is_named(tmp_path: Path) -> None:
    whole = pdf_of(["One.", "Two."])
    page = b"6 0 obj\n<< /Type /Page "
    assert page in whole
    path = tmp_path / "r.pdf"
    path.write_bytes(whole.replace(page, b"6 0 obj\n[ /Type /Page "))
    lines = list(document_reader.lines_of(path, "r.pdf", 100, 0))
    assert [line.get("text") or line["problem"] for line in lines] == ["One.", "page 2 is damaged"]


def test_one_that_lists_no_pages_or_too_many_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(document_pages, "MAX_PAGES", 2)
    path = tmp_path / "r.pdf"
    path.write_bytes(pdf_of(["One.", "Two.", "Three."]))
    (said,) = document_reader.lines_of(path, "r.pdf", 100, 0)
    assert said["problem"] == "has 3 pages, and 1 to 2 are read"
