"""The real server as a process on a root of its own, and a client that is nothing but http.client."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from email.message import Message
from http.client import HTTPConnection
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import openpyxl
import pyarrow as pa
import pyarrow.parquet as pq

REPOSITORY = Path(__file__).resolve().parents[2]
CONFIG = REPOSITORY / "config.json"
WAIT_SECONDS = 90.0
LOOK_SECONDS = 0.03
QUICK = {
    "BATCH_JOBS__POLLING__MIN_SECONDS": "0.05",
    "BATCH_JOBS__POLLING__MAX_SECONDS": "0.2",
    "BATCH_JOBS__CONCURRENT__MIN_WAIT_SECONDS": "0.01",
    "BATCH_JOBS__CONCURRENT__MAX_WAIT_SECONDS": "0.05",
    "BATCH_JOBS__SUBMISSION__QUARANTINE_SECONDS": "0.5",
}
_ADDRESS = re.compile(r"Uvicorn running on (http://\S+)")
_SECRETS = ("_API_KEY", "_API_KEYS", "_BASE_URL", "BATCH_JOBS_")
BOUNDARY = "----batch-jobs-test-boundary"
T = TypeVar("T")


def environment(**extra: str) -> dict[str, str]:
    """The environment of every process here: no key, no address of a provider, quick polling."""
    kept = {name: value for name, value in os.environ.items() if not any(part in name for part in _SECRETS)}
    return {**kept, **QUICK, **extra}


def left_in(temp: Path) -> list[Path]:
    """What an upload left in the temp folder; where worker processes meet (multiprocessing's) stays with the server."""
    return [path for path in temp.iterdir() if not path.name.startswith("pymp-")]


def wait_for(look: Callable[[], T | None], what: str, seconds: float = WAIT_SECONDS) -> T:
    """Ask until there is an answer, for a bounded time."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found = look()
        if found:
            return found
        time.sleep(LOOK_SECONDS)
    raise AssertionError(f"{what}: not within {seconds} s")


@dataclass(frozen=True)
class Reply:
    """One HTTP response, read to its end."""

    status: int
    headers: Message
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> dict[str, Any]:
        """The error of a refused request; nothing else may be in the document."""
        document = self.json
        assert list(document) == ["error"], document
        error: dict[str, Any] = document["error"]
        assert list(error) == ["type", "message", "exit_code"], error
        assert error["message"]
        return error


def multipart(
    fields: Iterable[tuple[str, str]], name: str | None, content: bytes, *, disposition: bytes | None = None
) -> bytes:
    """A multipart body with a file part last; `disposition` stands in for its parameters, byte for byte."""
    body = io.BytesIO()
    for key, value in fields:
        body.write(f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{key}"\r\n\r\n{value}\r\n'.encode())
    if name is not None or disposition is not None:
        told = disposition if disposition is not None else f'name="file"; filename="{name}"'.encode()
        body.write(f"--{BOUNDARY}\r\nContent-Disposition: form-data; ".encode() + told)
        body.write(b"\r\nContent-Type: application/octet-stream\r\n\r\n" + content + b"\r\n")
    body.write(f"--{BOUNDARY}--\r\n".encode())
    return body.getvalue()


MULTIPART = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}


@dataclass
class Server:
    """One server process."""

    process: subprocess.Popen[bytes]
    url: str
    root: Path
    log: Path
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def address(self) -> tuple[str, int]:
        parts = urlsplit(self.url)
        assert parts.hostname and parts.port
        return parts.hostname, parts.port

    def ask(
        self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None, *, bare: bool = False
    ) -> Reply:
        """One request on a connection of its own; `bare` leaves the key out."""
        connection = HTTPConnection(*self.address, timeout=60)
        try:
            sent = {**({} if bare else self.headers), **(headers or {})}
            connection.request(method, path, body, sent, encode_chunked=hasattr(body, "__next__"))
            response = connection.getresponse()
            return Reply(response.status, response.headers, response.read())
        finally:
            connection.close()

    def get(self, path: str, **options: Any) -> Reply:
        return self.ask("GET", path, **options)

    def upload(
        self, name: str | None, content: bytes, disposition: bytes | None = None, /, **fields: str | None
    ) -> Reply:
        """POST /jobs; fields replace the usual ones, None leaves one out."""
        asked: dict[str, str | None] = {"task": "summarize", "data_case": "external_loss", **fields}
        given = [(key, value) for key, value in asked.items() if value is not None]
        return self.ask("POST", "/jobs", multipart(given, name, content, disposition=disposition), MULTIPART)

    def start(self, name: str, content: bytes, **fields: str | None) -> str:
        """Upload what must be accepted; returns the task_id."""
        reply = self.upload(name, content, **fields)
        assert reply.status == 202, (reply.status, reply.body)
        task_id: str = reply.json["task_id"]
        return task_id

    def done(self, task_id: str, seconds: float = WAIT_SECONDS) -> dict[str, Any]:
        """Wait until a job is done; returns its document."""

        def look() -> dict[str, Any] | None:
            document: dict[str, Any] = self.get(f"/jobs/{task_id}").json
            return document if document["status"] == "done" else None

        return wait_for(look, f"job {task_id} done", seconds)

    def stop(self) -> int:
        """SIGTERM; returns the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(WAIT_SECONDS)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(WAIT_SECONDS)

    def sandbox(self, method: str, path: str, body: bytes | None = None) -> Any:
        """Ask the sandbox behind the server."""
        url = json.loads((self.root / "store" / "sandbox" / "server.json").read_bytes())["url"]
        request = urllib.request.Request(f"{url}/sandbox/{path}", body, method=method)
        with urllib.request.urlopen(request, timeout=10) as reply:
            return json.loads(reply.read())

    def batches_take(self, seconds: float, **behaviour: Any) -> None:
        """Set how long the sandbox's batches take from now on."""
        self.sandbox("PUT", "behaviour", json.dumps({"batch_seconds": seconds, **behaviour}).encode())


PROGRAM = ("-m", "batch_jobs")


def start(
    root: Path,
    *options: str,
    config: Path = CONFIG,
    keys: str = "",
    program: tuple[str, ...] = PROGRAM,
    **environ: str,
) -> Server:
    """Start a server and wait until it listens; `program` stands in for the command that is run."""
    root.mkdir(parents=True, exist_ok=True)
    log = root / f"server-{time.monotonic_ns()}.log"
    extra = {"BATCH_JOBS_API_KEYS": keys} if keys else {}
    command = [sys.executable, *program, "serve", "--port", "0", "--config", str(config), "--root", str(root)]
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*command, *options],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            cwd=root,
            env=environment(**extra, **environ),
        )

    def listens() -> str | None:
        said = log.read_text(encoding="utf-8")
        assert process.poll() is None, said
        found = _ADDRESS.search(said)
        return found.group(1) if found else None

    headers = {"Authorization": f"Bearer {keys.split(',')[0].strip()}"} if keys else {}
    return Server(process, wait_for(listens, "the server listens"), root, log, headers)


def end(server: Server) -> None:
    """Kill what is left of a server."""
    if server.process.poll() is None:
        server.kill()


def end_sandbox(root: Path) -> None:
    """Kill the sandbox of a root, if one runs."""
    with contextlib.suppress(OSError, ValueError, KeyError):
        os.kill(int(json.loads((root / "store" / "sandbox" / "server.json").read_bytes())["pid"]), signal.SIGKILL)


@contextlib.contextmanager
def serving(root: Path, *options: str, **settings: Any) -> Iterator[Server]:
    """A server for the block, with its sandbox when `--sandbox` is among the options."""
    try:
        server = start(root, *options, **settings)
        try:
            yield server
        finally:
            end(server)
    finally:
        end_sandbox(root)


def command_line(
    root: Path, *arguments: str, program: tuple[str, ...] = PROGRAM, **environ: str
) -> subprocess.CompletedProcess[str]:
    """One command of the command line on the same root."""
    command = [sys.executable, *program, *arguments, "--config", str(CONFIG), "--root", str(root)]
    return subprocess.run(
        command, capture_output=True, text=True, cwd=root, env=environment(**environ), timeout=150, check=False
    )


HEADER = ["event_id", "DescriptionOfEvent", "nfr_taxonomy"]


def losses(rows: int, mark: str = "Q") -> list[list[str]]:
    """Rows whose answers tell which row they belong to: each sentence holds the row's own mark."""
    return [
        [f"{n:04d}", f"Payment {mark}{n:04d}X was sent twice to client {mark}{n:04d}X.", "Fraud"] for n in range(rows)
    ]


def csv_bytes(rows: Iterable[list[str]], header: list[str] | None = None) -> bytes:
    text = io.StringIO()
    csv.writer(text).writerows([header or HEADER, *rows])
    return text.getvalue().encode()


def xlsx_bytes(rows: Iterable[list[str]]) -> bytes:
    book = openpyxl.Workbook()
    sheet = book.active
    assert sheet is not None
    for row in [HEADER, *rows]:
        sheet.append(row)
    content = io.BytesIO()
    book.save(content)
    return content.getvalue()


def jsonl_bytes(rows: Iterable[list[str]]) -> bytes:
    return "".join(json.dumps(dict(zip(HEADER, row, strict=True))) + "\n" for row in rows).encode()


def parquet_bytes(rows: Iterable[list[str]]) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist([dict(zip(HEADER, row, strict=True)) for row in rows]), sink)
    return bytes(sink.getvalue().to_pybytes())


def jsonl_rows(content: bytes) -> list[list[str]]:
    objects = [json.loads(line) for line in content.splitlines()]
    return [list(objects[0]), *(list(each.values()) for each in objects)]


def parquet_rows(content: bytes) -> list[list[str]]:
    table = pq.read_table(io.BytesIO(content))
    return [table.column_names, *(list(row.values()) for row in table.to_pylist())]


def csv_rows(content: bytes) -> list[list[str]]:
    return list(csv.reader(io.StringIO(content.decode("utf-8-sig"))))


def xlsx_rows(content: bytes) -> list[list[str]]:
    sheet = openpyxl.load_workbook(io.BytesIO(content)).active
    assert sheet is not None
    return [["" if cell is None else str(cell) for cell in row] for row in sheet.iter_rows(values_only=True)]


KINDS: dict[str, tuple[Callable[[Iterable[list[str]]], bytes], Callable[[bytes], list[list[str]]]]] = {
    "csv": (csv_bytes, csv_rows),
    "xlsx": (xlsx_bytes, xlsx_rows),
    "jsonl": (jsonl_bytes, jsonl_rows),
    "ndjson": (jsonl_bytes, jsonl_rows),
    "parquet": (parquet_bytes, parquet_rows),
}
"""How a table is written and read, by the ending of its name."""


def check_answers(table: list[list[str]], rows: list[list[str]], mark: str = "Q") -> None:
    """Every row came back as it was, in its place, with its own answer."""
    assert table[0] == [*HEADER, "summary", "summarize_status"]
    assert [line[:3] for line in table[1:]] == rows
    for number, line in enumerate(table[1:]):
        assert line[4] == "ok", line
        assert set(re.findall(rf"{mark}\d{{4}}X", line[3])) == {f"{mark}{number:04d}X"}, line


def files_of(root: Path) -> set[str]:
    """Every file and folder below a root."""
    return {str(path.relative_to(root)) for path in root.rglob("*")}
