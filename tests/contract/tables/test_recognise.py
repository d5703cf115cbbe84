"""A file is what its bytes say; what is no table, or not what its name says, is refused with a way out."""

from __future__ import annotations

import gzip
import io
import struct
import zipfile
from pathlib import Path

import openpyxl
import pytest

from batch_jobs.errors import FileRefused, FileTooLarge
from batch_jobs.intake.dialect import CHUNK_BYTES
from batch_jobs.intake.recognise import open_table
from batch_jobs.table import FileKind, IntakeLimits, Table

LIMITS = IntakeLimits(max_bytes=5_000_000, max_rows=1_000, max_columns=50, max_cell_chars=1_000)
OLE2 = bytes.fromhex("D0CF11E0A1B11AE1")
CSV = b"id,text\n1,a\n"


def archive_of(files: dict[str, str]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as zipped:
        for name, text in files.items():
            zipped.writestr(name, text)
    return buffer.getvalue()


def office(main_type: str, part: str) -> bytes:
    types = f'<Types><Override PartName="/{part}" ContentType="application/vnd.{main_type}"/></Types>'
    return archive_of({"[Content_Types].xml": types, part: "<x/>"})


def workbook() -> bytes:
    book = openpyxl.Workbook()
    assert book.active is not None
    for line in (["id", "text"], ["1", "a"]):
        book.active.append(line)
    buffer = io.BytesIO()
    book.save(buffer)
    return buffer.getvalue()


def opened(folder: Path, content: bytes, name: str, sheet: str | None = None) -> Table:
    path = folder / "upload"
    path.write_bytes(content)
    return open_table(path, filename=name, sheet=sheet, limits=LIMITS)


def refusal(folder: Path, content: bytes, name: str, sheet: str | None = None) -> str:
    with pytest.raises(FileRefused) as caught:
        opened(folder, content, name, sheet)
    assert caught.value.message.startswith(name)
    assert caught.value.fix
    return caught.value.message


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", CSV),
        ("A.CSV", CSV),
        ("a.b.tsv", b"id\ttext\n1\ta\n"),
        ("a.psv", b"id|text\n1|a\n"),
        ("PAR1.csv", b"PAR1,x\n1,2\n"),
        ("MZ.csv", b"MZ,x\n1,2\n"),
        ("BMI.csv", b"BMI,age,text\n1,2,3\n"),
        ("a.csv", "id,text\n1,Утечка\n".encode("utf-16-le")),
        ("a.csv", "id,text\n1,Größe\n".encode("cp1252")),
        ("a.csv", b"<id>,text\n1,a\n"),
    ],
)
def test_text_tables_are_opened(tmp_path: Path, name: str, content: bytes) -> None:
    table = opened(tmp_path, content, name)
    assert table.format.kind is FileKind.TEXT
    assert len(list(table.rows())) == 1


def test_a_workbook_is_opened(tmp_path: Path) -> None:
    table = opened(tmp_path, workbook(), "a.xlsx")
    assert table.format.kind is FileKind.XLSX
    assert [row.cells for row in table.rows()] == [("1", "a")]


def test_empty(tmp_path: Path) -> None:
    assert "is empty" in refusal(tmp_path, b"", "a.csv")


def test_too_large(tmp_path: Path) -> None:
    path = tmp_path / "upload"
    with path.open("wb") as file:
        file.truncate(LIMITS.max_bytes + 1)
    with pytest.raises(FileTooLarge, match="has 5,000,001 bytes, more than the 5,000,000"):
        open_table(path, filename="a.csv", sheet=None, limits=LIMITS)


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"<!DOCTYPE html><html><body>Sign in</body></html>", "web page"),
        (b"\xef\xbb\xbf\r\n <HTML><table>", "web page"),
        ("\ufeff<html>".encode("utf-16-le"), "web page"),
        (b'<?xml version="1.0"?><Workbook/>', "XML"),
        (b'[{"id": 1}]', "JSON"),
        (b'{"id": 1}\n', "JSON"),
        (OLE2 + bytes(2_000) + "Workbook".encode("utf-16-le"), "old Office format"),
        (OLE2 + bytes(2_000_000) + "EncryptedPackage".encode("utf-16-le"), "protected by a password"),
        (OLE2 + bytes(CHUNK_BYTES - 16) + "EncryptedPackage".encode("utf-16-le"), "protected by a password"),
        (b"%PDF-1.7\n1 0 obj", "PDF"),
        (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "image"),
        (b"\xff\xd8\xff\xe0\0\x10JFIF", "image"),
        (b"GIF89a\x01\0\x01\0", "image"),
        (b"BM\x36\0\0\0\0\0\0\0\x36\0\0\0", "image"),
        (b"RIFF\x24\0\0\0WEBPVP8 ", "image"),
        (b"\0\0\0\x18ftypheic", "image"),
        (gzip.compress(CSV, mtime=0), "gzip"),
        (b"7z\xbc\xaf\x27\x1c\0\x04", "compressed file"),
        (b"readme.txt".ljust(257, b"\0") + b"ustar\x0000", "tar archive"),
        (b"PAR1\x15\x04\x15\x10PAR1", "Parquet"),
        (b"ARROW1\0\0\xff\xff", "Arrow"),
        (b"SQLite format 3\0\x10\0", "SQLite"),
        (b"MZ\x90\0\x03\0\0\0\x04", "program"),
        (b"\x7fELF\x02\x01\x01\0", "program"),
        (bytes(range(256)) * 8, "binary file"),
        (bytes(100), "binary file"),
    ],
)
@pytest.mark.parametrize("name", ["a.csv", "a.xlsx"])
def test_what_is_no_table_is_named(tmp_path: Path, content: bytes, what: str, name: str) -> None:
    assert what in refusal(tmp_path, content, name)


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (office("ms-excel.sheet.macroEnabled.main+xml", "xl/workbook.xml"), "macros"),
        (office("ms-excel.sheet.binary.main", "xl/workbook.bin"), "binary workbook"),
        (
            office("openxmlformats-officedocument.wordprocessingml.document.main+xml", "word/document.xml"),
            "no workbook",
        ),
        (archive_of({"losses.csv": "id,text\n1,a\n"}), "zip archive"),
        (archive_of({"xl/workbook.xml": "<x/>"}), "zip archive"),
        (archive_of({}), "zip archive"),
        (workbook()[:-200], "damaged or was cut short"),
        (b"PK\x03\x04 and no more", "damaged or was cut short"),
    ],
)
@pytest.mark.parametrize("name", ["a.csv", "a.xlsx"])
def test_what_a_zip_archive_is(tmp_path: Path, content: bytes, what: str, name: str) -> None:
    assert what in refusal(tmp_path, content, name)


def test_open_document(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as zipped:
        zipped.writestr("mimetype", "application/vnd.oasis.opendocument.spreadsheet")
        zipped.writestr("content.xml", "<x/>")
    assert "OpenDocument" in refusal(tmp_path, buffer.getvalue(), "a.xlsx")


def test_a_workbook_inside_a_zip_archive_is_a_zip_archive(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as zipped:
        zipped.writestr("losses.xlsx", workbook())
    assert "is a zip archive" in refusal(tmp_path, buffer.getvalue(), "losses.xlsx")


def test_a_huge_zip_directory_is_not_loaded(tmp_path: Path) -> None:
    content = bytearray(workbook())
    end = content.rfind(b"PK\x05\x06")
    content[end + 12 : end + 16] = struct.pack("<I", 3_000_000)
    assert "too many files" in refusal(tmp_path, bytes(content), "a.xlsx")


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("a.xls", "old Office format"),
        ("a.xlsm", "macros"),
        ("a.xlsb", "binary workbook"),
        ("a.ods", "OpenDocument"),
        ("a.json", 'extension ".json"'),
        ("a.docx", 'extension ".docx"'),
        ("a.txt", 'extension ".txt"'),
        ("a.csv.exe", 'extension ".exe"'),
        ("data.d/losses", "no extension"),
    ],
)
@pytest.mark.parametrize("content", [CSV, workbook()], ids=["text", "workbook"])
def test_names_that_are_not_taken(tmp_path: Path, name: str, what: str, content: bytes) -> None:
    assert what in refusal(tmp_path, content, name)


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.psv"])
def test_a_workbook_named_as_text(tmp_path: Path, name: str) -> None:
    assert f"is an Excel workbook (.xlsx), though its name ends in {name[1:]}" in refusal(tmp_path, workbook(), name)


def test_text_named_as_a_workbook(tmp_path: Path) -> None:
    assert "is a text table, though its name ends in .xlsx" in refusal(tmp_path, CSV, "a.xlsx")


def test_a_text_table_has_no_sheets(tmp_path: Path) -> None:
    assert 'sheet "Q3" was asked for' in refusal(tmp_path, CSV, "a.csv", sheet="Q3")
