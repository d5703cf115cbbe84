"""Everything the API refuses: each status, one error shape, the command line's very words, and nothing left behind."""

from __future__ import annotations

import re
import socket
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance import api_kit
from tests.acceptance.api_kit import MULTIPART, Reply, Server

MAX_BYTES = 200_000
GOOD = api_kit.csv_bytes(api_kit.losses(2))
NO_JOB = "0" * 32
LONG = "x" * 300


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Holds the root and the server's temp folder, so that whatever is written elsewhere is seen."""
    place = tmp_path_factory.mktemp("api-refusals")
    (place / "temp").mkdir()
    return place


@pytest.fixture(scope="module")
def server(place: Path) -> Iterator[Server]:
    environ = {"TMPDIR": str(place / "temp"), "BATCH_JOBS__INTAKE__MAX_BYTES": str(MAX_BYTES)}
    with api_kit.serving(place / "root", "--sandbox", **environ) as server:
        yield server


@pytest.fixture(autouse=True)
def nothing_is_left(server: Server, place: Path) -> Iterator[None]:
    """After each test: no temp file, no half job, nothing beside the root."""
    yield
    api_kit.wait_for(lambda: not api_kit.left_in(place / "temp"), "the temp folder is empty", 5)
    assert {path.name for path in place.iterdir()} == {"root", "temp"}
    assert not list((place / "root" / "batch_input").glob(".incoming-*"))


def refused(reply: Reply, status: int, kind: str) -> str:
    assert reply.status == status, (reply.status, reply.body)
    assert reply.headers["X-Content-Type-Options"] == "nosniff"
    error = reply.error
    assert error["type"] == kind
    message: str = error["message"]
    return message


@pytest.mark.parametrize(
    ("fields", "kind", "says"),
    [
        ({"task": "sumarize"}, "UnknownName", 'there is no task "sumarize"; did you mean "summarize"?'),
        ({"data_case": "external_los"}, "UnknownName", 'did you mean "external_loss"?'),
        ({"mode": "bach"}, "UnknownName", 'there is no mode "bach"; did you mean "batch"?'),
        ({"provider": "open-ai"}, "UnknownName", 'there is no provider "open-ai"; did you mean "openai"?'),
        ({"model": "gpt-6-lunar"}, "UnknownName", 'did you mean "gpt-6-luna"?'),
        (
            {"provider": "anthropic", "model": "gpt-6-luna"},
            "UnknownName",
            'no model "gpt-6-luna" of provider "anthropic"',
        ),
        ({"sheet": "Sheet1"}, "FileRefused", "a text table has no sheets"),
        ({"task": None}, "InvalidRequest", '"task" is missing'),
        ({"data_case": None, "task": None}, "InvalidRequest", '"data_case" is missing'),
        ({"modle": "gpt-6-luna"}, "InvalidRequest", 'there is no field "modle"; did you mean "mode"?'),
        ({"task": LONG}, "InvalidRequest", "at most 200 characters"),
        ({"task": "{{7*7}}/../\u202e"}, "UnknownName", "there is no task"),
    ],
)
def test_a_wrong_field_is_422_and_says_what_is_right(
    server: Server, fields: dict[str, str | None], kind: str, says: str
) -> None:
    message = refused(server.upload("a.csv", GOOD, **fields), 422, kind)
    assert says in message
    assert LONG not in message


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.csv", b"", "a.csv"),
        ("a.csv", b"x,y\n1,2\n", "mandatory columns are missing"),
        ("a.csv", b"<!DOCTYPE html><html></html>", "web page"),
        ("a.xlsx", b"PK\x03\x04 cut short", "a.xlsx"),
        ("a.xlsx", GOOD, "a.xlsx"),
        ("a.exe", GOOD, "a.exe"),
        ("a.csv.html", GOOD, "a.csv.html"),
        ("noextension", GOOD, "noextension"),
        ("a.csv", b"\x7fELF" + bytes(100), "program"),
        ("", GOOD, "file"),
        ("..\\", GOOD, "no file name"),
    ],
)
def test_a_wrong_file_is_422_and_leaves_nothing(server: Server, name: str, content: bytes, says: str) -> None:
    before = api_kit.files_of(server.root / "batch_input")
    reply = server.upload(name, content)
    assert reply.status == 422
    assert says in reply.error["message"]
    assert api_kit.files_of(server.root / "batch_input") == before


@pytest.mark.parametrize(
    ("content", "fields"),
    [(b"x,y\n1,2\n", {}), (GOOD, {"task": "sumarize"}), (b"%PDF-1.7 x", {})],
)
def test_the_message_is_the_command_lines(server: Server, content: bytes, fields: dict[str, str]) -> None:
    path = server.root / "said.csv"
    path.write_bytes(content)
    asked = {"task": "summarize", "data_case": "external_loss", **fields}
    options = [part for name, value in asked.items() for part in (f"--{name}", value)]
    told = api_kit.command_line(server.root, "run", "--file", str(path), "--sandbox", "--yes", *options)
    reply = server.upload("said.csv", content, **fields)
    assert told.stderr.strip() == f"error  {reply.error['message']}"
    assert told.returncode == reply.error["exit_code"] == 2


def test_a_body_that_is_no_form_is_refused(server: Server) -> None:
    assert server.ask("POST", "/jobs").status == 422
    assert server.ask("POST", "/jobs", b'{"task": 1}', {"Content-Type": "application/json"}).status == 422
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    assert server.ask("POST", "/jobs", b"task=summarize&file=x", form).status == 422
    refused(server.ask("POST", "/jobs", b"no multipart at all", MULTIPART), 400, "BadRequest")
    twice = api_kit.multipart([], None, b"", disposition=b'name="file"; filename="b.csv"')
    both = api_kit.multipart([("task", "x")], "a.csv", GOOD).rsplit(b"--" + api_kit.BOUNDARY.encode() + b"--", 1)[0]
    refused(server.ask("POST", "/jobs", both + twice, MULTIPART), 400, "BadRequest")


HOSTILE_NAMES = [
    (b'filename="../../../evil.csv"', "evil.csv"),
    (b'filename="..\\\\..\\\\evil.csv"', "evil.csv"),
    (b'filename="/etc/cron.d/evil.csv"', "evil.csv"),
    (b'filename="C:\\\\temp\\\\evil.csv"', "evil.csv"),
    (b'filename="nul\x00byte.csv"', "nulbyte.csv"),
    ('filename="\u202evsc.\u200bмир✓.csv"'.encode(), "vsc.мир✓.csv"),
    (b'filename="' + b"n" * 300 + b'.csv"', "n" * 196 + ".csv"),
    (b'filename="<script>alert(1)</script>.csv"', "script>.csv"),
    (b'filename="%2e%2e%2fevil.csv"', "%2e%2e%2fevil.csv"),
    (b"filename*=UTF-8''..%2F..%2Fevil.csv", None),
    (b'filename="=cmd|calc;x=\xff\xfe.CSV"', "=cmd|calc;x=\xff\xfe.CSV"),
]


def test_a_hostile_file_name_is_only_ever_data(server: Server) -> None:
    begun: list[tuple[str, str]] = []
    for disposition, kept in HOSTILE_NAMES:
        reply = server.upload(None, GOOD, b'name="file"; ' + disposition, mode="concurrent")
        if kept is None:
            assert reply.status in {202, 422}
            continue
        assert reply.status == 202, (disposition, reply.body)
        begun.append((reply.json["task_id"], kept))
    for task_id, kept in begun:
        job = server.done(task_id)
        assert job["file_name"] == kept
        file = server.get(job["output"])
        assert file.status == 200
        told = file.headers["Content-Disposition"]
        assert re.fullmatch(r"attachment; filename=\"[^\"\\]*\"; filename\*=UTF-8''[\w.%~-]+", told, re.ASCII), told
    names = {path.name for path in (server.root / "batch_input").glob("*/upload*")}
    assert names == {"upload.csv"}
    assert not [name for name in api_kit.files_of(server.root) if "evil" in name]


HOSTILE_IDS = [
    "..",
    "..%2f..%2fstore%2fledger.sqlite",
    "%2e%2e%2f%2e%2e%2fetc%2fpasswd",
    "....//....//etc",
    "%00",
    f"{NO_JOB[:31]}%00",
    f"{NO_JOB}%0a",
    NO_JOB.upper().replace("0", "A"),
    LONG,
    "CON",
    "%F0%9F%92%A9",
    "%ff%fe",
    "\u0660".encode().hex(),
    "a' OR 1=1 --".replace(" ", "%20"),
    "%252e%252e%252f",
    NO_JOB,
]


@pytest.mark.parametrize("hostile", HOSTILE_IDS)
def test_a_hostile_task_id_is_404(server: Server, hostile: str) -> None:
    for method, tail in (
        ("GET", ""),
        ("GET", "/download"),
        ("GET", "/events"),
        ("GET", "/report"),
        ("POST", "/cancel"),
        ("POST", "/resume"),
    ):
        reply = server.ask(method, f"/jobs/{hostile}{tail}")
        assert reply.status == 404, (hostile, tail, reply.body)
        assert reply.error["type"] in {"JobNotFound", "NotFound"}


def test_other_addresses_and_methods(server: Server) -> None:
    refused(server.get("/nothing"), 404, "NotFound")
    refused(server.get("/jobs/"), 404, "NotFound")
    for method, path, allowed in (
        ("DELETE", "/jobs", "GET, POST"),
        ("OPTIONS", "/jobs?limit=1", "GET, POST"),
        ("POST", f"/jobs/{NO_JOB}", "GET"),
        ("GET", f"/jobs/{NO_JOB}/cancel", "POST"),
        ("POST", "/healthz", "GET"),
    ):
        reply = server.ask(method, path)
        refused(reply, 405, "MethodNotAllowed")
        assert reply.headers["Allow"] == allowed, (method, path)
    refused(server.ask("PUT", f"/jobs/{NO_JOB}"), 405, "MethodNotAllowed")
    refused(server.get("/jobs?limit=0"), 422, "InvalidRequest")
    refused(server.get("/jobs?limit=ten"), 422, "InvalidRequest")
    refused(server.get(f"/jobs/{NO_JOB}/events?after=-1"), 422, "InvalidRequest")


def test_a_chunked_upload_over_the_limit_is_413_and_takes_no_memory(server: Server) -> None:
    """Without Content-Length: only counting while it comes in can stop it."""
    before = _resident_bytes(server)
    start = api_kit.multipart([("task", "summarize")], "big.csv", GOOD).rpartition(b"\r\n--")[0]

    def body() -> Iterator[bytes]:
        yield start
        for _ in range(1_200):
            yield b"x" * 65_536

    reply = server.ask("POST", "/jobs", body(), MULTIPART)
    assert f"{MAX_BYTES:,} bytes" in refused(reply, 413, "FileTooLarge")
    assert reply.headers["Connection"] == "close"
    assert _resident_bytes(server) - before < 30_000_000


def test_a_declared_length_over_the_limit_is_refused_before_anything_is_sent(server: Server) -> None:
    with socket.create_connection(server.address, timeout=10) as client:
        head = f"POST /jobs HTTP/1.1\r\nHost: localhost\r\nContent-Type: {MULTIPART['Content-Type']}\r\n"
        client.sendall(f"{head}Content-Length: {10**12}\r\n\r\n".encode())
        assert client.recv(1_000).startswith(b"HTTP/1.1 413 ")


def test_a_client_that_never_stops_sending_is_cut_off(server: Server) -> None:
    with socket.create_connection(server.address, timeout=10) as client:
        head = f"POST /jobs HTTP/1.1\r\nHost: localhost\r\nContent-Type: {MULTIPART['Content-Type']}\r\n"
        client.sendall(f"{head}Content-Length: {10**12}\r\n\r\n".encode())
        end = time.monotonic() + 15
        with pytest.raises(OSError, match=r"reset|Broken pipe"):
            while time.monotonic() < end:
                client.sendall(b"x" * 65_536)


def test_a_file_just_over_the_limit_is_413_too(server: Server) -> None:
    refused(server.upload("big.csv", b"x" * (MAX_BYTES + 1)), 413, "FileTooLarge")


def test_an_upload_that_breaks_off_leaves_nothing_and_harms_nobody(server: Server) -> None:
    with socket.create_connection(server.address, timeout=10) as client:
        head = f"POST /jobs HTTP/1.1\r\nHost: localhost\r\nContent-Type: {MULTIPART['Content-Type']}\r\n"
        client.sendall(f"{head}Content-Length: 100000\r\n\r\n".encode() + api_kit.multipart([], "a.csv", GOOD)[:-60])
    assert server.get("/healthz").status == 200


def test_a_bug_is_500_without_anything_of_the_inside(server: Server) -> None:
    task_id = server.start("bug.csv", GOOD, mode="concurrent")
    server.done(task_id)
    with sqlite3.connect(server.root / "store" / "ledger.sqlite", timeout=10) as ledger:
        ledger.execute("UPDATE jobs SET outcome = 'canary-of-the-inside' WHERE task_id = ?", (task_id,))
    reply = server.get(f"/jobs/{task_id}")
    message = refused(reply, 500, "Bug")
    assert reply.error["exit_code"] == 1
    assert "canary" not in message
    assert "canary-of-the-inside" in server.log.read_text(encoding="utf-8"), "the traceback is in the log"
    with sqlite3.connect(server.root / "store" / "ledger.sqlite", timeout=10) as ledger:
        ledger.execute("UPDATE jobs SET outcome = 'complete' WHERE task_id = ?", (task_id,))


def test_a_store_that_can_not_be_written_is_507_and_leaves_no_job(server: Server) -> None:
    kept, aside = server.root / "batch_input", server.root / "batch_input.aside"
    kept.rename(aside)
    kept.write_text("a file where the folder should be")
    try:
        before = server.get("/jobs").json
        message = refused(server.upload("a.csv", GOOD), 507, "StoreError")
        assert "batch_input" in message
        assert server.get("/jobs").json == before
    finally:
        kept.unlink()
        aside.rename(kept)
    assert server.upload("a.csv", GOOD).status == 202


def test_no_body_is_ever_logged(server: Server) -> None:
    server.upload("canary.csv", api_kit.csv_bytes(api_kit.losses(2, "CANARY")), task="canary-task")
    log = server.log.read_text(encoding="utf-8")
    assert "CANARY0000X" not in log
    assert "canary-task" not in log


def _resident_bytes(server: Server) -> int:
    status = Path(f"/proc/{server.process.pid}/status").read_text(encoding="ascii")
    found = re.search(r"VmRSS:\s+(\d+) kB", status)
    assert found
    return int(found.group(1)) * 1024
