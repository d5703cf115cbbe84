"""Every hostile name at every entry of the API: a 4xx or a generated name, and never a file outside the root."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing
from http.client import HTTPConnection
from pathlib import Path

import pytest

from batch_jobs.api.documents import JobForm
from batch_jobs.api.routes import _attachment
from batch_jobs.api.upload import MAX_NAME_BYTES, clean_name
from batch_jobs.errors import FileRefused
from batch_jobs.lifecycle.project import open_project
from batch_jobs.lifecycle.receive import Order, receive
from tests.acceptance import api_kit, hostile
from tests.acceptance.api_kit import MULTIPART, Reply, Server

GOOD = api_kit.csv_bytes(api_kit.losses(2, "HOST"))
NO_TABLE = b"a,b\n1,2\n"
FIELDS = tuple(name for name in JobForm.model_fields if name != "file")
USUAL = {"task": "summarize", "data_case": "external_loss", "mode": "concurrent"}
_GENERATED = re.compile(
    r"(\.incoming-)?[0-9a-f]{32}(/(upload\.(csv|tsv|psv|xlsx)|rows\.parquet|config\.json|output\.(csv|tsv|psv|xlsx)|manifest\.json|job\.log"
    r"|calls\.jsonl|pool\.json|(plan|prompt|round-\d+)(/.*)?))?"
)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Holds the root and the server's temp folder, so that whatever is written elsewhere is seen."""
    place = tmp_path_factory.mktemp("hostile-api")
    (place / "temp").mkdir()
    return place


@pytest.fixture(scope="module")
def server(place: Path) -> Iterator[Server]:
    with api_kit.serving(place / "root", "--sandbox", TMPDIR=str(place / "temp")) as server:
        server.batches_take(0.1)
        yield server


@pytest.fixture
def line(server: Server) -> Iterator[Line]:
    line = Line(server)
    with closing(line.connection):
        yield line


@pytest.fixture(autouse=True)
def nothing_is_anywhere_else(server: Server, place: Path) -> Iterator[None]:
    """Around each test: what lies beside the root stays, what lies in it has generated names, the server is well."""
    beside = {path.name for path in place.iterdir()}
    before = set(hostile.strays(server.root))
    yield
    assert {path.name for path in place.iterdir()} == beside
    assert set(hostile.strays(server.root)) == before
    assert not [name for name in api_kit.files_of(server.root) if hostile.MARK in name]
    for folder in ("batch_input", "batch_output"):
        kept = api_kit.files_of(server.root / folder)
        assert not [name for name in kept if not _GENERATED.fullmatch(name)]
    assert not [path for path in server.root.rglob("*") if path.is_symlink()]
    api_kit.wait_for(lambda: not api_kit.left_in(place / "temp"), "the temp folder is empty", 5)
    assert "Traceback" not in server.log.read_text(encoding="utf-8")
    assert server.get("/healthz").status == 200


class Line:
    """One connection that is kept, or opened anew after an answer with which the server closed it."""

    def __init__(self, server: Server) -> None:
        self.connection = HTTPConnection(*server.address, timeout=30)

    def ask(self, method: str, path: str, body: bytes = b"", headers: Mapping[str, str | bytes] | None = None) -> Reply:
        self.connection.putrequest(method, path, skip_accept_encoding=True)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.connection.putheader(name, value)
        self.connection.endheaders(body)
        response = self.connection.getresponse()
        return Reply(response.status, response.headers, response.read())

    def upload(self, content: bytes, disposition: bytes, **fields: bytes) -> Reply:
        body = b"".join(_part(name.encode(), value) for name, value in fields.items())
        body += _part(b"", content, disposition) + b"--" + api_kit.BOUNDARY.encode() + b"--\r\n"
        return self.ask("POST", "/jobs", body, MULTIPART)


def _part(name: bytes, value: bytes, disposition: bytes = b"") -> bytes:
    told = disposition or b'name="' + name + b'"'
    head = b"--" + api_kit.BOUNDARY.encode() + b"\r\nContent-Disposition: form-data; " + told
    return head + b"\r\n\r\n" + value + b"\r\n"


def _named(name: str) -> bytes:
    quoted = hostile.raw(name).replace(b"\\", b"\\\\").replace(b'"', b'\\"')
    return b'name="file"; filename="' + quoted + b'"'


def _refused(reply: Reply, *statuses: int) -> str:
    assert reply.status in statuses, (reply.status, reply.body)
    assert reply.headers["X-Content-Type-Options"] == "nosniff"
    kind: str = reply.error["type"]
    return kind


def test_there_are_enough_of_them() -> None:
    assert len(set(hostile.NAMES)) == len(hostile.NAMES) >= 200


def test_as_the_name_of_a_file_that_is_refused(server: Server, line: Line) -> None:
    before = api_kit.files_of(server.root / "batch_input")
    for name in hostile.NAMES:
        reply = line.upload(NO_TABLE, _named(f"{name}.csv"), **{k: v.encode() for k, v in USUAL.items()})
        assert _refused(reply, 400, 422) in {"FileRefused", "BadRequest", "InvalidRequest"}, name
    assert api_kit.files_of(server.root / "batch_input") == before


def test_as_the_name_of_a_file_that_is_kept(tmp_path: Path) -> None:
    """The same two calls that the route makes, without the poller: 100 jobs need not be planned for this."""
    project = open_project(api_kit.CONFIG, tmp_path / "root", simulated=True)
    (tmp_path / "upload").write_bytes(GOOD)
    kept, refused = set(), []
    with closing(project):
        for name in hostile.NAMES[::2]:
            order = Order(tmp_path / "upload", clean_name(f"{name}.csv"), "summarize", "external_loss")
            try:
                kept.add(receive(project, order).task_id)
            except FileRefused:
                refused.append(order.file_name)
    assert len(kept) + len(refused) == len(hostile.NAMES[::2])
    assert len(kept) > 100
    assert {path.name for path in (tmp_path / "root" / "batch_input").iterdir()} == kept
    assert {path.name for path in tmp_path.iterdir()} == {"root", "upload"}
    assert not hostile.strays(tmp_path / "root")
    files = {path.name for path in (tmp_path / "root" / "batch_input").rglob("*") if path.is_file()}
    assert files == {"upload.csv", "rows.parquet"}


@pytest.mark.soak
@pytest.mark.timeout(600)
def test_as_the_name_of_a_good_file_to_the_end_of_its_job(server: Server, line: Line) -> None:
    """In its short form this is among the refusals: each job takes a second of work."""
    begun = _begun(line, hostile.NAMES[::2])
    assert len(begun) > 80
    _follow(server, begun)


def _begun(line: Line, names: tuple[str, ...]) -> list[tuple[str, str]]:
    """Upload a good table under each name; returns those that were accepted, with their jobs."""
    fields = {name: value.encode() for name, value in USUAL.items()}
    replies = [(name, line.upload(GOOD, _named(f"{name}.csv"), **fields)) for name in names]
    for _, reply in replies:
        assert reply.status == 202 or _refused(reply, 400, 422)
    return [(name, reply.json["task_id"]) for name, reply in replies if reply.status == 202]


def _follow(server: Server, begun: list[tuple[str, str]]) -> None:
    for name, task_id in begun:
        job = server.done(task_id, 120)
        assert job["outcome"] == "complete", name
        assert len(job["file_name"].encode()) <= MAX_NAME_BYTES
        file = server.get(job["output"])
        assert file.status == 200
        assert _DISPOSITION.fullmatch(file.headers["Content-Disposition"]), file.headers["Content-Disposition"]


_DISPOSITION = re.compile(r"attachment; filename=\"[ -!#-\[\]-~]*\"; filename\*=UTF-8''[\w.%~-]+", re.ASCII)


def test_as_a_name_that_is_kept_and_told() -> None:
    """What the client's name becomes: one short part without controls, and a header that it can't break out of."""
    for name in (told for given in hostile.NAMES for told in (given, f"{given}.csv")):
        try:
            kept = clean_name(name)
        except FileRefused:
            continue
        assert not set(kept) & set("/\\\0\r\n"), name
        assert len(kept.encode()) <= MAX_NAME_BYTES
        assert clean_name(kept) == kept
        assert _DISPOSITION.fullmatch(_attachment(kept)), name


def test_as_a_task_id_in_every_route(server: Server, line: Line) -> None:
    document = server.get("/openapi.json").json
    routes = [
        (how.upper(), path) for path, methods in document["paths"].items() for how in methods if "{task_id}" in path
    ]
    assert len(routes) == 7
    for number, name in enumerate(hostile.NAMES):
        once, *others = hostile.in_paths(name)
        asked = [(once, *route) for route in routes] + [(other, *routes[number % len(routes)]) for other in others]
        for segment, method, path in asked if name else ():
            query = "?format=csv" if path.endswith("/export") else ""
            reply = line.ask(method, path.replace("{task_id}", segment) + query)
            assert _refused(reply, 404, 405) in {"JobNotFound", "NotFound", "MethodNotAllowed"}, (path, segment)


def test_as_a_number_or_a_word_in_a_query(line: Line) -> None:
    for number, name in enumerate(hostile.NAMES):
        query = ("limit", "stuck", "limit=2&stuck")[number % 3]
        reply = line.ask("GET", f"/jobs?{query}={hostile.in_paths(name)[0]}")
        assert reply.status == 422 or name in {"true", "0", "-1", "NUL"}, (query, name, reply.body)


def test_as_a_format_or_a_shape_of_a_file(server: Server, line: Line) -> None:
    """Of a job that is done: what is no name of a list is refused before anything is made of it."""
    task_id = server.start("a.csv", GOOD, mode="concurrent")
    server.done(task_id)
    before = api_kit.files_of(server.root / "batch_output")
    for name in hostile.NAMES:
        for query in ("export?format", "export?format=csv&format", "download?shape", "download?shape=rows&shape"):
            reply = line.ask("GET", f"/jobs/{task_id}/{query}={hostile.in_paths(name)[0]}")
            assert _refused(reply, 422) == "InvalidRequest", (query, name)
    assert api_kit.files_of(server.root / "batch_output") == before


@pytest.mark.parametrize("field", FIELDS)
def test_as_a_field_of_the_form(server: Server, line: Line, field: str) -> None:
    before = api_kit.files_of(server.root / "batch_input")
    for name in hostile.NAMES:
        fields = {**{k: v.encode() for k, v in USUAL.items()}, field: hostile.raw(name)}
        content = NO_TABLE if name == "" else GOOD  # an empty field is one that is left out
        reply = line.upload(content, b'name="file"; filename="a.csv"', **fields)
        kind = _refused(reply, 400, 422)
        assert kind in {"UnknownName", "InvalidRequest", "BadRequest", "FileRefused"}, (name, reply.body)
        assert len(reply.error["message"]) < 1_500
    assert api_kit.files_of(server.root / "batch_input") == before


def test_as_a_sheet_of_a_workbook(server: Server, line: Line) -> None:
    workbook = api_kit.xlsx_bytes(api_kit.losses(1, "SHEET"))
    for name in (name for name in hostile.NAMES if name):
        fields = {**{k: v.encode() for k, v in USUAL.items()}, "sheet": hostile.raw(name)}
        _refused(line.upload(workbook, b'name="file"; filename="a.xlsx"', **fields), 400, 422)


def test_as_a_field_nobody_knows_and_as_the_name_of_the_file_part(line: Line) -> None:
    fields = b"".join(_part(name.encode(), value.encode()) for name, value in USUAL.items())
    end = b"--" + api_kit.BOUNDARY.encode() + b"--\r\n"
    for name in hostile.NAMES:
        named = _named(name)
        for disposition in (named.replace(b'name="file"; file', b""), named.replace(b'name="file"; ', b"")):
            reply = line.ask("POST", "/jobs", fields + _part(b"", GOOD, disposition) + end, MULTIPART)
            _refused(reply, 400, 422)


def test_as_an_idempotency_key(server: Server, line: Line) -> None:
    """A key is kept as a digest only; one that can't be sent in a header at all is the client's own affair."""
    body = b"".join(_part(name.encode(), value.encode()) for name, value in USUAL.items())
    body += _part(b"", NO_TABLE, b'name="file"; filename="a.csv"') + b"--" + api_kit.BOUNDARY.encode() + b"--\r\n"
    sent = 0
    for name in hostile.NAMES:
        key = hostile.raw(name)
        if re.search(rb"[\x00\r\n]", key):
            continue
        reply = line.ask("POST", "/jobs", body, {**MULTIPART, "Idempotency-Key": key})
        if reply.body != b"Invalid HTTP request received.":  # a control character: refused before it is a request
            assert _refused(reply, 422) in {"InvalidRequest", "FileRefused"}
            sent += 1
    assert sent > 200
    with closing(sqlite3.connect(server.root / "store" / "ledger.sqlite", timeout=10)) as ledger:
        assert ledger.execute("SELECT count(*) FROM idempotency_keys").fetchone() == (0,)


def test_as_a_path_of_no_route_at_all(line: Line) -> None:
    heads = ("/", "/docs/", "/openapi.json/", "/tasks/", "/jobs/../")
    for number, name in enumerate(hostile.NAMES):
        for segment in filter(None, hostile.in_paths(name)):
            reply = line.ask("GET", heads[number % 5] + segment)
            assert _refused(reply, 404) == "NotFound", segment
