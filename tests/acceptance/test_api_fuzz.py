"""Schemathesis over the OpenAPI document of a running server: whatever the schema allows or forbids, no route breaks.

It is run as its own command against a real server with a valid key; a job that is done and one that is under way
are there for it, and so are tables that can be taken, so that it gets past the first check of each route.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from batch_jobs.api.app import create_app
from batch_jobs.lifecycle.project import open_project
from tests.acceptance import api_kit
from tests.acceptance.api_kit import Server

SEED = 20261121
KEY = "fuzz-key-0123456789abcdef"
SHORT = ("--max-examples", "6", "--phases", "examples,coverage,fuzzing,stateful")
LONG = ("--max-examples", "200", "--max-time", "150")
ENDLESS_SECONDS = 3_600.0
_REQUEST = re.compile(r'"([A-Z]+) (\S+) HTTP/1\.1" (\d{3})')
_LINKS = re.compile(r"API Links:\s+(\d+) covered")


@dataclass(frozen=True)
class Fuzzed:
    """One finished run of schemathesis."""

    code: int
    out: str
    report: dict[str, Any]

    def accepted(self) -> set[str]:
        """Operations of which at least one request was answered with 2xx."""
        rates: dict[str, dict[str, dict[str, int]]] = self.report["valid_rates"]
        return {name for name, phases in rates.items() if any(phase["accepted"] for phase in phases.values())}


def schemathesis(url: str, place: Path, config: str, *options: str) -> Fuzzed:
    """Run schemathesis on the document of a server, with every check, from one seed."""
    place.mkdir()
    (place / "schemathesis.toml").write_text(config, encoding="utf-8")
    command = [sys.executable, "-m", "schemathesis.cli", "run", f"{url}/openapi.json"]
    common = ("--seed", str(SEED), "--no-color", "--header", f"Authorization: Bearer {KEY}", "--no-shrink")
    report = ("--report", "json", "--report-json-path", str(place / "report.json"))
    ended = subprocess.run(
        [*command, *common, *report, *options],
        cwd=place,
        env={**os.environ, "NO_PROXY": "127.0.0.1"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (place / "report.json").exists(), ended.stdout + ended.stderr
    return Fuzzed(ended.returncode, ended.stdout, json.loads((place / "report.json").read_bytes()))


def _config(task_ids: list[str]) -> str:
    """What it may draw from beside what the schema says, which can't tell a good table nor which names there are."""
    tables = [api_kit.csv_bytes(api_kit.losses(rows, "FUZZ")).decode() for rows in (1, 3)]
    tables.append('DescriptionOfEvent;nfr_taxonomy\r\n"=cmd|calc; „ä“ \u202e";\u3000\r\n')
    known = {"file": tables, "task": ["summarize"], "data_case": ["external_loss"], "mode": ["batch"]}
    return "\n".join(
        [
            "[dictionaries]",
            *(f"{name}.values = {json.dumps(values)}" for name, values in {**known, "task_id": task_ids}.items()),
            *("[parameters]", '"path.task_id" = { dictionary = "task_id", probability = 0.6 }'),
            *("[[operations]]", 'include-operation-id = "post_job"', "checks.positive_data_acceptance.enabled = false"),
            "[operations.parameters]",
            *(f'"body.{name}" = {{ dictionary = "{name}", probability = 0.8 }}' for name in known),
            *("[[operations]]", 'include-operation-id = "get_download"'),  # shape=groups is not for every job
            'checks.positive_data_acceptance.expected-statuses = ["2xx", 401, 404, 409, 422]',
        ]
    )


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with api_kit.serving(tmp_path / "root", "--sandbox", keys=KEY) as server:
        yield server


def _seeded(server: Server) -> list[str]:
    """A job that is done, and one whose batch never ends."""
    server.batches_take(0.1)
    done = server.start("done.csv", api_kit.csv_bytes(api_kit.losses(2, "DONE")), mode="batch")
    server.done(done)
    server.batches_take(ENDLESS_SECONDS)
    return [done, server.start("under-way.csv", api_kit.csv_bytes(api_kit.losses(2, "WAY")), mode="batch")]


def _answers(server: Server) -> Counter[tuple[str, int]]:
    """How often each route gave each status, by the server's own log."""
    found = _REQUEST.findall(server.log.read_text(encoding="utf-8"))
    return Counter((f"{method} {_route(path)}", int(status)) for method, path, status in found)


def _route(path: str) -> str:
    return re.sub(r"^/jobs/[0-9a-f]{32}(?=/|$)", "/jobs/{task_id}", path.partition("?")[0])


def _check_clean(server: Server, fuzzed: Fuzzed) -> None:
    """Nothing was found, no answer was a server error, and the server is well."""
    assert fuzzed.code == 0, fuzzed.out
    assert fuzzed.report["complete"] is True
    assert not fuzzed.report["errors"]
    assert not fuzzed.report["warnings"]["missing_auth"]
    answers = _answers(server)
    assert not [answer for answer in answers if answer[1] >= 500], answers
    assert "Traceback" not in server.log.read_text(encoding="utf-8")
    assert server.get("/healthz").json["status"] == "ok"


def _check_reached(server: Server, fuzzed: Fuzzed) -> None:
    """Every route gave a good answer to some request, also by way of the links."""
    assert set(fuzzed.report["phases"]) == {"examples", "coverage", "fuzzing", "stateful"}
    document = server.get("/openapi.json").json
    operations = {f"{how.upper()} {path}" for path, methods in document["paths"].items() for how in methods}
    assert fuzzed.report["operations"]["tested"] == len(operations)
    assert fuzzed.accepted() == operations
    links = _LINKS.search(fuzzed.out)
    assert links
    assert int(links.group(1)) >= len(document["paths"]["/jobs"]["post"]["responses"]["202"]["links"])
    answers = _answers(server)
    assert {route for route, status in answers if status < 300} >= operations
    assert answers["POST /jobs", 202] > 2, "uploads that were taken in beside the two of the test"
    assert answers["POST /jobs", 422] > 2


def test_no_request_breaks_the_server_or_its_word(server: Server, tmp_path: Path) -> None:
    fuzzed = schemathesis(server.url, tmp_path / "fuzz", _config(_seeded(server)), *SHORT)
    _check_clean(server, fuzzed)
    _check_reached(server, fuzzed)


@pytest.mark.soak
@pytest.mark.timeout(400)
def test_no_request_breaks_the_server_or_its_word_for_minutes(server: Server, tmp_path: Path) -> None:
    """As far as it comes in its time, which on a busy machine may not be every route."""
    _check_clean(server, schemathesis(server.url, tmp_path / "fuzz", _config(_seeded(server)), *LONG))


@contextmanager
def _planted(root: Path) -> Iterator[str]:
    """The app with two routes that break: one for some numbers only, one that answers what it never promised."""
    project = open_project(api_kit.CONFIG, root)
    app = create_app(project, frozenset())

    @app.get("/planted/bug")
    def bug(n: int) -> dict[str, int]:
        return {"n": 1 // max(n, 0)}

    @app.get("/planted/lie")
    def lie() -> dict[str, str]:
        return {"n": None}  # type: ignore[dict-item]

    server = uvicorn.Server(uvicorn.Config(app, port=0, log_config=None, ws="none"))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        api_kit.wait_for(lambda: server.started, "the planted app listens")
        port = server.servers[0].sockets[0].getsockname()[1]
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join()
        project.close()


def test_a_route_that_breaks_is_found(tmp_path: Path) -> None:
    with _planted(tmp_path / "root") as url:
        fuzzed = schemathesis(url, tmp_path / "fuzz", "", "--include-path-regex", "^/planted/", "--max-examples", "10")
    found = [(operation, one["type"]) for one in fuzzed.report["failures"] for operation in one["operations"]]
    assert fuzzed.code == 1
    assert {("GET /planted/bug", "ServerError"), ("GET /planted/lie", "ServerError")} <= set(found), fuzzed.out
