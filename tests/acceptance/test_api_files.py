"""The files of a done job over HTTP: exports in every format and both shapes of the output, as the command line's."""

from __future__ import annotations

import contextlib
import json
import re
import socket
import struct
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from batch_jobs.api.routes import MEDIA_TYPES
from batch_jobs.output.export import ExportFormat
from batch_jobs.storage.files import sha256_of
from tests.acceptance import api_kit
from tests.acceptance.api_kit import Reply, Server
from tests.acceptance.kit import Cli, Result
from tests.acceptance.pages import follow

FORMATS = tuple(ExportFormat)
REFUSED = "QX0003X"
"""In the row whose answer the sandbox refuses."""
MANY_ROWS = 20_000
NO_JOB = "0" * 32


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with api_kit.serving(tmp_path_factory.mktemp("api-files"), "--sandbox") as server:
        server.batches_take(0.1, faults=[{"kind": "item_refused", "match": REFUSED}])
        yield server


@pytest.fixture(autouse=True)
def nothing_is_left(server: Server) -> Iterator[None]:
    """After each test: no temp file in any folder of a job, no bug in the log, and the server is well."""
    yield
    api_kit.wait_for(lambda: not list((server.root / "batch_output").rglob("*.tmp")), "no temp file is left", 10)
    assert "Traceback" not in server.log.read_text(encoding="utf-8")
    assert server.get("/healthz").status == 200


@pytest.fixture(scope="module")
def done(server: Server) -> str:
    """A done job of seven rows, one of them refused, under a name that is not ASCII."""
    rows = [*api_kit.losses(6, "QX"), ["=1+1", "A loss without a name was booked twice.", "a;b|c\td"]]
    task_id = server.start("Verluste Zürich.csv", api_kit.csv_bytes(rows), mode="batch")
    assert server.done(task_id)["outcome"] == "partial"
    return task_id


def kept(server: Server, task_id: str, fmt: str) -> Path:
    return server.root / "batch_output" / task_id / "exports" / f"rows.{fmt}"


def tell(root: Path, *arguments: str | Path) -> Result:
    """One command of the command line on a server's root."""
    return Cli(root)(*arguments, "--config", api_kit.CONFIG, "--root", root)


def by_hand(server: Server, task_id: str, fmt: str) -> Path:
    """What the command line exports."""
    target = server.root / f"by-hand.{fmt}"
    told = tell(server.root, "export", task_id, "--format", fmt, "--output", target)
    assert told.code == 0, told.err
    return target


def check_same(reply: Reply, status: int, kind: str, told: str) -> None:
    """The error is the command line's very text."""
    assert (reply.status, reply.error["type"]) == (status, kind), reply.body
    assert told.strip() == f"error  {reply.error['message']}"


@pytest.mark.parametrize("fmt", FORMATS)
def test_an_export_is_the_command_lines_byte_for_byte(server: Server, done: str, fmt: str) -> None:
    reply = server.get(f"/jobs/{done}/export?format={fmt}")
    assert reply.status == 200
    assert reply.body == by_hand(server, done, fmt).read_bytes()
    assert reply.headers["Content-Type"].partition(";")[0] == MEDIA_TYPES[f".{fmt}"]
    name = f"filename=\"Verluste Z_rich.summarize.export.{fmt}\"; filename*=UTF-8''Verluste%20Z%C3%BCrich.summarize"
    assert reply.headers["Content-Disposition"] == f"attachment; {name}.export.{fmt}"
    assert reply.headers["X-Content-Type-Options"] == "nosniff"
    assert reply.headers["Content-Length"] == str(len(reply.body))
    assert "X-Cells-Cut" not in reply.headers


def test_a_part_of_an_export_can_be_had(server: Server, done: str) -> None:
    """A download that broke off goes on: of the very same file, which If-Range makes sure of."""
    whole = server.get(f"/jobs/{done}/export?format=jsonl")
    part = {"Range": "bytes=100-199", "If-Range": whole.headers["ETag"]}
    rest = server.get(f"/jobs/{done}/export?format=jsonl", headers=part)
    assert (rest.status, rest.body) == (206, whole.body[100:200])


def test_an_export_is_made_once_and_anew_only_for_another_reason(server: Server, done: str) -> None:
    path = kept(server, done, "csv")
    first = server.get(f"/jobs/{done}/export?format=csv")
    before = path.stat()
    again = server.get(f"/jobs/{done}/export?format=csv")
    assert again.body == first.body
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)

    notes = path.with_name("rows.csv.inputs")
    for damage in (
        lambda: notes.write_text(json.dumps({"inputs_sha256": "of another version", "cells_cut": 0})),
        lambda: notes.write_bytes(b"no JSON"),
        notes.unlink,
        path.unlink,
    ):
        path.write_bytes(b"stale")
        damage()
        assert server.get(f"/jobs/{done}/export?format=csv").body == first.body
        assert path.read_bytes() == first.body
    assert tell(server.root, "check-store").code == 0


def test_what_a_killed_process_left_is_removed_by_the_next_export(server: Server, done: str) -> None:
    left = kept(server, done, "psv").with_name(".0123456789abcdef.tmp")
    left.parent.mkdir(exist_ok=True)
    kept(server, done, "psv").unlink(missing_ok=True)
    left.write_bytes(b"half an export")
    assert server.get(f"/jobs/{done}/export?format=psv").status == 200
    assert not left.exists()


def test_cells_that_a_worksheet_can_not_hold_are_told(server: Server) -> None:
    rows = api_kit.losses(3, "LONG")
    rows[1][0] = rows[2][0] = "x" * 40_000
    task_id = server.start("long.csv", api_kit.csv_bytes(rows), mode="batch")
    server.done(task_id)
    for _ in range(2):
        reply = server.get(f"/jobs/{task_id}/export?format=xlsx")
        assert (reply.status, reply.headers["X-Cells-Cut"]) == (200, "2")
    assert "X-Cells-Cut" not in server.get(f"/jobs/{task_id}/export?format=csv").headers


@pytest.fixture(scope="module")
def large(server: Server) -> str:
    """A done job whose export is far larger than what a connection holds under way."""
    rows = [[f"{n}", "A payment was sent twice.", f"Fraud {'x' * 300}"] for n in range(MANY_ROWS)]
    task_id = server.start("large.csv", api_kit.csv_bytes(rows), mode="concurrent")
    assert server.done(task_id)["items"] == 1
    return task_id


def test_many_requests_at_once_have_one_file_made(server: Server, large: str) -> None:
    def ask(fmt: str) -> tuple[Reply, int]:
        reply = server.get(f"/jobs/{large}/export?format={fmt}")
        return reply, kept(server, large, fmt).stat().st_ino

    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(ask, ["csv", "csv", "csv", "csv", "tsv", "csv"]))
    assert {reply.status for reply, _ in found} == {200}
    assert len({inode for _, inode in found}) == 2
    assert {len(reply.body) for reply, _ in found} == {len(found[0][0].body)}
    assert len({reply.body for reply, _ in found}) == 2
    assert len(found[0][0].body) > 6_000_000
    assert sha256_of(kept(server, large, "csv")) == sha256_of(by_hand(server, large, "csv"))


@pytest.mark.parametrize("read", [0, 1, 200_000])
def test_a_client_that_goes_away_harms_nobody(server: Server, large: str, read: int) -> None:
    """While it is made, at its first byte, half-way: the file is whole for the next one, and no descriptor stays."""
    path = kept(server, large, "jsonl")
    if not read:
        path.unlink(missing_ok=True)
    with socket.create_connection(server.address, timeout=60) as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # a reset, not an orderly end
        client.sendall(f"GET /jobs/{large}/export?format=jsonl HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        got = 0
        while got < read:
            got += len(client.recv(65_536))
    reply = server.get(f"/jobs/{large}/export?format=jsonl")
    assert (reply.status, len(reply.body)) == (200, path.stat().st_size)
    assert reply.body.count(b"\n") == MANY_ROWS
    api_kit.wait_for(lambda: str(path) not in _open_files(server), "the file is closed", 10)


def _open_files(server: Server) -> set[str]:
    found = set()
    for link in Path(f"/proc/{server.process.pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            found.add(str(link.readlink()))
    return found


def test_a_format_or_a_job_that_there_is_not(server: Server, done: str) -> None:
    for query, says in (("?format=xml", [f"'{fmt}'" for fmt in FORMATS]), ("", ['"format" is missing'])):
        reply = server.get(f"/jobs/{done}/export{query}")
        assert (reply.status, reply.error["type"], reply.error["exit_code"]) == (422, "InvalidRequest", 2)
        assert all(text in reply.error["message"] for text in says), reply.error
    reply = server.get(f"/jobs/{NO_JOB}/export?format=csv")
    assert (reply.status, reply.error["type"], reply.error["exit_code"]) == (404, "JobNotFound", 2)


def test_an_export_before_the_job_is_done_is_409(server: Server) -> None:
    faults = [{"kind": "item_refused", "match": REFUSED}]
    server.batches_take(3_600, faults=faults)
    task_id = server.start("early.csv", api_kit.csv_bytes(api_kit.losses(2, "EARLY")), mode="batch")
    api_kit.wait_for(lambda: server.get(f"/jobs/{task_id}").json["phase"] == "running", "the job runs")
    server.batches_take(0.1, faults=faults)
    told = tell(server.root, "export", task_id, "--format", "csv")
    assert told.code == 5
    check_same(server.get(f"/jobs/{task_id}/export?format=csv"), 409, "WrongMoment", told.err)
    for shape in ("rows", "groups"):
        reply = server.get(f"/jobs/{task_id}/download?shape={shape}")
        assert (reply.status, reply.error["type"], reply.error["exit_code"]) == (409, "WrongMoment", 5)
    assert server.ask("POST", f"/jobs/{task_id}/cancel").status == 202
    server.done(task_id)
    assert server.get(f"/jobs/{task_id}/export?format=csv").body == by_hand(server, task_id, "csv").read_bytes()


def test_a_job_whose_prompt_is_gone_is_507_and_leaves_nothing(server: Server) -> None:
    task_id = server.start("gone.csv", api_kit.csv_bytes(api_kit.losses(2, "GONE")), mode="concurrent")
    server.done(task_id)
    (prompt,) = (path for path in (server.root / "batch_input" / task_id / "prompt").iterdir() if path.is_file())
    prompt.rename(prompt.with_suffix(".aside"))
    told = tell(server.root, "export", task_id, "--format", "csv", "--output", "gone.csv")
    assert told.code == 4
    check_same(server.get(f"/jobs/{task_id}/export?format=csv"), 507, "StoreError", told.err)
    assert not list((server.root / "batch_output" / task_id).glob("exports/*"))
    prompt.with_suffix(".aside").rename(prompt)
    assert server.get(f"/jobs/{task_id}/export?format=csv").status == 200


def test_a_job_that_was_cancelled_before_it_was_planned(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(api_kit.csv_bytes(api_kit.losses(1)))
    case = ("--task", "summarize", "--data-case", "external_loss", "--sandbox", "--json")
    task_id = tell(tmp_path, "stage", "ingest", "--file", "a.csv", *case).json["task_id"]
    assert tell(tmp_path, "cancel", task_id).code == 3
    told = tell(tmp_path, "export", task_id, "--format", "csv")
    with api_kit.serving(tmp_path, "--sandbox") as alone:
        check_same(alone.get(f"/jobs/{task_id}/export?format=csv"), 409, "WrongMoment", told.err)
        assert alone.get(f"/jobs/{task_id}/download?shape=groups").error["type"] == "WrongMoment"


def test_a_shape_that_a_job_has_not_is_422(server: Server, done: str) -> None:
    told = tell(server.root, "status", done, "--output", "g.csv", "--output-shape", "groups")
    assert told.code == 2
    error = next(line for line in told.err.splitlines() if line.startswith("error"))
    check_same(server.get(f"/jobs/{done}/download?shape=groups"), 422, "UserError", error)
    rows = server.get(f"/jobs/{done}/download?shape=rows")
    assert (rows.status, rows.body) == (200, server.get(f"/jobs/{done}/download").body)
    reply = server.get(f"/jobs/{done}/download?shape=cells")
    assert (reply.status, reply.error["type"]) == (422, "InvalidRequest")
    assert "'rows' or 'groups'" in reply.error["message"]
    assert not list((server.root / "batch_output" / done).glob("groups*"))


@pytest.mark.parametrize(("kind", "suffix"), [("csv", "csv"), ("xlsx", "xlsx"), ("ndjson", "csv")])
def test_a_line_a_group_as_the_command_line_writes_it(cli: Cli, kind: str, suffix: str) -> None:
    follow(cli, "groups.md", "prompt_lib/pattern.yaml")
    rows = [[f"{n}", f"Loss {n} was booked twice.", ("Fraud", "+1+1")[n % 2]] for n in range(9)]
    with api_kit.serving(cli.folder, config=cli.folder / "config.json", **cli.environ) as server:
        task_id = server.start(f"Fälle.{kind}", api_kit.KINDS[kind][0](rows), task="pattern", mode="batch")
        server.done(task_id)
        with ThreadPoolExecutor(3) as pool:
            first, *others = pool.map(server.get, [f"/jobs/{task_id}/download?shape=groups"] * 3)
    assert first.status == 200
    assert {other.body for other in others} == {first.body}
    target = cli.folder / f"by-hand.{suffix}"
    told = cli("status", task_id, "--download", "--output-shape", "groups", "--output", target)
    assert told.code == 0, told.err
    assert first.body == target.read_bytes()
    table = api_kit.KINDS[suffix][1](first.body)
    assert [line[:2] for line in table] == [["nfr_taxonomy", "rows"], ["Fraud", "5"], ["'+1+1", "4"]]
    assert first.headers["Content-Type"].partition(";")[0] == MEDIA_TYPES[f".{suffix}"]
    assert re.fullmatch(rf".*UTF-8''F%C3%A4lle\.pattern\.groups\.{suffix}", first.headers["Content-Disposition"])
