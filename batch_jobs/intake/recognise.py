"""Tell what an uploaded file really is, by its bytes, and open it as a table or say what to do instead.

The name only has to agree: a workbook named .csv is refused, not guessed at.
Reads the start, the end and, for zip archives, a bounded directory; old Office files are scanned in chunks.
"""

from __future__ import annotations

import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

from batch_jobs.errors import FileRefused, FileTooLarge
from batch_jobs.intake.dialect import BOMS, CHUNK_BYTES, extension_of, utf16_by_nuls
from batch_jobs.intake.text import open_text
from batch_jobs.table import IntakeLimits, Table

TEXT_EXTENSIONS = (".csv", ".tsv", ".psv")
WORKBOOK_EXTENSION = ".xlsx"
JSONL_EXTENSIONS = (".jsonl", ".ndjson")
PARQUET_EXTENSION = ".parquet"
EXTENSIONS = (*TEXT_EXTENSIONS, WORKBOOK_EXTENSION, *JSONL_EXTENSIONS, PARQUET_EXTENSION)
HEAD_BYTES = 4096
MAX_DIRECTORY_BYTES = 1024 * 1024
MAX_TYPES_BYTES = 1024 * 1024

_A_TABLE = "a .csv, .tsv, .psv, .xlsx, .jsonl, .ndjson or .parquet file"
_SAVE_AS = "Save it as .xlsx or as CSV UTF-8, and upload that"
_EXPORT = "Export the table as .csv or .xlsx, and upload that"
_UNPACK = "Unpack it, and upload the table that is in it"
_OLE2 = bytes.fromhex("D0CF11E0A1B11AE1")
_ZIP = (b"PK\x03\x04", b"PK\x05\x06", b"PK\x07\x08")
_BROKEN_ZIP = (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError, NotImplementedError, ValueError)


@dataclass(frozen=True, slots=True)
class _Finding:
    """What a file is, when it is nothing that can be taken."""

    what: str
    fix: str


_ENCRYPTED = _Finding("is protected by a password", "Save it without a password, and upload that")
_OLD_OFFICE = _Finding("is in the old Office format (.xls or the like)", _SAVE_AS)
_MACROS = _Finding("is a workbook with macros (.xlsm)", "Save it as .xlsx without macros, and upload that")
_BINARY_WORKBOOK = _Finding("is a binary workbook (.xlsb)", _SAVE_AS)
_OPEN_DOCUMENT = _Finding("is an OpenDocument file (.ods or the like)", _SAVE_AS)
_PLAIN_ZIP = _Finding("is a zip archive", _UNPACK)
_BROKEN_WORKBOOK = _Finding(
    "looks like a workbook or zip archive that is damaged or was cut short", "Open it, save it again and upload that"
)
_IMAGE = _Finding("is an image", _EXPORT)
_PROGRAM = _Finding("is a program", f"Upload {_A_TABLE}")
_PACKED = _Finding("is a compressed file", _UNPACK)
_PARQUET = _Finding("is a Parquet file", "Rename it to .parquet, and upload that")
_BINARY = _Finding("is a binary file and no table", _EXPORT)
_WEB_PAGE = _Finding(
    "is a web page (HTML)",
    "Often a sign-in or error page was saved instead of the file: download it again, or open it and save it as .xlsx",
)
_XML = _Finding("is an XML file", _EXPORT)
_JSON = _Finding(
    "is a JSON file", "If it holds one object a line, rename it to .jsonl; else write it so, and upload that"
)

# Bytes at the very start. Those that could begin the header of a text table are judged in `_binary` with more.
_MAGIC: tuple[tuple[bytes, _Finding], ...] = (
    (b"%PDF-", _Finding("is a PDF", _EXPORT)),
    (b"\x89PNG\r\n\x1a\n", _IMAGE),
    (b"\xff\xd8\xff", _IMAGE),
    (b"GIF87a", _IMAGE),
    (b"GIF89a", _IMAGE),
    (b"II*\x00", _IMAGE),
    (b"MM\x00*", _IMAGE),
    (b"\x1f\x8b", _Finding("is compressed with gzip", _UNPACK)),
    (b"BZh91AY&SY", _PACKED),
    (b"\xfd7zXZ\x00", _PACKED),
    (b"\x28\xb5\x2f\xfd", _PACKED),
    (b"7z\xbc\xaf\x27\x1c", _PACKED),
    (b"Rar!\x1a\x07", _PACKED),
    (b"\x7fELF", _PROGRAM),
    (b"\xcf\xfa\xed\xfe", _PROGRAM),
    (b"\xca\xfe\xba\xbe", _PROGRAM),
    (b"ARROW1\x00\x00", _Finding("is an Arrow file", _EXPORT)),
    (b"SQLite format 3\x00", _Finding("is a SQLite database", _EXPORT)),
    (b"{\\rtf", _Finding("is a Rich Text document", _EXPORT)),
)
# Bytes at several places, all of which must be there.
_MARKS: tuple[tuple[tuple[tuple[int, bytes], ...], _Finding], ...] = (
    (((0, b"BM"), (6, bytes(4))), _IMAGE),
    (((0, b"RIFF"), (8, b"WEBP")), _IMAGE),
    (((0, b"\0"), (4, b"ftyp")), _IMAGE),
    (((257, b"ustar"),), _Finding("is a tar archive", _UNPACK)),
)
_MARKUP: tuple[tuple[bytes, _Finding], ...] = (
    (b"<!doctype html", _WEB_PAGE),
    (b"<html", _WEB_PAGE),
    (b"<head", _WEB_PAGE),
    (b"<body", _WEB_PAGE),
    (b"<table", _WEB_PAGE),
    (b"<meta", _WEB_PAGE),
    (b"<script", _WEB_PAGE),
    (b"<!--", _WEB_PAGE),
    (b"<?xml", _XML),
    (b'{"', _JSON),
    (b'[{"', _JSON),
)
_AS_NAMED: dict[str, tuple[_Finding, ...]] = {
    **dict.fromkeys(JSONL_EXTENSIONS, (_JSON,)),
    PARQUET_EXTENSION: (_PARQUET, _BINARY),
}
"""What a file of that name may look like: its own reader judges it."""
_NAMES: dict[str, _Finding] = {
    ".xls": _OLD_OFFICE,
    ".xlsm": _MACROS,
    ".xlsb": _BINARY_WORKBOOK,
    ".ods": _OPEN_DOCUMENT,
}


def open_table(path: Path, *, filename: str, sheet: str | None, limits: IntakeLimits) -> Table:
    """Open an upload as a table, if it is one.

    Args:
        path: the file on disk.
        filename: the name the user knows it by; only its extension matters.
        sheet: name of the worksheet; None for the only one.
        limits: upper bounds of the table.

    Raises:
        FileTooLarge: over `limits.max_bytes`.
        FileRefused: when it is empty, something else than csv, tsv, psv, xlsx, jsonl, ndjson or parquet, not what its
            name says, or when its table can't be read without guessing.
        UnknownName: when the workbook has no such sheet.
    """
    _check_size(path, filename, limits)
    with path.open("rb") as file:
        head = file.read(HEAD_BYTES)
    is_workbook = head.startswith(_ZIP)
    finding = _archive(path, head) if is_workbook else _foreign(path, head)
    extension = extension_of(filename)
    if finding in _AS_NAMED.get(extension, ()):
        finding = None
    # An extension that is not taken is refused for what the content is, where that is known.
    finding = finding or _by_name(extension)
    if finding is not None:
        raise FileRefused(finding.what, file=filename, fix=finding.fix)
    _check_name(extension, filename, is_workbook=is_workbook)
    if is_workbook:
        from batch_jobs.intake.xlsx import open_xlsx

        return open_xlsx(path, filename=filename, sheet=sheet, limits=limits)
    if sheet is not None:
        problem = f'sheet "{sheet}" was asked for, but a {_kind_name(extension)} has no sheets'
        raise FileRefused(problem, file=filename, fix="Leave the sheet out, or upload the .xlsx file")
    return _open_sheetless(path, filename, extension, limits)


def _kind_name(extension: str) -> str:
    if extension in JSONL_EXTENSIONS:
        return "JSON Lines file"
    return "Parquet file" if extension == PARQUET_EXTENSION else "text table"


def _open_sheetless(path: Path, filename: str, extension: str, limits: IntakeLimits) -> Table:
    if extension in JSONL_EXTENSIONS:
        from batch_jobs.intake.jsonl import open_jsonl

        return open_jsonl(path, filename=filename, limits=limits)
    if extension == PARQUET_EXTENSION:
        from batch_jobs.intake.parquet import open_parquet

        return open_parquet(path, filename=filename, limits=limits)
    return open_text(path, filename=filename, limits=limits)


def _check_size(path: Path, filename: str, limits: IntakeLimits) -> None:
    size = path.stat().st_size
    if size > limits.max_bytes:
        problem = f"has {size:,} bytes, more than the {limits.max_bytes:,} that are taken"
        raise FileTooLarge(problem, file=filename, fix="Split it into smaller files")
    if size == 0:
        raise FileRefused("is empty (0 bytes)", file=filename, fix="Save or upload it again")


def _by_name(extension: str) -> _Finding | None:
    if extension in EXTENSIONS:
        return None
    if extension in _NAMES:
        named = _NAMES[extension]
        return _Finding(f"has a name that says it {named.what}", named.fix)
    what = f'has the extension "{extension}"' if extension else "has no extension"
    return _Finding(f"{what}, which is not read", f"Upload {_A_TABLE}; rename it if it is one of these")


def _check_name(extension: str, filename: str, *, is_workbook: bool) -> None:
    if is_workbook and extension != WORKBOOK_EXTENSION:
        problem = f"is an Excel workbook (.xlsx), though its name ends in {extension}"
        raise FileRefused(problem, file=filename, fix="Rename it to .xlsx, or save it as CSV UTF-8")
    if not is_workbook and extension == WORKBOOK_EXTENSION:
        problem = "is a text table, though its name ends in .xlsx"
        raise FileRefused(problem, file=filename, fix="Rename it to .csv, or save it as an Excel workbook")


def _foreign(path: Path, head: bytes) -> _Finding | None:
    """What a file that is no zip archive is, when it is no text either."""
    if head.startswith(_OLE2):
        return _ENCRYPTED if _contains(path, "EncryptedPackage".encode("utf-16-le")) else _OLD_OFFICE
    by_magic = next((finding for magic, finding in _MAGIC if head.startswith(magic)), None)
    return by_magic or _binary(path, head) or _markup(head)


def _binary(path: Path, head: bytes) -> _Finding | None:
    """Files whose first letters could also begin a header, so that a second sign is asked for."""
    if head.startswith(b"PAR1") and _tail(path, 4) == b"PAR1":
        return _PARQUET
    if head.startswith(b"MZ") and b"\0" in head[:64]:
        return _PROGRAM
    for marks, finding in _MARKS:
        if all(head.startswith(mark, place) for place, mark in marks):
            return finding
    return _BINARY if _is_noise(head) else None


def _is_noise(head: bytes) -> bool:
    """True for bytes with many control characters, which no text in one of our encodings has."""
    if head.startswith(tuple(BOMS.values())) or utf16_by_nuls(head):
        return False
    plain = head.replace(b"\0", b"")
    controls = sum(plain.count(code) for code in range(1, 32) if code not in b"\t\n\r\f\v\x1a")
    return controls * 20 > len(plain) or not plain


def _markup(head: bytes) -> _Finding | None:
    """Web pages and the like, in any of the text encodings."""
    for bom in BOMS.values():
        head = head.removeprefix(bom)
    start = head.replace(b"\0", b"").lstrip().lower()
    return next((finding for mark, finding in _MARKUP if start.startswith(mark)), None)


def _archive(path: Path, head: bytes) -> _Finding | None:
    """What a zip archive is; None for a workbook that can be taken."""
    if b"mimetypeapplication/vnd.oasis.opendocument" in head[:128]:
        return _OPEN_DOCUMENT
    size = _directory_bytes(path)
    if size is None:
        return _BROKEN_WORKBOOK
    if size > MAX_DIRECTORY_BYTES:
        return _Finding("is a zip archive with too many files for a workbook", _UNPACK)
    try:
        with zipfile.ZipFile(path) as archive:
            return _office(archive, set(archive.namelist()))
    except _BROKEN_ZIP:
        return _BROKEN_WORKBOOK


def _office(archive: zipfile.ZipFile, names: set[str]) -> _Finding | None:
    if "[Content_Types].xml" not in names:
        return _PLAIN_ZIP
    with archive.open("[Content_Types].xml") as file:
        types = file.read(MAX_TYPES_BYTES)
    if b"macroEnabled" in types:
        return _MACROS
    if "xl/workbook.bin" in names:
        return _BINARY_WORKBOOK
    if any(name.startswith("xl/") for name in names):
        return None
    return _Finding("is an Office document but no workbook", _EXPORT)


def _directory_bytes(path: Path) -> int | None:
    """Size of the zip directory as its end record says, so that a huge one is never loaded; None without one."""
    tail = _tail(path, 22 + 0xFFFF + 76)
    end = tail.rfind(b"PK\x05\x06")
    if end < 0 or len(tail) < end + 22:
        return None
    size = int.from_bytes(tail[end + 12 : end + 16], "little")
    wide = tail.rfind(b"PK\x06\x06", 0, end)  # zip64: the real size stands in a record of its own
    if wide >= 0 and b"PK\x06\x07" in tail[wide:end]:
        size = max(size if size < 0xFFFFFFFF else 0, int.from_bytes(tail[wide + 40 : wide + 48], "little"))
    return size


def _tail(path: Path, count: int) -> bytes:
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - count))
        return file.read(count)


def _contains(path: Path, wanted: bytes) -> bool:
    """Search the whole file in chunks that overlap."""
    kept = b""
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            if wanted in kept + chunk:
                return True
            kept = chunk[-len(wanted) :]
    return False
