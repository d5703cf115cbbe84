"""A small job against the sandbox, driven as the product drives it, and what a user sees of it when it has ended.

Planning takes half a second of processes, so one job a dialect is planned and begun once, and copied for each test.
Each test has its own key, so that its batches are its own; what the sandbox bills is counted from the test's beginning.
"""

from __future__ import annotations

import csv
import json
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
import pytest

from batch_jobs.config import load_settings
from batch_jobs.lifecycle.advance import Advanced, Came, advance
from batch_jobs.lifecycle.control import begin
from batch_jobs.lifecycle.project import Project, workspace_of
from batch_jobs.lifecycle.receive import Order, receive
from batch_jobs.lifecycle.run import Run
from batch_jobs.lifecycle.view import JobView, view
from batch_jobs.models import Dialect, EventName, JobOutcome, Mode, Outcome
from batch_jobs.storage import events, items, jobs, leases, shards
from batch_jobs.storage.call_cache import CallCache
from batch_jobs.storage.jobs import lease_name
from batch_jobs.storage.ledger import Ledger
from providers.sandbox import base_url
from providers.sandbox.behaviour import Behaviour, Fault
from providers.sandbox.wire import short_hash
from tests.contract.sandbox.kit import Server, row_text, tells_on

ROWS = 4
MODEL = "model-1"
FIXED = "Summarise."
LIMIT = 1024
VISITS = 100
PRICE = {"batch": {"input": 1.0, "output": 2.0, "cached": 0.5}, "standard": {"input": 2.0, "output": 4.0, "cached": 1}}
AT_ONCE = {"max_workers": 4, "attempts": 3, "min_wait_seconds": 0, "max_wait_seconds": 0}
PROMPT = """
from pydantic import BaseModel


class Answer(BaseModel):
    summary: str


def render_event_prompt(data_case, row):
    return "Summarise.", row["what"]
"""

openai, anthropic, gemini = Dialect.OPENAI, Dialect.ANTHROPIC, Dialect.GEMINI


def speaks(*dialects: Dialect) -> pytest.MarkDecorator:
    """The dialects that a test is run for."""
    return pytest.mark.parametrize("dialect", dialects)


every_dialect = speaks(*Dialect)
both_modes = pytest.mark.parametrize("mode", [Mode.BATCH, Mode.CONCURRENT])
concurrently = pytest.mark.parametrize("mode", [Mode.CONCURRENT])


def only(row: int) -> str:
    """What a fault has to match to hit this row's requests, and no other's."""
    return f"platform{row} "


class Clock:
    """The product's clock. It shows what the sandbox's shows, unless a test sets it wrong."""

    def __init__(self, ahead: float = 0.0) -> None:
        self.ahead = ahead

    def __call__(self) -> float:
        return time.time() + self.ahead


@dataclass(frozen=True)
class Before:
    """What the sandbox had seen when a job began; it is shared by all tests."""

    batches: set[str]
    lines: int
    calls: dict[str, int]


@dataclass
class Job:
    """One job of four rows and its surroundings.

    Attributes:
        sandbox: the provider; only what this job did there is counted.
        clock: of the product.
        environ: where the product looks its key up.
    """

    project: Project
    task_id: str
    dialect: Dialect
    sandbox: Server
    clock: Clock
    config: Path
    environ: dict[str, str]
    before: Before = field(init=False)

    def __post_init__(self) -> None:
        self.before = Before(self._batches(), self.sandbox.get("bill")["calls"], self.sandbox.get("calls"))

    # -- driving it -------------------------------------------------------------------------------------------

    def advance(self) -> Advanced:
        """One visit of whoever looks after the job."""
        return advance(self.project, self.task_id)

    def run(self) -> Came:
        """Visit the job whenever it asks for it, until it does not only wait."""
        return self.until(lambda: False)

    def until(self, reached: Callable[[], bool]) -> Came:
        """Visit the job whenever it asks for it, until it does not only wait, or something is reached."""
        for _ in range(VISITS):
            advanced = self.advance()
            if advanced.came is not Came.WAIT or reached():
                return advanced.came
            self.wait(advanced.seconds)
        raise AssertionError(f"the job still waits: {[event.name for event in self.events()]}")

    def wait(self, seconds: float) -> None:
        """Let time pass, here and at the provider."""
        forward(self.sandbox, seconds)
        self.clock.ahead += seconds

    def behave(self, *faults: Fault, **values: Any) -> None:
        """From now on the provider behaves like this."""
        self.sandbox.behave(Behaviour(**{"batch_seconds": 0.0, "faults": faults, **values}))

    def forget_the_batch_id(self) -> None:
        """Leave the ledger as a process does that dies between the provider's acceptance and storing the id."""
        with self.project.ledger.write() as connection:
            connection.exec_driver_sql(
                "UPDATE provider_batches SET state = 'submitting', batch_id = NULL, batch_state = NULL, "
                "provider_state = NULL, submitted_at = NULL"
            )

    # -- what a user sees -------------------------------------------------------------------------------------

    @property
    def view(self) -> JobView:
        return view(self.project, self.task_id)

    def rows(self) -> list[dict[str, str]]:
        """The output file."""
        path = self.project.workspace.result(self.task_id, ".csv")
        with path.open(encoding="utf-8", newline="") as handle:
            return list(csv.DictReader(handle))

    def statuses(self) -> list[str]:
        """The status column."""
        return [row["summarize_status"] for row in self.rows()]

    def status(self, row: int) -> str:
        """The status cell of one row."""
        return self.statuses()[row]

    def answered(self) -> list[int]:
        """The rows that have their own answer; every other row has a reason and no answer."""
        rows = self.rows()
        assert [row["number"] for row in rows] == [str(number) for number in range(len(rows))]
        ok = []
        for number, row in enumerate(rows):
            if row["summarize_status"] == "ok":
                assert tells_on(row["summary"], self.event_of(number)), row
                ok.append(number)
            else:
                assert row["summarize_status"].startswith("failed: ") and row["summary"] == "", row
        seen = self.view
        assert (seen.succeeded, seen.failed, seen.rows) == (len(ok), len(rows) - len(ok), len(rows))
        return ok

    def event_of(self, row: int) -> int:
        """Which event a row tells of."""
        return int(self.rows()[row]["event"])

    def events(self, name: EventName | None = None) -> list[events.BatchEvent]:
        """What happened, in order; of one name or all."""
        with self.project.ledger.read() as connection:
            found = events.of_job(connection, self.task_id)
        return [event for event in found if name in (None, event.name)]

    def outcomes(self) -> list[Outcome | None]:
        """How each item ended, None while it is open."""
        with self.project.ledger.read() as connection:
            records = items.some(connection, self.task_id, range(ROWS))
        return [record.outcome for _, record in sorted(records.items())]

    def attempts(self) -> list[int]:
        """How often each item was sent."""
        with self.project.ledger.read() as connection:
            records = items.some(connection, self.task_id, range(ROWS))
        return [record.attempts for _, record in sorted(records.items())]

    # -- what was sent, and what it cost ----------------------------------------------------------------------

    def sent(self) -> list[list[int]]:
        """The items of each shard that was made, in order."""
        with self.project.ledger.read() as connection:
            made = shards.of_job(connection, self.task_id)
        paths = [self.project.workspace.shard(self.task_id, shard.round, shard.shard) for shard in made]
        return [[_item(line) for line in path.read_bytes().splitlines()] for path in paths]

    def received(self) -> list[int]:
        """The items of the raw results that are kept of the first shard, in the order they came."""
        folder = self.project.workspace.raw_results(self.task_id, 0, 0)
        return [_item(line) for path in sorted(folder.glob("*.jsonl")) for line in path.read_bytes().splitlines()]

    def creates(self) -> int:
        """Batches that the provider has accepted of this job."""
        return len(self.batch_ids())

    def batch_ids(self) -> set[str]:
        """Their ids."""
        return self._batches() - self.before.batches

    def billed(self) -> list[int]:
        """How often the provider has executed, and so billed, each event's request."""
        hashes = self._executed()
        return [hashes.count(short_hash(MODEL, FIXED, row_text(event))) for event in range(ROWS)]

    def repairs(self) -> int:
        """How many requests it has executed that are a continuation of these: an answer, and what is wrong with it."""
        return len(self._executed()) - sum(self.billed())

    def _executed(self) -> list[str]:
        own = self._batches() - self.before.batches | {""}
        lines = self.sandbox.get("bill?detail=1")["lines"][self.before.lines :]
        return [line["request_hash"] for line in lines if line["batch_id"] in own]

    def requests(self, route: str) -> int:
        """Requests that the provider got on a route, refused ones too."""
        name = f"{self.dialect} {route}"
        return int(self.sandbox.get("calls").get(name, 0)) - self.before.calls.get(name, 0)

    def files(self) -> list[str]:
        """What each file is for that the provider still keeps of this account."""
        return [file["purpose"] for file in self.sandbox.get(f"files?key={self.sandbox.key}")["files"]]

    def lines_of(self, name: str) -> list[dict[str, Any]]:
        """The lines of a result file at Gemini, asked for beside the product."""
        address = f"{base_url(self.dialect, self.sandbox.url)}/v1/{name}:download?alt=media"
        reply = self.sandbox.http.get(address, headers={"x-goog-api-key": self.sandbox.key}).raise_for_status()
        return [orjson.loads(line) for line in reply.content.splitlines()]

    def _batches(self) -> set[str]:
        accepted = self.sandbox.get("creates")["creates"]
        return {batch["batch_id"] for batch in accepted if batch["dialect"] == self.dialect}

    # -- two statements that most tests end with --------------------------------------------------------------

    def assert_all_answered_once(self) -> None:
        """Every row has its own answer, and each was paid for once."""
        assert self.view.outcome is JobOutcome.COMPLETE
        assert self.answered() == list(range(ROWS))
        assert self.billed() == [1] * ROWS

    def assert_failed(self, row: int, *words: str) -> None:
        """This row alone has no answer, and says why in these words."""
        assert self.view.outcome is JobOutcome.PARTIAL
        assert self.answered() == [number for number in range(ROWS) if number != row]
        assert all(word in self.status(row) for word in words), self.status(row)


def forward(sandbox: Server, seconds: float) -> float:
    """Put the sandbox's clock forward; tells by how much it is ahead of ours now."""
    reply = sandbox.http.post(f"{sandbox.url}/sandbox/forward", params={"seconds": seconds}).raise_for_status()
    return float(reply.json()["ahead_seconds"])


def _item(line: bytes) -> int:
    record = orjson.loads(line)
    return int(str(record.get("custom_id") or record["key"]).rpartition("-i")[2])


def write_project(folder: Path, dialect: Dialect, address: str, sections: Mapping[str, Any]) -> Path:
    """A project folder with one task and one provider; returns its config.json."""
    (folder / "prompt_lib").mkdir(parents=True, exist_ok=True)
    (folder / "prompt_lib" / "event_prompt.py").write_text(PROMPT)
    case = {"description": "Events.", "mandatory_columns": {"what": "What happened."}}
    task = {"description": "Summarise.", "prompt": "event_prompt.py", "output_columns": {"summary": "summary"}}
    provider = {
        "dialect": dialect,
        "base_url": address,
        "api_key_env": "THE_KEY",
        "model": MODEL,
        "models": {MODEL: {**PRICE, "source": "this test", "date": "2026-01-01"}},
        "parameters": {"max_output_tokens": LIMIT},
        "timeout_seconds": 10,
    }
    config = {
        "tasks": {"summarize": {**task, "data_cases": {"loss": case}}},
        "providers": {"theirs": provider | sections.get("provider", {})},
        "defaults": {"provider": "theirs"},
        "polling": {"min_seconds": 5, "max_seconds": 60},
        "submission": sections.get("submission", {}),
        "rounds": sections.get("rounds", {}),
        "concurrent": AT_ONCE | sections.get("concurrent", {}),
    }
    path = folder / "config.json"
    path.write_text(json.dumps(config))
    return path


def open_project(config: Path, environ: Mapping[str, str], clock: Clock) -> Project:
    """The project, with an environment and a clock of the test's."""
    settings = load_settings(config, {})
    workspace = workspace_of(settings, config, None)
    for part in (workspace.batch_input, workspace.batch_output, workspace.store):
        part.mkdir(exist_ok=True)
    return Project(
        settings=settings,
        prompt_lib=config.parent / "prompt_lib",
        workspace=workspace,
        ledger=Ledger.open(workspace.ledger),
        cache=CallCache.open(workspace.call_cache),
        environ=environ,
        clock=clock,
        uptime=clock,
    )


def make_template(folder: Path, dialect: Dialect, told: list[int]) -> str:
    """A job on disk of which nothing is sent yet: one row for each event told of; its task_id."""
    config = write_project(folder, dialect, "http://127.0.0.1:9", {})
    project = open_project(config, {"THE_KEY": "nobody's"}, Clock())
    upload = folder / "events.csv"
    lines = [f'{number},{event},"{row_text(event)}"\n' for number, event in enumerate(told)]
    upload.write_text("number,event,what\n" + "".join(lines))
    task_id = receive(project, Order(upload, upload.name, "summarize", "loss")).task_id
    assert advance(project, task_id).came is Came.CONFIRM
    with leases.holding(project.ledger.engine, lease_name(task_id)) as lease, project.ledger.read() as connection:
        begin(Run(project, lease), jobs.get(connection, task_id))
    project.close()
    return task_id


@dataclass(frozen=True)
class Template:
    """A begun job to be copied."""

    folder: Path
    task_id: str


def start_job(
    template: Template,
    folder: Path,
    dialect: Dialect,
    mode: Mode,
    sandbox: Server,
    *,
    address: str = "",
    **sections: Any,
) -> Job:
    """A fresh copy of the begun job, for an account of its own.

    Args:
        template: what is copied.
        folder: where to.
        dialect: of the provider.
        mode: of the job.
        sandbox: the provider.
        address: where the provider is reached, if not directly.
        sections: values for provider, submission, rounds and concurrent in config.json.
    """
    shutil.copytree(template.folder, folder)
    config = write_project(folder, dialect, base_url(dialect, address or sandbox.url), sections)
    environ, clock = {"THE_KEY": sandbox.key}, Clock(forward(sandbox, 0))
    project = open_project(config, environ, clock)
    with project.ledger.write() as connection:
        account = project.account("theirs", simulated=False)
        jobs.change(connection, template.task_id, mode=mode, account=account, started_at=clock())
    return Job(project, template.task_id, dialect, sandbox, clock, config, environ)
