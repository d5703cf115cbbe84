"""Reading what a batch is made from: input files line by line, and Anthropic's one long JSON body as a stream.

Nothing here holds more than one request at a time; ids are kept, for finding doubles.
"""

from __future__ import annotations

import codecs
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import orjson

from batch_jobs.models import BatchProblem

from .limits import CUSTOM_ID, BatchLimits
from .openai_wire import ENDPOINTS
from .validation import MESSAGES
from .wire import Problem, Refused

MAX_PROBLEMS = 20
READ_CHARS = 1 << 20


@dataclass(slots=True)
class Scan:
    """What an input file holds."""

    total: int = 0
    model: str = ""
    problems: list[BatchProblem] = field(default_factory=list)

    def add(self, code: str, line: int | None = None, message: str = "") -> None:
        """Note a problem, in the usual words of its code; only the first ones are kept."""
        if len(self.problems) < MAX_PROBLEMS:
            self.problems.append(BatchProblem(code, message or MESSAGES[code], line))


def scan_openai(path: Path, endpoint: str, limits: BatchLimits) -> Scan:
    """Check an OpenAI input file as the provider's validation does."""
    scan = Scan()
    seen: set[str] = set()
    with path.open("rb") as handle:
        for number, line in enumerate(handle, 1):
            if line.strip():
                scan.total += 1
                _check_openai_line(scan, seen, line, number, endpoint)
    if not scan.total:
        scan.add("empty_file")
    if scan.total > limits.requests:
        scan.add("too_many_tasks")
    return scan


def _check_openai_line(scan: Scan, seen: set[str], line: bytes, number: int, endpoint: str) -> None:
    try:
        item: Any = orjson.loads(line)
        custom_id, url, method = item["custom_id"], item["url"], item["method"]
        model = item["body"]["model"] if endpoint in ENDPOINTS else ""
    except orjson.JSONDecodeError:
        scan.add("invalid_json_line", number)
        return
    except (KeyError, TypeError):
        scan.add("missing_required_parameter", number)
        return
    if custom_id in seen:
        scan.add("duplicate_custom_id", number)
    seen.add(custom_id)
    if url != endpoint or method != "POST":
        scan.add("url_mismatch", number)
    scan.model = scan.model or model
    if model != scan.model:
        scan.add("model_mismatch", number)


def scan_gemini(path: Path) -> Scan:
    """Check a Gemini input file: every line an object with a request."""
    scan = Scan()
    with path.open("rb") as handle:
        for number, line in enumerate(handle, 1):
            if not line.strip():
                continue
            scan.total += 1
            try:
                fits = isinstance(orjson.loads(line)["request"], dict)
            except (orjson.JSONDecodeError, KeyError, TypeError):
                fits = False
            if not fits:
                scan.add("3", number, f"Line {number} of the input file is not a valid request. (simulated)")
    if not scan.total:
        scan.add("3", message="The input file is empty. (simulated)")
    return scan


def split_anthropic(source: BinaryIO, target: Path, limits: BatchLimits) -> Scan:
    """Write the elements of `requests` as lines, checked as the provider checks a create.

    Raises:
        Refused: 400 for the whole create, or 413.
    """
    scan, seen = Scan(), set[str]()
    with target.open("wb") as out:
        for index, (value, raw) in enumerate(_requests(_JsonStream(source))):
            custom_id = _custom_id(value, index)
            if custom_id in seen:
                raise Refused(Problem(400, f"requests.{index}.custom_id: duplicate custom_id '{custom_id}'"))
            seen.add(custom_id)
            scan.total += 1
            if scan.total > limits.requests:
                raise Refused(Problem(413, f"A batch may hold {limits.requests} requests. (simulated)"))
            params: Any = value["params"]
            scan.model = scan.model or str(params.get("model", ""))
            out.write(raw.encode() if "\n" not in raw else orjson.dumps(value))
            out.write(b"\n")
    if not scan.total:
        raise Refused(Problem(400, "requests: List should have at least 1 item after validation, not 0"))
    return scan


def _custom_id(value: dict[str, Any], index: int) -> str:
    place = f"requests.{index}"
    if not isinstance(value, dict):
        raise Refused(Problem(400, f"{place}: Input should be a valid dictionary"))
    for name in ("custom_id", "params"):
        if name not in value:
            raise Refused(Problem(400, f"{place}.{name}: Field required"))
    if extra := sorted(value.keys() - {"custom_id", "params"}):
        raise Refused(Problem(400, f"{place}.{extra[0]}: Extra inputs are not permitted"))
    if not isinstance(value["params"], dict):
        raise Refused(Problem(400, f"{place}.params: Input should be a valid dictionary"))
    custom_id = value["custom_id"]
    if not isinstance(custom_id, str) or not CUSTOM_ID.fullmatch(custom_id):
        raise Refused(Problem(400, f"{place}.custom_id: String should match pattern '{CUSTOM_ID.pattern}'"))
    return custom_id


def _requests(stream: _JsonStream) -> Iterator[tuple[dict[str, Any], str]]:
    stream.take("{")
    while stream.peek() != "}":
        name, _ = stream.value()
        stream.take(":")
        if name == "requests":
            yield from _elements(stream)
        else:
            raise Refused(Problem(400, f"{name}: Extra inputs are not permitted"))
        if stream.peek() == ",":
            stream.take(",")
    stream.take("}")


def _elements(stream: _JsonStream) -> Iterator[tuple[Any, str]]:
    stream.take("[")
    while stream.peek() != "]":
        yield stream.value()
        if stream.peek() == ",":
            stream.take(",")
    stream.take("]")


class _JsonStream:
    """A JSON text that is longer than one wants in memory."""

    def __init__(self, source: BinaryIO) -> None:
        decoder = codecs.getincrementaldecoder("utf-8")()
        self._read: Callable[[int], bytes] = source.read
        self._decode = decoder.decode
        self._parse = json.JSONDecoder().raw_decode
        self._text, self._at, self._over = "", 0, False

    def _more(self) -> None:
        """Read on; drop what was taken.

        Raises:
            Refused: 400, the text ends too early or is no UTF-8.
        """
        if self._over:
            raise Refused(Problem(400, "The request body is not valid JSON"))
        rest = self._text[self._at :]
        chunk = self._read(max(READ_CHARS, len(rest)))
        self._over = not chunk
        try:
            self._text, self._at = rest + self._decode(chunk, not chunk), 0
        except UnicodeDecodeError:
            raise Refused(Problem(400, "The request body is not valid UTF-8")) from None

    def peek(self) -> str:
        """Give the next character that is no space."""
        while True:
            while self._at < len(self._text) and self._text[self._at] in " \t\r\n":
                self._at += 1
            if self._at < len(self._text):
                return self._text[self._at]
            self._more()

    def take(self, wanted: str) -> None:
        """Take one character that must come now."""
        if self.peek() != wanted:
            raise Refused(Problem(400, "The request body is not valid JSON"))
        self._at += 1

    def value(self) -> tuple[Any, str]:
        """Take the next value; give it with its own text."""
        self.peek()
        while True:
            try:
                found, end = self._parse(self._text, self._at)
            except json.JSONDecodeError:
                self._more()
                continue
            if end == len(self._text) and not self._over:
                self._more()
                continue
            raw = self._text[self._at : end]
            self._at = end
            return found, raw
