"""How a text table is written: its encoding and its delimiter, told from the bytes and not from the name.

What is found here goes into the job's TableFormat, and the output file is written alike.
A file that could be read in two ways, one of which garbles it, is refused.
"""

from __future__ import annotations

import codecs
import csv
import io
import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path, PurePath
from typing import NamedTuple

from batch_jobs.errors import FileRefused

DELIMITERS = ",;\t|"
NAMED_DELIMITERS = {".tsv": "\t", ".psv": "|"}
BOMS = {"utf-8": codecs.BOM_UTF8, "utf-16-le": codecs.BOM_UTF16_LE, "utf-16-be": codecs.BOM_UTF16_BE}
SAMPLE_CHARS = 256 * 1024
MAX_RECORD_CHARS = 16 * 1024 * 1024
CHUNK_BYTES = 1024 * 1024
SAVE_AS_UTF8 = 'Save it again as "CSV UTF-8" and upload that'

_UTF32_BOMS = (codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)
_SEP_LINE = re.compile(r'"?sep=([^\r\n])"?(?:\r\n|\r|\n)?')
_NUL_SHARE = 0.1  # of the 16-bit units: commas, spaces and line ends alone reach it in most scripts
_NUL_STRAY = 8  # one NUL on the other side for that many: U+4E00 or U+3000 put it there


class Encoding(NamedTuple):
    """A Python codec without BOM, and whether the file starts with one."""

    codec: str
    bom: bool = False

    @property
    def bom_bytes(self) -> bytes:
        """What stands before the text."""
        return BOMS[self.codec] if self.bom else b""


class _Undecodable(Exception):
    """The byte at `position` (from 0) is not valid in the codec."""

    def __init__(self, position: int) -> None:
        super().__init__(position)
        self.position = position


def open_decoded(path: Path, encoding: Encoding) -> io.TextIOWrapper:
    """Open the text after the BOM, every line end as it is in the file."""
    return _open_at(path, encoding.codec, len(encoding.bom_bytes))


def _open_at(path: Path, codec: str, skip: int) -> io.TextIOWrapper:
    binary = path.open("rb", buffering=CHUNK_BYTES)
    binary.seek(skip)
    return io.TextIOWrapper(binary, encoding=codec, newline="")


def allow_any_cell() -> None:
    """Raise the csv module's process-wide field limit to the longest record that is read; never lower it."""
    if csv.field_size_limit() < MAX_RECORD_CHARS:
        csv.field_size_limit(MAX_RECORD_CHARS)


def sep_delimiter(line: str) -> str | None:
    """Read Excel's `sep=;` line: the delimiter it names, or None when the line is not one."""
    found = _SEP_LINE.fullmatch(line)
    return found[1] if found else None


def detect_encoding(path: Path, *, filename: str) -> Encoding:
    """Tell the encoding from the whole file: BOM, NUL pattern of UTF-16, strict UTF-8, then Windows-1252.

    Raises:
        FileRefused: for UTF-32, for bytes that are in none of these encodings, and for a file that is UTF-8 for
            the most part: read as Windows-1252 it would garble every accented letter without a word.
    """
    with path.open("rb") as file:
        head = file.read(CHUNK_BYTES)
    encoding = _from_head(head, filename)
    if encoding is not None:
        _decode_or_refuse(path, encoding, filename)
        return encoding
    try:
        _decode_all(path, Encoding("utf-8"))
    except _Undecodable as broken:
        _refuse_damaged_utf8(path, filename, broken.position)
        _decode_or_refuse(path, Encoding("cp1252"), filename)
        return Encoding("cp1252")
    return Encoding("utf-8")


def _from_head(head: bytes, filename: str) -> Encoding | None:
    """Decide by BOM or NUL pattern, if that can be done."""
    if head.startswith(_UTF32_BOMS) or _looks_like_utf32(head):
        raise FileRefused("is text in UTF-32, which is not read", file=filename, fix=SAVE_AS_UTF8)
    for codec, bom in BOMS.items():
        if head.startswith(bom):
            return Encoding(codec, bom=True)
    return utf16_by_nuls(head)


def utf16_by_nuls(head: bytes) -> Encoding | None:
    """UTF-16 without BOM: the NUL halves of its commas, spaces and line ends stand in every second place only."""
    units = len(head) // 2
    even, odd = head[0::2].count(0), head[1::2].count(0)
    if odd and odd >= units * _NUL_SHARE and even * _NUL_STRAY <= odd:
        return Encoding("utf-16-le")
    if even and even >= units * _NUL_SHARE and odd * _NUL_STRAY <= even:
        return Encoding("utf-16-be")
    return None


def _looks_like_utf32(head: bytes) -> bool:
    quarter = len(head) // 4
    zeros = [head[place::4].count(0) for place in range(4)]
    return quarter > 0 and (min(zeros[2:]) >= quarter > zeros[0] or min(zeros[:2]) >= quarter > zeros[3])


def _chunks(path: Path, skip: int = 0) -> Iterator[bytes]:
    with path.open("rb") as file:
        file.seek(skip)
        yield from iter(partial(file.read, CHUNK_BYTES), b"")


def _decode_all(path: Path, encoding: Encoding) -> None:
    """Decode the whole file strictly, in constant memory."""
    decoder = codecs.getincrementaldecoder(encoding.codec)("strict")
    fed = len(encoding.bom_bytes)
    try:
        for chunk in _chunks(path, fed):
            decoder.decode(chunk)
            fed += len(chunk)
        decoder.decode(b"", final=True)
    except UnicodeDecodeError as error:
        raise _Undecodable(fed - len(decoder.getstate()[0]) + error.start) from error


def _decode_or_refuse(path: Path, encoding: Encoding, filename: str) -> None:
    try:
        _decode_all(path, encoding)
    except _Undecodable as broken:
        name = "Windows-1252 or UTF-8" if encoding.codec == "cp1252" else encoding.codec.upper()
        raise _undecodable(path, filename, broken.position, f"is not valid {name}", encoding) from broken


def _refuse_damaged_utf8(path: Path, filename: str, position: int) -> None:
    """Refuse a file that holds more characters of UTF-8 than bytes that are not: it is damaged, not Windows-1252."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    good = bad = 0
    for chunk in _chunks(path):
        text = decoder.decode(chunk)
        replaced = text.count("\ufffd") - chunk.count(b"\xef\xbf\xbd")
        bad += replaced
        good += sum(map(len, re.findall(r"[^\x00-\x7f]+", text))) - replaced
    bad += decoder.decode(b"", final=True).count("\ufffd")
    if good >= bad:
        raise _undecodable(path, filename, position, "breaks a file that is otherwise UTF-8", Encoding("utf-8"))


def _undecodable(path: Path, filename: str, position: int, problem: str, encoding: Encoding) -> FileRefused:
    with path.open("rb") as file:
        file.seek(position)
        byte = file.read(1)
    rows = () if encoding.codec.startswith("utf-16") else (_row_at(path, position, encoding),)
    what = f"byte 0x{byte.hex().upper()} at position {position:,} {problem}"
    return FileRefused(what, file=filename, rows=rows, fix=SAVE_AS_UTF8)


def _row_at(path: Path, position: int, encoding: Encoding) -> int:
    """Number of the record that holds the byte; latin-1 makes every byte one character."""
    allow_any_cell()
    skip = len(encoding.bom_bytes)
    with _open_at(path, "latin-1", skip) as stream:
        delimiter = detect_delimiter(stream.read(SAMPLE_CHARS), extension="")
    number, consumed, begin = 0, skip, skip

    def lines(stream: io.TextIOWrapper) -> Iterator[str]:
        nonlocal consumed
        for line in iter(partial(stream.readline, MAX_RECORD_CHARS), ""):
            consumed += len(line)
            yield line
            if consumed > position or consumed - begin > MAX_RECORD_CHARS:
                return

    with _open_at(path, "latin-1", skip) as stream:
        for _ in csv.reader(lines(stream), delimiter=delimiter):
            number, begin = number + 1, consumed
    return number


def detect_delimiter(sample: str, *, extension: str) -> str:
    """Tell the delimiter from the start of the text.

    A `sep=` line is obeyed. Then the extension's own (.tsv, .psv), if the header has it; then the one that gives
    every record as many cells as the header, more than one; then the one that gives most of them. Where none
    splits the header the table has one column.

    Args:
        sample: decoded text from the start of the file; its last record may be cut.
        extension: of the file's name, with the dot, lower case.
    """
    lines = list(io.StringIO(sample, newline=""))
    named = sep_delimiter(lines[0]) if lines else None
    if named is not None:
        return named
    if len(sample) >= SAMPLE_CHARS and len(lines) > 1:
        lines.pop()
    own = NAMED_DELIMITERS.get(extension)
    fits = {delimiter: _fit(lines, delimiter) for delimiter in DELIMITERS}
    if own is not None and fits[own].width > 1:
        return own
    best = max(DELIMITERS, key=lambda delimiter: fits[delimiter])
    return best if fits[best].width > 1 else own or ","


class _Fit(NamedTuple):
    """How well a delimiter explains a sample; the greater the better."""

    splits: bool
    clean: bool
    share: float
    width: int


def _fit(lines: list[str], delimiter: str) -> _Fit:
    allow_any_cell()
    widths: list[int] = []
    clean = True
    try:
        widths.extend(len(r) for r in csv.reader(lines, delimiter=delimiter, strict=True) if any(r))
    except csv.Error as error:
        clean = "end of data" in str(error)  # the sample may end inside a quoted cell
    width = widths[0] if widths else 0
    share = widths.count(width) / len(widths) if widths else 0.0
    return _Fit(width > 1, clean, share, width)


def extension_of(filename: str) -> str:
    """The name's last extension, lower case with its dot; empty when there is none."""
    return PurePath(filename.replace("\\", "/")).suffix.lower()
