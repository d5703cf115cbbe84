"""JSON Lines (jsonlines.org), or NDJSON: a JSON object a line, in UTF-8. A line is a row, its number that of the line.

Columns are the keys of all lines, in the order in which they are first seen. A string is its own cell; numbers and
whatever is nested are shown as their JSON text, digit for digit; null and a key that is not there are empty.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import orjson

from batch_jobs.errors import FileRefused
from batch_jobs.intake.blocks import blocks_of
from batch_jobs.table import FileKind, IntakeLimits, Row, TableFormat

MAX_LINE_BYTES = 16 * 1024 * 1024
SPARSE_FROM_CELLS = 2_000_000
MIN_FILLED_SHARE = 0.02
_BOMS = (b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")
_HALF = re.compile(r"[\ud800-\udfff]")
_ONE_A_LINE = "Write one whole JSON object on each line"
_TOO_DEEP = "holds values that are nested too deep", "Flatten them"


class _Number(str):
    """A number as it is written in the file."""

    __slots__ = ()


_KINDS = {list: "a list", str: "a text", bool: "true or false", _Number: "a number"}


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        doubled = next(name for name in names if names.count(name) > 1)
        raise FileRefused(f'has the key "{doubled}" twice in one object', fix="Give each key of an object once")
    return found


def _no_number(text: str) -> float:
    """NaN and Infinity."""
    raise FileRefused(f"holds {text}, which is no JSON", fix="Write null instead")


_DECODER = json.JSONDecoder(
    object_pairs_hook=_object, parse_int=_Number, parse_float=_Number, parse_constant=_no_number
)


class JsonlTable:
    """A JSON Lines file of which each line is known to be an object."""

    def __init__(self, path: Path, *, filename: str, limits: IntakeLimits, columns: tuple[str, ...]) -> None:
        self.format = TableFormat(kind=FileKind.JSONL)
        self.columns = columns
        self._path = path
        self._filename = filename
        self._limits = limits

    def rows(self) -> Iterator[Row]:
        """Stream the rows; each call is a new pass over the file.

        Raises:
            FileRefused: an object has a key twice; a value is too long, holds a NUL, or is nested too deep.
        """
        places = {name: place for place, name in enumerate(self.columns)}
        for number, line in _lines(self._path, self._filename):
            cells = [""] * len(places)
            for name, text in self._texts(number, line).items():
                if len(text) > self._limits.max_cell_chars or "\0" in text:
                    raise self._bad_cell(number, name, text)
                cells[places[name]] = text
            yield Row(number, tuple(cells))

    def blocks(self, size: int) -> Iterator[Any]:
        """The same rows in blocks."""
        return blocks_of(self.rows(), self.columns, size)

    def _texts(self, number: int, line: bytes) -> dict[str, str]:
        try:
            found = _DECODER.decode(line.decode())
            return {name: value if type(value) is str else cell_of(value) for name, value in found.items()}
        except (FileRefused, RecursionError, ValueError) as error:
            raise _refusal(self._filename, number, line) from error

    def _bad_cell(self, number: int, name: str, text: str) -> FileRefused:
        problem = f"the value has more than {self._limits.max_cell_chars:,} characters"
        if "\0" in text:
            problem = "the value holds a NUL character"
        return FileRefused(problem, file=self._filename, rows=(number,), column=name, fix="Shorten or clean it")


def cell_of(value: object) -> str:
    """A value as a prompt shows it: a text itself, null empty, all else compact JSON, digits as they are written."""
    if value is None:
        return ""
    return str(value) if isinstance(value, str) else _compact(value)


def _compact(value: object) -> str:
    if isinstance(value, _Number):
        return str(value)
    if isinstance(value, dict):
        return "{" + ",".join(f"{_quoted(name)}:{_compact(part)}" for name, part in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(_compact, value)) + "]"
    return _quoted(value)


_quoted = json.JSONEncoder(ensure_ascii=False).encode


def open_jsonl(path: Path, *, filename: str, limits: IntakeLimits) -> JsonlTable:
    """Read the file once for its columns: is every line an object, and which keys are there?

    Args:
        path: the upload on disk.
        filename: the name the user knows it by.
        limits: upper bounds of the table.

    Raises:
        FileRefused: a line is no JSON object, or blank; a bad key; more rows or columns than the limits; hardly a
            key that two objects share.
    """
    seen: dict[str, None] = {}
    rows = filled = 0
    for number, line in _lines(path, filename):
        rows = number
        if rows > limits.max_rows:
            most = f"{limits.max_rows:,}"
            raise FileRefused(f"has more than {most} rows", file=filename, fix=f"Split it into files of {most} rows")
        found = _quick(filename, number, line)
        filled += len(found)
        if not found.keys() <= seen.keys():
            new = [name for name in found if name not in seen]
            _check_names(new, filename, number, limits)
            seen.update(dict.fromkeys(new))
            _check_width(len(seen), filename, number, limits)
    if not seen:
        raise FileRefused("has no keys in any of its objects", file=filename, fix="Give its objects keys and values")
    cells = rows * len(seen)
    if cells > SPARSE_FROM_CELLS and filled < cells * MIN_FILLED_SHARE:
        problem = f"its {rows:,} objects have {len(seen):,} keys together, and hardly one that two of them share"
        raise FileRefused(problem, file=filename, fix="Put what differs from row to row into values, not into keys")
    return JsonlTable(path, filename=filename, limits=limits, columns=tuple(seen))


def _lines(path: Path, filename: str) -> Iterator[tuple[int, bytes]]:
    """Number and text of each line, without its end."""
    with path.open("rb") as file:
        for number, line in enumerate(iter(partial(file.readline, MAX_LINE_BYTES), b""), 1):
            if len(line) >= MAX_LINE_BYTES:
                problem = f"the line has more than {MAX_LINE_BYTES:,} bytes"
                raise FileRefused(problem, file=filename, rows=(number,), fix=_ONE_A_LINE)
            text = line.strip(b" \t\r\n")
            if not text:
                raise FileRefused("the line is blank", file=filename, rows=(number,), fix="Delete it")
            yield number, text


def _quick(filename: str, number: int, line: bytes) -> dict[str, Any]:
    """The object of a line, by the quick parser: numbers are rounded, and of equal keys the last one stays."""
    try:
        found = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        raise _refusal(filename, number, line) from error
    if not isinstance(found, dict):
        raise _refusal(filename, number, line)
    return found


def _refusal(filename: str, number: int, line: bytes) -> FileRefused:
    problem, fix = _fault(number, line)
    return FileRefused(problem, file=filename, rows=(number,), fix=fix)


def _fault(number: int, line: bytes) -> tuple[str, str | None]:
    """What is wrong with a line, and what to do."""
    if number == 1 and line.startswith(_BOMS):
        return "begins with a byte order mark, which JSON Lines does not have", 'Save it as "UTF-8" without BOM'
    try:
        found = _DECODER.decode(line.decode())
        text = cell_of(found)
    except UnicodeDecodeError as error:
        return f"byte 0x{line[error.start]:02X} at position {error.start + 1:,} is not valid UTF-8", "Save it as UTF-8"
    except json.JSONDecodeError as error:
        said = error.msg[:1].lower() + error.msg[1:]
        return f"is no JSON object: {said} at character {error.pos + 1:,}", _ONE_A_LINE
    except FileRefused as error:
        return error.problem, error.fix
    except RecursionError:
        return _TOO_DEEP
    match found:
        case dict() if _HALF.search(text):
            return 'holds half a character (an escape like "\\ud800" without its other half)', "Correct or delete it"
        case dict():
            return _TOO_DEEP  # for the quick parser
        case list() if number == 1:
            return "is a JSON list and no JSON Lines", "Write each of its objects on a line of its own"
    return f"is {_KINDS.get(type(found), 'null')} and no JSON object", _ONE_A_LINE


def _check_names(names: list[str], filename: str, number: int, limits: IntakeLimits) -> None:
    for name in names:
        problem = ""
        if not name.strip():
            problem = "an object has a key without a name"
        elif len(name) > limits.max_cell_chars or "\0" in name:
            problem = f'the key "{name[:40]!r}..." is too long or holds a NUL character'
        if problem:
            raise FileRefused(problem, file=filename, rows=(number,), fix="Give the key a name, or delete it")


def _check_width(width: int, filename: str, number: int, limits: IntakeLimits) -> None:
    if width > limits.max_columns:
        problem = f"its objects have more than {limits.max_columns:,} different keys, as of this line"
        fix = "Leave out the keys that are not needed; put what differs from row to row into values"
        raise FileRefused(problem, file=filename, rows=(number,), fix=fix)
