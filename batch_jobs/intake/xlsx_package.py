"""The zip container of a workbook, read as hostile: nothing is inflated or parsed before its size is bounded.

Container rules: ECMA-376 part 2 (Open Packaging Conventions), section 7.3 and annex B; zip fields: PKWARE APPNOTE
4.3 to 4.5. A part is counted and CRC-checked while it is inflated, because a header may say what it likes.
"""

from __future__ import annotations

import re
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from itertools import pairwise
from pathlib import Path, PurePosixPath
from typing import IO, NoReturn
from xml.parsers import expat

from batch_jobs.errors import FileRefused

CHUNK_BYTES = 1 << 18
MAX_ENTRIES = 10_000  # a workbook with 1,000 sheets, each with rels, comments and a drawing, has 4,000
MAX_DIRECTORY_BYTES = 4_000_000
# 1,000,000 rows x 20 columns of short text are about 0.9 GB of sheet XML; below 2^31 the output needs no zip64.
MAX_PART_BYTES = 2_000_000_000
MAX_TOTAL_BYTES = 4_000_000_000
# Sheet XML that a spreadsheet program wrote deflates 5 to 30 times, as every row and cell carries its own
# reference; deflate itself ends at 1,032 times. Small parts may have any ratio: they can't hurt.
RATIO_FROM_BYTES = 4 << 20
MAX_RATIO = 250
MAX_TOKEN_BYTES = 1 << 20  # one tag, comment or attribute; text of a cell comes in pieces and has its own limit
MAX_NESTED = 200  # tags open at a time, each kept by the parser; a workbook comes to some twenty
MAX_NAMES = 20_000  # of tags and attributes, each kept by the parser; a workbook has some hundred
_FIXED_HEADER_BYTES = 30
_SAVE_AGAIN = "Open it in Excel and save it again as .xlsx"
_UNSAFE_NAME = re.compile(r"[\\\0:]|^/|(^|/)\.\.(/|$)")
_XML_NAME = re.compile(r"\.(xml|rels|vml)$", re.IGNORECASE)
_BROKEN = (zipfile.BadZipFile, NotImplementedError, ValueError, UnicodeDecodeError, EOFError)


class Package:
    """An opened container whose directory has been checked; parts are read one at a time, in chunks."""

    def __init__(self, path: Path, *, filename: str) -> None:
        """Read and check the central directory.

        Args:
            path: the file on disk.
            filename: the name the user knows it by.

        Raises:
            FileRefused: no zip, too many entries, declared sizes of a bomb, names that leave the container,
                doubled names, overlapping, encrypted or strangely packed entries, macros.
        """
        self.path = path
        self.filename = filename
        self.entries = self._directory()
        self._by_name = {info.filename.lower(): info for info in self.entries}
        self._check_entries()

    def refuse(self, problem: str, fix: str = _SAVE_AGAIN) -> NoReturn:
        """Raise FileRefused for the whole file."""
        raise FileRefused(problem, file=self.filename, fix=fix)

    def find(self, name: str) -> zipfile.ZipInfo | None:
        """The entry of a part, by its name without leading slash; names match without regard to case."""
        return self._by_name.get(name.lower())

    def packed(self, info: zipfile.ZipInfo) -> Iterator[bytes]:
        """Yield the entry's bytes as they are stored, still compressed."""
        with self.path.open("rb") as file:
            self._to_data(file, info)
            left = info.compress_size
            while left:
                chunk = file.read(min(CHUNK_BYTES, left))
                if not chunk:
                    self.refuse(f'is cut off within its part "{info.filename}"')
                left -= len(chunk)
                yield chunk

    def chunks(self, info: zipfile.ZipInfo) -> Iterator[bytes]:
        """Yield a part's bytes, and stop as soon as there are more than its header says.

        Raises:
            FileRefused: too large, longer or shorter than declared, wrong CRC, damaged.
        """
        if info.file_size > MAX_PART_BYTES:
            self.refuse(f'its part "{info.filename}" is too large ({info.file_size:,} bytes)', "Split the table")
        total, crc = 0, 0
        for chunk in self._inflated(info):
            total += len(chunk)
            if total > info.file_size:
                self.refuse(f'its part "{info.filename}" holds more than its header says, like a zip bomb')
            crc = zlib.crc32(chunk, crc)
            yield chunk
        if total != info.file_size or crc != info.CRC:
            self.refuse(f'its part "{info.filename}" is damaged')

    def _inflated(self, info: zipfile.ZipInfo) -> Iterator[bytes]:
        if info.compress_type == zipfile.ZIP_STORED:
            yield from self.packed(info)
            return
        inflate = zlib.decompressobj(-15)
        try:
            for packed in self.packed(info):
                rest = packed
                while rest and not inflate.eof:
                    yield inflate.decompress(rest, CHUNK_BYTES)
                    rest = inflate.unconsumed_tail
            yield inflate.flush()
        except zlib.error:
            self.refuse(f'its part "{info.filename}" is damaged')
        if not inflate.eof or inflate.unused_data:
            self.refuse(f'its part "{info.filename}" is damaged')

    def _to_data(self, file: IO[bytes], info: zipfile.ZipInfo) -> None:
        """Go to the entry's first data byte; its local header must name the same part (APPNOTE 4.3.7)."""
        file.seek(info.header_offset)
        fixed = file.read(_FIXED_HEADER_BYTES)
        name_bytes, extra_bytes = int.from_bytes(fixed[26:28], "little"), int.from_bytes(fixed[28:30], "little")
        name = file.read(name_bytes).decode("utf-8" if info.flag_bits & 0x800 else "cp437", "replace")
        if fixed[:4] != b"PK\x03\x04" or name != info.orig_filename:
            self.refuse(f'its entry "{info.filename}" is damaged')
        file.seek(extra_bytes, 1)

    def _directory(self) -> tuple[zipfile.ZipInfo, ...]:
        size = _directory_bytes(self.path)
        if size is None:
            self.refuse("is no .xlsx workbook, or a damaged one")
        if size > MAX_DIRECTORY_BYTES:
            self.refuse("is a zip archive with too many files for a workbook")
        try:
            with zipfile.ZipFile(self.path) as archive:
                return tuple(archive.infolist())
        except _BROKEN:
            self.refuse("is no .xlsx workbook, or a damaged one")

    def _check_entries(self) -> None:
        if len(self.entries) > MAX_ENTRIES:
            self.refuse("is a zip archive with too many files for a workbook")
        if len(self._by_name) != len(self.entries):
            self.refuse("holds two parts of the same name")
        if sum(info.file_size for info in self.entries) > MAX_TOTAL_BYTES:
            self.refuse("is far too large when unpacked, like a zip bomb")
        for info in self.entries:
            self._check_entry(info)
        in_file = sorted(self.entries, key=lambda info: info.header_offset)
        for info, following in pairwise(in_file):
            if info.header_offset + _FIXED_HEADER_BYTES + info.compress_size > following.header_offset:
                self.refuse("holds parts that overlap, like a zip bomb")

    def _check_entry(self, info: zipfile.ZipInfo) -> None:
        if _UNSAFE_NAME.search(info.orig_filename):
            self.refuse(f"holds a part with an unsafe name ({info.orig_filename!r})")
        if info.flag_bits & 0x41:
            self.refuse(f'its part "{info.filename}" is encrypted', "Save it without a password")
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            self.refuse(f'its part "{info.filename}" is packed in a way that workbooks are not')
        if PurePosixPath(info.filename.lower()).name == "vbaproject.bin":
            self.refuse("holds macros", "Save it as .xlsx, without macros")
        swollen = info.file_size > RATIO_FROM_BYTES and info.file_size > MAX_RATIO * info.compress_size
        if swollen and _XML_NAME.search(info.filename):
            self.refuse(f'its part "{info.filename}" unpacks to more than {MAX_RATIO} times its size, like a zip bomb')


def _directory_bytes(path: Path) -> int | None:
    """Size of the central directory by its end record, so that a huge one is never loaded (APPNOTE 4.3.14, 4.3.16)."""
    with path.open("rb") as file:
        if file.read(4) != b"PK\x03\x04":
            return None
        file.seek(max(0, path.stat().st_size - (22 + 0xFFFF + 76)))
        tail = file.read()
    end = tail.rfind(b"PK\x05\x06")
    if end < 0 or len(tail) < end + 22:
        return None
    size = int.from_bytes(tail[end + 12 : end + 16], "little")
    wide = tail.rfind(b"PK\x06\x06", 0, end)
    if wide >= 0 and b"PK\x06\x07" in tail[wide:end]:
        size = max(size if size < 0xFFFFFFFF else 0, int.from_bytes(tail[wide + 40 : wide + 48], "little"))
    return size


class Nesting:
    """Counts the tags of a part that are open, and refuses more than MAX_NESTED at a time."""

    def __init__(self, package: Package, info: zipfile.ZipInfo) -> None:
        self._package, self._part = package, info.filename
        self._open = 0

    def opened(self, *_: object) -> None:
        """Take a start tag into account.

        Raises:
            FileRefused: too many tags are open.
        """
        self._open += 1
        if self._open > MAX_NESTED:
            self._package.refuse(f'its part "{self._part}" holds tags that are nested more than {MAX_NESTED} deep')

    def closed(self, *_: object) -> None:
        """Take an end tag into account."""
        self._open -= 1


def xml_parser(package: Package, info: zipfile.ZipInfo, *, namespaces: bool = False) -> expat.XMLParserType:
    """Make a parser for one part that refuses DOCTYPEs, entity declarations, any encoding but UTF-8, and deep nesting.

    ECMA-376 part 2, section 6.1.4 (M1.17 and M1.18) allows UTF-8 and UTF-16 and forbids DTDs; nobody writes UTF-16.
    Nothing outside the part is ever opened: expat calls no handler that would. Who sets handlers for tags of their own
    counts them by a `Nesting` of their own.

    Args:
        package: where the part is; named in the errors.
        info: the part.
        namespaces: give names as `uri local` instead of `prefix:local`.
    """
    part = info.filename
    parser = expat.ParserCreate(namespace_separator=" " if namespaces else None)

    def doctype(*_: object) -> None:
        package.refuse(f'its part "{part}" holds a DOCTYPE, which no workbook needs')

    def declaration(_version: str, encoding: str | None, _standalone: int) -> None:
        if encoding is not None and encoding.lower() not in ("utf-8", "us-ascii"):
            package.refuse(f'its part "{part}" is written in {encoding[:40]!r} instead of UTF-8')

    parser.StartDoctypeDeclHandler = doctype
    parser.EntityDeclHandler = doctype
    parser.XmlDeclHandler = declaration
    nesting = Nesting(package, info)
    parser.StartElementHandler, parser.EndElementHandler = nesting.opened, nesting.closed
    return parser


def feed(package: Package, info: zipfile.ZipInfo, parser: expat.XMLParserType, chunks: Iterable[bytes]) -> None:
    """Run a part through a parser.

    Args:
        package: named in the errors.
        info: the part.
        parser: from `xml_parser`, with its handlers set.
        chunks: the part's bytes, usually `package.chunks(info)`.

    Raises:
        FileRefused: what the guards of `xml_parser` refuse, XML that isn't well-formed, a tag without end.
    """
    fed = 0
    try:
        for chunk in chunks:
            if not fed and chunk[:2] in (b"\xff\xfe", b"\xfe\xff", b"\0<", b"<\0"):
                package.refuse(f'its part "{info.filename}" is written in UTF-16 instead of UTF-8')
            fed += len(chunk)
            parser.Parse(chunk)
            if len(parser.intern) > MAX_NAMES:
                package.refuse(f'its part "{info.filename}" holds more than {MAX_NAMES:,} names of tags and attributes')
            if fed - parser.CurrentByteIndex > MAX_TOKEN_BYTES + CHUNK_BYTES:
                package.refuse(f'its part "{info.filename}" holds a tag of more than {MAX_TOKEN_BYTES:,} bytes')
        parser.Parse(b"", True)
    except expat.ExpatError as error:
        problem = f'its part "{info.filename}" is damaged (line {error.lineno}: {expat.ErrorString(error.code)})'
        raise FileRefused(problem, file=package.filename, fix=_SAVE_AGAIN) from error
