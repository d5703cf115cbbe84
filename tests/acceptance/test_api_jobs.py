"""The HTTP API end to end: upload, poll, download, stop and go on, beside the command line on the same store."""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance import api_kit
from tests.acceptance.api_kit import Server

SLOW_BATCHES = 15.0


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with api_kit.serving(tmp_path_factory.mktemp("api-jobs"), "--sandbox") as server:
        yield server


@pytest.fixture(autouse=True)
def quick_batches(server: Server) -> None:
    server.batches_take(0.1)


@pytest.mark.parametrize(
    ("kind", "mode"),
    [
        *product(["csv", "xlsx"], ["batch", "concurrent"]),
        *(("jsonl", "batch"), ("ndjson", "concurrent"), ("parquet", "concurrent")),
    ],
)
def test_a_table_comes_back_with_each_rows_own_answer(server: Server, kind: str, mode: str) -> None:
    mark = f"{kind[0]}{mode[0]}".upper()
    rows = api_kit.losses(7, mark)
    written, read = api_kit.KINDS[kind]
    content = written(rows)
    accepted = server.upload(f"Verluste Zürich.{kind}", content, mode=mode)
    assert accepted.status == 202
    task_id = accepted.json["task_id"]
    assert accepted.json == {"task_id": task_id, "status": "pending"}
    assert accepted.headers["Location"] == f"/jobs/{task_id}"

    job = server.done(task_id)
    assert (job["outcome"], job["rows"], job["succeeded"], job["failed"]) == ("complete", 7, 7, 0)
    assert (job["mode"], job["simulated"], job["file_name"]) == (mode, True, f"Verluste Zürich.{kind}")

    file = server.get(job["output"])
    assert file.status == 200
    api_kit.check_answers(read(file.body), rows, mark)
    name = f"filename=\"Verluste Z_rich.summarize.{kind}\"; filename*=UTF-8''Verluste%20Z%C3%BCrich.summarize.{kind}"
    assert file.headers["Content-Disposition"] == f"attachment; {name}"
    assert file.headers["X-Content-Type-Options"] == "nosniff"


@pytest.mark.parametrize(
    ("encoding", "charset"), [("utf-8", "utf-8"), ("cp1252", "windows-1252"), ("utf-16", "utf-16-le")]
)
def test_a_text_says_the_encoding_that_it_came_in(server: Server, encoding: str, charset: str) -> None:
    rows = [[*row[:-1], f"{row[-1]} in Zürich"] for row in api_kit.losses(3, "CH")]
    content = api_kit.csv_bytes(rows).decode().encode(encoding)
    task_id = server.start("zürich.csv", content, mode="concurrent")
    server.done(task_id)
    file = server.get(f"/jobs/{task_id}/download")
    assert file.headers["Content-Type"] == f"text/csv; charset={charset}"
    assert "Zürich" in file.body.decode(charset)


def test_each_upload_is_a_job_of_its_own_and_known_answers_are_not_paid_twice(server: Server) -> None:
    content = api_kit.csv_bytes(api_kit.losses(3, "AGAIN"))
    first = server.start("a.csv", content, mode="batch")
    server.done(first)
    second = server.start("a.csv", content, mode="batch")
    job = server.done(second)
    assert second != first
    assert (job["from_cache"], job["sent"], job["succeeded"]) == (3, 0, 3)


def test_a_job_looks_the_same_here_and_at_the_command_line(server: Server) -> None:
    task_id = server.start("same.csv", api_kit.csv_bytes(api_kit.losses(2, "SAME")), mode="concurrent")
    here = server.done(task_id)
    told = json.loads(api_kit.command_line(server.root, "status", task_id, "--json").stdout)
    assert set(here) == set(told)
    assert {**here, "output": None} == {**told, "output": None}
    assert task_id in [job["task_id"] for job in server.get("/jobs?limit=5").json["jobs"]]


def test_a_job_of_the_command_line_is_taken_along_by_the_server(server: Server) -> None:
    server.batches_take(1.0)
    path = server.root / "by-hand.csv"
    path.write_bytes(api_kit.csv_bytes(api_kit.losses(3, "HAND")))
    options = ["--task", "summarize", "--data-case", "external_loss", "--detach", "--yes", "--sandbox", "--json"]
    told = api_kit.command_line(server.root, "run", "--file", str(path), *options)
    assert told.returncode == 0, told.stderr
    job = server.done(json.loads(told.stdout)["task_id"])
    assert job["outcome"] == "complete"


def test_events_come_in_order_and_go_on_after_the_last_one_seen(server: Server) -> None:
    task_id = server.start("events.csv", api_kit.csv_bytes(api_kit.losses(2, "EVENT")), mode="batch")
    server.done(task_id)
    events = server.get(f"/jobs/{task_id}/events").json["events"]
    names = [event["name"] for event in events]
    assert names[:3] == ["job.received", "job.planned", "job.started"]
    assert names[-1] == "job.done"
    rest = server.get(f"/jobs/{task_id}/events?after={events[2]['event_id']}").json["events"]
    assert rest == events[3:]


def test_the_report_of_a_done_job_is_a_page_that_may_do_nothing_but_be_shown(server: Server) -> None:
    task_id = server.start("<b>told.csv", api_kit.csv_bytes(api_kit.losses(2, "TOLD")), mode="batch")
    server.done(task_id)
    reply = server.get(f"/jobs/{task_id}/report")
    assert (reply.status, reply.headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    assert reply.headers["Content-Security-Policy"].startswith("default-src 'none';")
    page = reply.body.decode()
    assert "All 2 rows were answered." in page
    assert "&lt;b&gt;told.csv" in page
    assert "<b>told" not in page
    assert "<a " not in page, "a client elsewhere has no files to follow"


def test_a_job_is_cancelled_and_says_so(server: Server) -> None:
    server.batches_take(SLOW_BATCHES)
    task_id = server.start("cancel.csv", api_kit.csv_bytes(api_kit.losses(4, "STOP")), mode="batch")
    api_kit.wait_for(lambda: _at_the_provider(server, task_id), "the batch is with the provider")
    early = server.get(f"/jobs/{task_id}/download")
    assert (early.status, early.error["type"], early.error["exit_code"]) == (409, "WrongMoment", 5)
    report = server.get(f"/jobs/{task_id}/report")
    assert (report.status, report.error["type"], report.error["exit_code"]) == (409, "WrongMoment", 5)

    asked = server.ask("POST", f"/jobs/{task_id}/cancel")
    assert (asked.status, asked.json["task_id"]) == (202, task_id)
    assert asked.json["phase"] in {"cancelling", "writing", "done"}
    job = server.done(task_id)
    assert (job["outcome"], job["succeeded"], job["failed"]) == ("cancelled", 0, 4)
    again = server.ask("POST", f"/jobs/{task_id}/cancel")
    assert (again.status, again.error["type"]) == (409, "WrongMoment")
    assert server.ask("POST", f"/jobs/{task_id}/resume").status == 409


def test_a_cancel_does_not_wait_for_the_next_poll(tmp_path: Path) -> None:
    rarely = {"BATCH_JOBS__POLLING__MIN_SECONDS": "120", "BATCH_JOBS__POLLING__MAX_SECONDS": "120"}
    with api_kit.serving(tmp_path, "--sandbox", **rarely) as server:
        server.batches_take(SLOW_BATCHES)
        task_id = server.start("soon.csv", api_kit.csv_bytes(api_kit.losses(2, "SOON")), mode="batch")
        api_kit.wait_for(lambda: _at_the_provider(server, task_id), "the batch is with the provider")
        api_kit.wait_for(lambda: _let_go(server, task_id), "the poller has let go of the job")
        assert server.ask("POST", f"/jobs/{task_id}/cancel").status == 202
        creates = api_kit.wait_for(lambda: _cancelled(server), "the provider is asked to cancel", 10)
        assert len(creates) == 1


def test_a_job_that_waits_for_its_operator_is_listed_and_goes_on(server: Server) -> None:
    server.batches_take(0.1, faults=[{"kind": "quota_exhausted", "route": "create", "times": 1}])
    task_id = server.start("paused.csv", api_kit.csv_bytes(api_kit.losses(3, "PAUSE")), mode="batch")

    def stuck() -> list[dict[str, Any]]:
        return [job for job in server.get("/jobs?stuck=true").json["jobs"] if job["task_id"] == task_id]

    (job,) = api_kit.wait_for(stuck, "the job is paused")
    assert job["phase"] == "paused"
    assert job["message"]
    assert server.ask("POST", f"/jobs/{task_id}/resume").status == 202
    assert server.done(task_id)["outcome"] == "complete"
    assert not stuck()


def test_twenty_uploads_at_once(server: Server) -> None:
    tables = [api_kit.losses(3, f"P{chr(65 + n)}") for n in range(20)]
    with ThreadPoolExecutor(20) as pool:
        begun = [
            pool.submit(server.start, f"{n}.csv", api_kit.csv_bytes(table), mode="concurrent")
            for n, table in enumerate(tables)
        ]
        assert server.get("/healthz").status == 200
        task_ids = [future.result() for future in begun]
    assert len(set(task_ids)) == 20
    for number, task_id in enumerate(task_ids):
        assert server.done(task_id)["outcome"] == "complete"
        table = api_kit.csv_rows(server.get(f"/jobs/{task_id}/download").body)
        api_kit.check_answers(table, tables[number], f"P{chr(65 + number)}")
    assert not list((server.root / "batch_input").glob(".incoming-*"))


def test_everything_that_can_be_asked_for_is_listed(server: Server) -> None:
    names = server.get("/tasks").json
    config = json.loads(api_kit.CONFIG.read_text(encoding="utf-8"))
    assert [task["name"] for task in names["tasks"]] == list(config["tasks"])
    case = names["tasks"][0]["data_cases"][0]
    assert case["mandatory_columns"] == config["tasks"]["summarize"]["data_cases"][case["name"]]["mandatory_columns"]
    assert {p["name"]: p["model"] for p in names["providers"]} == {
        n: p["model"] for n, p in config["providers"].items()
    }
    assert names["defaults"] == {"provider": "openai", "mode": "auto"}


def test_the_server_says_how_it_is(server: Server) -> None:
    health = server.get("/healthz").json
    assert (health["status"], health["simulated"]) == ("ok", True)
    assert isinstance(health["open_jobs"], int)
    assert health["version"]


def _at_the_provider(server: Server, task_id: str) -> bool:
    job = server.get(f"/jobs/{task_id}").json
    return job["provider_state"] in {"validating", "in_progress"}


def _let_go(server: Server, task_id: str) -> bool:
    """Whether no process holds the job's lease."""
    with contextlib.closing(sqlite3.connect(server.root / "store" / "ledger.sqlite", timeout=10)) as ledger:
        found = ledger.execute("SELECT expires_at FROM leases WHERE name = ?", (f"job:{task_id}",)).fetchone()
    return found is not None and found[0] == 0


def _cancelled(server: Server) -> list[dict[str, Any]]:
    return [create for create in server.sandbox("GET", "creates")["creates"] if create["cancelled"]]


def test_nothing_of_a_job_lies_outside_the_folders_of_the_root(server: Server) -> None:
    top = {Path(name).parts[0] for name in api_kit.files_of(server.root)}
    assert {name for name in top if not name.startswith(("server-", "by-hand"))} == {
        "batch_input",
        "batch_output",
        "store",
    }
