"""Idempotency-Key: the same upload sent again is the same job, however often, at once, or after a kill -9."""

from __future__ import annotations

import random
import sqlite3
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any

import pytest

from batch_jobs.api.app import create_app
from batch_jobs.lifecycle.project import open_project
from tests.acceptance import api_kit
from tests.acceptance.api_kit import MULTIPART, Reply, Server

GOOD = api_kit.csv_bytes(api_kit.losses(2, "IDEM"))
OTHER = api_kit.csv_bytes(api_kit.losses(2, "ELSE"))
FIELDS = {"task": "summarize", "data_case": "external_loss", "mode": "batch"}
CLIENTS = 50
KILLS = 6
LONGEST_SECONDS = 0.7
"""A new server's first upload is answered in about half of this, so that kills come before and after it."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with api_kit.serving(tmp_path_factory.mktemp("api-idempotency"), "--sandbox") as server:
        server.batches_take(0.1)
        yield server


def post(
    server: Server,
    key: str | None,
    content: bytes = GOOD,
    name: str = "a.csv",
    headers: dict[str, str] | None = None,
    **fields: str | None,
) -> Reply:
    """POST /jobs under a key; fields replace the usual ones, None leaves one out."""
    body = api_kit.multipart(_given(fields), name, content)
    keyed = {} if key is None else {"Idempotency-Key": key}
    return server.ask("POST", "/jobs", body, {**MULTIPART, **keyed, **(headers or {})})


def _given(fields: dict[str, str | None]) -> list[tuple[str, str]]:
    return [(field, value) for field, value in {**FIELDS, **fields}.items() if value is not None]


def job_of(reply: Reply) -> str:
    """The job of an upload that must have been accepted, answered as any upload is."""
    assert reply.status == 202, (reply.status, reply.body)
    task_id: str = reply.json["task_id"]
    assert reply.json == {"task_id": task_id, "status": "pending"}
    assert reply.headers["Location"] == f"/jobs/{task_id}"
    return task_id


def refused(reply: Reply, kind: str) -> str:
    assert (reply.status, reply.error["type"], reply.error["exit_code"]) == (422, kind, 2), reply.body
    message: str = reply.error["message"]
    return message


def jobs_in(root: Path) -> set[str]:
    """The jobs in the ledger."""
    return {row[0] for row in _ledger(root, "SELECT task_id FROM jobs")}


def folders_in(root: Path) -> set[str]:
    return {path.name for path in (root / "batch_input").iterdir() if path.is_dir()}


def _ledger(root: Path, query: str) -> list[Any]:
    with closing(sqlite3.connect(root / "store" / "ledger.sqlite", timeout=30)) as ledger:
        return ledger.execute(query).fetchall()


def test_the_same_upload_under_a_key_is_one_job_also_when_it_is_done(server: Server) -> None:
    first = post(server, "again")
    task_id = job_of(first)
    assert job_of(post(server, "again")) == task_id
    assert server.done(task_id)["outcome"] == "complete"
    late = post(server, "again")
    assert (late.status, late.body, late.headers["Location"]) == (202, first.body, first.headers["Location"])
    assert server.get(f"/jobs/{task_id}").json["status"] == "done"


def test_without_a_key_or_under_another_one_it_is_another_job(server: Server) -> None:
    replies = [post(server, key) for key in (None, None, "one", "two", "One")]
    assert len({job_of(reply) for reply in replies}) == len(replies)


CHANGES: list[dict[str, Any]] = [
    {"content": OTHER},
    {"content": GOOD + b"\n"},
    {"name": "b.csv"},
    {"task": "summarise"},
    {"data_case": "internal_loss"},
    {"mode": "concurrent"},
    {"mode": None},
    {"provider": "openai"},
    {"model": "some-model"},
    {"sheet": "Sheet1"},
]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: "-".join(f"{k}={v!s:.12}" for k, v in change.items()))
def test_another_request_under_the_key_is_refused(server: Server, change: dict[str, Any]) -> None:
    task_id = job_of(post(server, "changed"))
    before = jobs_in(server.root), folders_in(server.root)
    message = refused(post(server, "changed", **change), "KeyReused")
    assert "Idempotency-Key" in message
    assert task_id in message
    assert (jobs_in(server.root), folders_in(server.root)) == before
    assert job_of(post(server, "changed")) == task_id


def test_the_order_and_the_case_of_what_does_not_count_do_not_matter(server: Server) -> None:
    task_id = job_of(post(server, "shuffled"))
    body = api_kit.multipart(reversed(_given({})), "C:\\folder\\a.csv", GOOD)
    assert job_of(server.ask("POST", "/jobs", body, {**MULTIPART, "idempotency-key": " shuffled "})) == task_id
    assert job_of(post(server, "shuffled", sheet="")) == task_id


@pytest.mark.parametrize("key", ["", "a b", "a\tb", "ä", "x" * 256, "caf\xe9", "a,\xa0b"])
def test_a_bad_key_is_refused(server: Server, key: str) -> None:
    before = jobs_in(server.root)
    message = refused(post(server, key), "InvalidRequest")
    assert message.startswith('"Idempotency-Key": must be 1 to 255 visible ASCII characters')
    assert jobs_in(server.root) == before


@pytest.mark.parametrize("key", ["!", "~" * 255, '"quoted"', "a,b;c=d", "../../etc", "' OR 1=1--".replace(" ", "_")])
def test_a_key_may_be_any_visible_ascii(server: Server, key: str) -> None:
    task_id = job_of(post(server, key))
    assert job_of(post(server, key)) == task_id


def test_two_keys_with_one_upload_are_refused(server: Server) -> None:
    body = api_kit.multipart(_given({}), "a.csv", GOOD)
    connection = HTTPConnection(*server.address, timeout=30)
    with closing(connection):
        connection.putrequest("POST", "/jobs")
        for name, value in [*MULTIPART.items(), ("Content-Length", str(len(body)))]:
            connection.putheader(name, value)
        for key in ("twice", "twice-other"):
            connection.putheader("Idempotency-Key", key)
        connection.endheaders(body)
        response = connection.getresponse()
        reply = Reply(response.status, response.headers, response.read())
    assert "more than once" in refused(reply, "UserError")


@pytest.mark.parametrize(
    ("bad", "kind"),
    [
        ({"content": b"a,b\n1,2\n"}, "FileRefused"),
        ({"task": "nonsense"}, "UnknownName"),
        ({"data_case": None}, "InvalidRequest"),
    ],
)
def test_a_refused_upload_does_not_burn_its_key(server: Server, bad: dict[str, Any], kind: str) -> None:
    refused(post(server, f"burnt-{kind}", **bad), kind)
    task_id = job_of(post(server, f"burnt-{kind}"))
    assert job_of(post(server, f"burnt-{kind}")) == task_id


def test_fifty_clients_at_once_make_one_job(server: Server) -> None:
    before = jobs_in(server.root), folders_in(server.root)
    with ThreadPoolExecutor(CLIENTS) as pool:
        replies = list(pool.map(lambda _: post(server, "fifty"), range(CLIENTS)))
    (task_id,) = {job_of(reply) for reply in replies}
    assert jobs_in(server.root) - before[0] == {task_id}
    assert folders_in(server.root) - before[1] == {task_id}
    job = server.done(task_id)
    assert (job["outcome"], job["succeeded"]) == ("complete", 2)
    received = [
        event for event in server.get(f"/jobs/{task_id}/events").json["events"] if event["name"] == "job.received"
    ]
    assert len(received) == 1


def test_uploads_that_were_all_kept_before_one_was_recorded_leave_one_job(server: Server) -> None:
    """The ledger is held until each has passed every check: the key alone decides, and the others clean up."""
    before = jobs_in(server.root), folders_in(server.root)
    contents = [GOOD, GOOD, OTHER, OTHER]
    with ThreadPoolExecutor(len(contents)) as pool:
        with _held(server.root):
            sent = [pool.submit(post, server, "race", content) for content in contents]
            api_kit.wait_for(lambda: len(folders_in(server.root) - before[1]) == len(contents), "all are kept", 20)
        replies = [each.result() for each in sent]
    (task_id,) = {job_of(reply) for reply in replies if reply.status == 202}
    assert jobs_in(server.root) - before[0] == {task_id}
    assert folders_in(server.root) - before[1] == {task_id}
    assert not [name for name in folders_in(server.root) if name.startswith(".")]
    outputs = {path.name for path in (server.root / "batch_output").iterdir()}
    assert outputs <= before[0] | {task_id}
    accepted = [reply.status == 202 for reply in replies]
    assert accepted in ([True, True, False, False], [False, False, True, True])
    for reply in replies:
        if reply.status != 202:
            assert task_id in refused(reply, "KeyReused")


class _held:
    """Nobody else writes to the ledger while the block runs."""

    def __init__(self, root: Path) -> None:
        self.ledger = sqlite3.connect(root / "store" / "ledger.sqlite", timeout=30, isolation_level=None)

    def __enter__(self) -> None:
        self.ledger.execute("BEGIN IMMEDIATE")

    def __exit__(self, *_: object) -> None:
        self.ledger.execute("ROLLBACK")
        self.ledger.close()


def test_callers_never_share_a_key(tmp_path: Path) -> None:
    with api_kit.serving(tmp_path, "--sandbox", keys="alpha,schlüssel") as server:
        second = {"Authorization": "Bearer schlüssel".encode().decode("latin-1")}
        first_job = job_of(post(server, "shared"))
        second_job = job_of(post(server, "shared", OTHER, headers=second))
        assert first_job != second_job
        assert job_of(post(server, "shared")) == first_job
        assert job_of(post(server, "shared", headers={"Authorization": "bearer   alpha"})) == first_job
        assert job_of(post(server, "shared", OTHER, headers=second)) == second_job
        assert post(server, "shared", headers={"Authorization": "Bearer wrong"}).status == 401
        refused(post(server, "shared", OTHER), "KeyReused")


def test_a_key_outlives_the_server_however_it_ends(tmp_path: Path) -> None:
    with api_kit.serving(tmp_path, "--sandbox", TMPDIR=str(tmp_path)) as first:
        first.batches_take(0.1)
        task_id = job_of(post(first, "kept"))
        assert first.stop() == 0
        second = api_kit.start(tmp_path, "--sandbox", TMPDIR=str(tmp_path))
        try:
            assert job_of(post(second, "kept")) == task_id
            refused(post(second, "kept", OTHER), "KeyReused")
            second.kill()
        finally:
            api_kit.end(second)
        third = api_kit.start(tmp_path, "--sandbox", TMPDIR=str(tmp_path))
        try:
            assert job_of(post(third, "kept")) == task_id
            assert third.done(task_id)["outcome"] == "complete"
        finally:
            api_kit.end(third)


def test_an_answer_that_was_lost_to_a_kill_is_given_by_the_next_server(tmp_path: Path) -> None:
    """The server dies as soon as the job is in the ledger, and the client has read nothing."""
    with api_kit.serving(tmp_path, "--sandbox", TMPDIR=str(tmp_path)) as first:
        first.batches_take(0.1)
        connection = HTTPConnection(*first.address, timeout=30)
        with closing(connection):
            body = api_kit.multipart(_given({}), "a.csv", GOOD)
            connection.request("POST", "/jobs", body, {**MULTIPART, "Idempotency-Key": "lost"})
            task_id = _first_commit(tmp_path)
            first.kill()
        second = api_kit.start(tmp_path, "--sandbox", TMPDIR=str(tmp_path))
        try:
            assert job_of(post(second, "lost")) == task_id
            assert jobs_in(tmp_path) == {task_id}
            assert second.done(task_id)["outcome"] == "complete"
        finally:
            api_kit.end(second)


def _first_commit(root: Path) -> str:
    """Look without a pause until a job or a key is in the ledger: they must come together."""
    query = "SELECT (SELECT task_id FROM jobs), (SELECT task_id FROM idempotency_keys)"
    end = time.monotonic() + api_kit.WAIT_SECONDS
    with closing(sqlite3.connect(root / "store" / "ledger.sqlite", timeout=30)) as ledger:
        while time.monotonic() < end:
            job, key = ledger.execute(query).fetchone()
            assert job == key
            if job:
                return str(job)
    raise AssertionError("nothing was committed")


def test_whenever_the_server_is_killed_the_upload_sent_again_is_one_job(tmp_path: Path) -> None:
    moments = random.Random(20261121)
    begun: list[str] = []
    with api_kit.serving(tmp_path, "--sandbox", TMPDIR=str(tmp_path)) as server:
        server.batches_take(0.1)
        running = server
        try:
            for number in range(KILLS):
                answered = _killed_while_it_takes_in(running, f"kill-{number}", moments.uniform(0, LONGEST_SECONDS))
                before = jobs_in(tmp_path) - set(begun)
                assert len(before) <= 1
                running = api_kit.start(tmp_path, "--sandbox", TMPDIR=str(tmp_path))
                task_id = job_of(post(running, f"kill-{number}"))
                assert answered in (None, task_id)
                begun.append(task_id)
                assert before <= {task_id}
                assert jobs_in(tmp_path) == set(begun)
            assert {running.done(task_id)["outcome"] for task_id in begun} == {"complete"}
        finally:
            api_kit.end(running)
    assert len(set(begun)) == KILLS


def _killed_while_it_takes_in(server: Server, key: str, seconds: float) -> str | None:
    """Send an upload and kill the server after a while; returns the job that was told before, if one was."""

    def send() -> str | None:
        try:
            return job_of(post(server, key))
        except (OSError, HTTPException):
            return None

    with ThreadPoolExecutor(1) as pool:
        sent = pool.submit(send)
        time.sleep(seconds)
        server.kill()
        return sent.result()


def test_the_description_shows_the_header_with_an_example(tmp_path: Path) -> None:
    project = open_project(api_kit.CONFIG, tmp_path)
    project.close()
    document = create_app(project, frozenset()).openapi()
    (header,) = document["paths"]["/jobs"]["post"]["parameters"]
    assert (header["name"], header["in"], header["required"]) == ("Idempotency-Key", "header", False)
    assert "same job" in header["description"]
    (example,) = header["schema"].get("examples") or header["examples"]
    (schema,) = (each for each in header["schema"]["anyOf"] if each["type"] == "string")
    assert schema == {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[!-~]+$"}
    assert len(example) == 36
