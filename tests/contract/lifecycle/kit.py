"""A provider in memory, a clock that only tests move, and the invariants that hold after every scenario."""

from __future__ import annotations

import csv
import json
import re
import shutil
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
import pytest

from batch_jobs.config import load_settings
from batch_jobs.errors import RequestRejected
from batch_jobs.lifecycle.advance import Advanced, Came, advance
from batch_jobs.lifecycle.control import approve
from batch_jobs.lifecycle.pool.gate import Gates
from batch_jobs.lifecycle.project import Project, workspace_of
from batch_jobs.lifecycle.receive import Order, receive
from batch_jobs.lifecycle.view import view
from batch_jobs.models import (
    AnswerRules,
    BatchProblem,
    BatchState,
    BatchView,
    Counts,
    Dialect,
    EventName,
    ItemResult,
    Mode,
    Outcome,
    Phase,
    Usage,
)
from batch_jobs.output.manifest import read_documents
from batch_jobs.render.items import read_rows
from batch_jobs.storage import calls, events, items, jobs, shards
from batch_jobs.storage.call_cache import CallCache
from batch_jobs.storage.jobs import Job
from batch_jobs.storage.ledger import Ledger
from batch_jobs.storage.shards import Shard
from providers.connect import codec_for
from providers.contract import Limits, Provider, ShardFile

EVENTS = ["event-0", "event-1", "event-2", "event-3", "event-4", "event-5", "event-1", "UNRENDERABLE", "event-4"]
"""Nine rows: six items, two rows that share an item with an earlier one, one whose prompt raises."""
ITEMS = 6
RENDERED_ROWS = 8
USAGE = Usage(100, 0, 10)
PRICES = {"batch": {"input": 1.0, "output": 2.0, "cached": 0.5}, "standard": {"input": 2.0, "output": 4.0, "cached": 1}}
CALL_USD = {Mode.BATCH: 120 / 1_000_000, Mode.CONCURRENT: 240 / 1_000_000}
MODEL, JUDGE_MODEL = "model-1", "judge-1"
LIMIT = 1024
JUDGE_PROMPT = """
system: You check.
user: |
  {context}
  Is this true of it? {answer}
"""
JUDGED: dict[str, Any] = {"judge": {"prompt": "judge.yaml", "model": JUDGE_MODEL}}
"""Rules of a task."""
PROMPT = """
from pydantic import BaseModel


class Answer(BaseModel):
    summary: str


def render_event_prompt(data_case, row):
    if row["what"] == "UNRENDERABLE":
        raise ValueError("no such event")
    return "Summarise.", "It happened: " + row["what"] + "."
"""


class Crash(BaseException):
    """The process dies here: nothing catches it."""


class Clock:
    """Unix seconds, moved by the test."""

    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


@dataclass(frozen=True)
class Sent:
    """One request as the provider got it."""

    custom_id: str
    body: dict[str, Any]

    @property
    def event(self) -> str:
        found = re.search(r"event-\d+", str(self.body["messages"][1]["content"]))
        assert found is not None
        return found.group()

    @property
    def limit(self) -> int:
        return int(self.body["max_completion_tokens"])


def answer_text(event: str) -> str:
    return json.dumps({"summary": f"about {event}"})


def ok(sent: Sent, text: str | None = None, finish: str = "stop") -> bytes:
    """A result line with an answer, in OpenAI's words."""
    body = {
        "model": MODEL,
        "choices": [
            {"finish_reason": finish, "message": {"content": answer_text(sent.event) if text is None else text}}
        ],
        "usage": {"prompt_tokens": USAGE.input_tokens, "completion_tokens": USAGE.output_tokens},
    }
    return orjson.dumps({"custom_id": sent.custom_id, "response": {"status_code": 200, "body": body}})


def invalid(sent: Sent) -> bytes:
    return ok(sent, "no JSON at all")


def truncated(sent: Sent) -> bytes:
    return ok(sent, '{"summary": "abo', finish="length")


def failed(sent: Sent, status: int = 500, code: str = "server_error") -> bytes:
    body = {"error": {"code": code, "message": f"{code} it is"}}
    return orjson.dumps({"custom_id": sent.custom_id, "response": {"status_code": status, "body": body}})


def expired(sent: Sent) -> bytes:
    error = {"code": "batch_expired", "message": "not executed in time"}
    return orjson.dumps({"custom_id": sent.custom_id, "response": None, "error": error})


@dataclass
class FakeBatch:
    """A batch at the provider."""

    batch_id: str
    key: str
    requests: list[Sent]
    created_at: float
    state: BatchState = BatchState.IN_PROGRESS
    listed: bool = True
    lines: list[bytes] = field(default_factory=list)
    problems: tuple[BatchProblem, ...] = ()

    def view(self) -> BatchView:
        done = len(self.lines) if self.state.terminal else 0
        counts, at = Counts(len(self.requests), done), datetime.fromtimestamp(self.created_at, UTC)
        return BatchView(self.batch_id, self.state, self.state.value, counts, at, self.key, self.problems)


class FakeProvider:
    """Speaks OpenAI's result lines; everything else is memory.

    `creates` scripts the next creates: a function of the accepted batch that may raise; `reply` gives the result
    lines of one request; `end` ends a batch when it is looked at; `call` answers a single call.
    """

    def __init__(self, clock: Clock) -> None:
        self.codec = codec_for(Dialect.OPENAI)
        self.limits = Limits(50_000, 200_000_000)
        self.clock = clock
        self.batches: dict[str, FakeBatch] = {}
        self.creates: deque[Callable[[FakeProvider, FakeBatch], None]] = deque()
        self.reply: Callable[[Sent], list[bytes]] = lambda sent: [ok(sent)]
        self.end: Callable[[FakeBatch], None] = self.complete_batch
        self.call: Callable[[Sent, int], ItemResult] = lambda sent, _: good(sent)
        self.before: Callable[[str, str], None] = lambda _verb, _what: None
        self.owned: bool | None = True
        self.posts: list[str] = []
        self.cancelled: list[str] = []
        self.looked: list[str] = []
        self.discarded: list[str] = []
        self.uploads = 0
        self.executed: list[ItemResult] = []
        self.tried: Counter[str] = Counter()
        self._lock = threading.Lock()

    def upload(self, shard: ShardFile) -> str | None:
        self.before("upload", shard.key)
        self.uploads += 1
        return f"file-{self.uploads}"

    def create_batch(self, shard: ShardFile, file_id: str | None) -> BatchView:
        assert file_id is not None
        self.posts.append(shard.key)
        self.before("create", shard.key)
        script = self.creates.popleft() if self.creates else accept
        batch = FakeBatch(f"batch-{len(self.posts)}", shard.key, read_shard(shard.path), self.clock())
        script(self, batch)
        return self.batches[batch.batch_id].view()

    def now(self) -> None:
        return None

    def find_batches(self, shard: ShardFile, since: datetime, now: datetime | None = None) -> list[BatchView]:
        self.before("find", shard.key)
        found = [b for b in self.batches.values() if b.key == shard.key and b.listed]
        return [batch.view() for batch in reversed(found) if batch.created_at >= since.timestamp()]

    def owns(self, view: BatchView, shard: ShardFile) -> bool | None:
        return self.owned

    def check(self, batch_id: str) -> BatchView:
        self.before("check", batch_id)
        self.looked.append(batch_id)
        batch = self.batches[batch_id]
        if batch.state is BatchState.CANCELLING:
            batch.state = BatchState.CANCELLED
        elif not batch.state.terminal:
            self.end(batch)
        return batch.view()

    def fetch(self, batch_id: str, folder: Path) -> list[Path]:
        self.before("fetch", batch_id)
        batch = self.batches[batch_id]
        assert batch.state.terminal
        if not batch.lines:
            return []
        path = folder / "output.jsonl"
        path.write_bytes(b"".join(line + b"\n" for line in batch.lines))
        return [path]

    def cancel(self, batch_id: str) -> None:
        self.before("cancel", batch_id)
        batch = self.batches[batch_id]
        if batch.state is not BatchState.IN_PROGRESS:
            raise RequestRejected(f"Cannot cancel a batch with status '{batch.state}'.", status=400)
        batch.state = BatchState.CANCELLING
        self.cancelled.append(batch_id)

    def discard(self, batch_id: str, file_id: str | None) -> None:
        self.before("discard", batch_id)
        assert self.batches[batch_id].state.terminal
        self.discarded.append(batch_id)

    def complete(self, body: bytes) -> ItemResult:
        sent = Sent("", orjson.loads(body))
        with self._lock:
            self.tried[sent.event] += 1
            number = self.tried[sent.event]
        result = self.call(sent, number)
        with self._lock:
            self.executed.append(result)
        return result

    def close(self) -> None:
        """Nothing to release."""

    def complete_batch(self, batch: FakeBatch) -> None:
        """Answer everything."""
        batch.lines = [line for sent in batch.requests for line in self.reply(sent)]
        batch.state = BatchState.COMPLETED

    def sent_to(self, event: str) -> list[Sent]:
        """Every sending of one event's item, in order."""
        return [sent for batch in self.batches.values() for sent in batch.requests if sent.event == event]


def accept(provider: FakeProvider, batch: FakeBatch) -> None:
    """The usual create."""
    provider.batches[batch.batch_id] = batch


def refuse(error: BaseException) -> Callable[[FakeProvider, FakeBatch], None]:
    """A create that is answered by an error, and was not accepted."""

    def script(_: FakeProvider, __: FakeBatch) -> None:
        raise error

    return script


def accept_but(error: BaseException, *, listed: bool = True) -> Callable[[FakeProvider, FakeBatch], None]:
    """A create that was accepted, though its caller only sees an error."""

    def script(provider: FakeProvider, batch: FakeBatch) -> None:
        batch.listed = listed
        accept(provider, batch)
        raise error

    return script


def waits(_: FakeBatch) -> None:
    """A batch that does not end by itself."""


def good(sent: Sent) -> ItemResult:
    return ItemResult("", Outcome.SUCCEEDED, answer_text(sent.event), USAGE, MODEL, billed=True)


def bad(_: Sent) -> ItemResult:
    return ItemResult("", Outcome.SUCCEEDED, "no JSON at all", USAGE, MODEL, billed=True)


def cut_off(_: Sent) -> ItemResult:
    return ItemResult("", Outcome.TRUNCATED, "{", USAGE, MODEL, "length", billed=True)


def read_shard(path: Path) -> list[Sent]:
    lines = [orjson.loads(line) for line in path.read_bytes().splitlines()]
    return [Sent(line["custom_id"], line["body"]) for line in lines]


class OnlyProvider(dict[str, Provider]):
    """Whoever is asked for, it is this one: nothing here ever reaches a wire."""

    def __init__(self, provider: Provider) -> None:
        super().__init__({"": provider})

    def __contains__(self, _: object) -> bool:
        return True

    def __missing__(self, _: str) -> Provider:
        return self[""]


@dataclass
class World:
    """One planned job with its provider, clock and project."""

    project: Project
    provider: FakeProvider
    clock: Clock
    task_id: str
    stop: threading.Event = field(default_factory=threading.Event)

    def advance(self) -> Advanced:
        return advance(self.project, self.task_id, stop=self.stop)

    def run(self, passes: int = 60) -> Came:
        """Advance until the job does not only wait, moving the clock by what it asks for."""
        for _ in range(passes):
            advanced = self.advance()
            if advanced.came is not Came.WAIT:
                return advanced.came
            self.clock.now += max(advanced.seconds, 0.01)
        raise AssertionError(f"the job still waits after {passes} passes")

    @property
    def job(self) -> Job:
        with self.project.ledger.read() as connection:
            return jobs.get(connection, self.task_id)

    @property
    def shards(self) -> list[Shard]:
        with self.project.ledger.read() as connection:
            return shards.of_job(connection, self.task_id)

    @property
    def records(self) -> dict[int, items.ItemRecord]:
        with self.project.ledger.read() as connection:
            return items.some(connection, self.task_id, list(range(ITEMS)))

    @property
    def outcomes(self) -> list[Outcome | None]:
        return [record.outcome for _, record in sorted(self.records.items())]

    @property
    def spent(self) -> calls.Spent:
        with self.project.ledger.read() as connection:
            return calls.spent(connection, self.task_id)

    def named(self, name: EventName) -> list[events.BatchEvent]:
        with self.project.ledger.read() as connection:
            return events.named(connection, self.task_id, name)

    def sql(self, statement: str) -> None:
        """Bring the ledger into a state that only a crash could leave."""
        with self.project.ledger.write() as connection:
            connection.exec_driver_sql(statement)

    def output(self) -> list[dict[str, str]]:
        path = self.project.workspace.result(self.task_id, ".csv")
        with path.open(encoding="utf-8", newline="") as handle:
            return list(csv.DictReader(handle))

    def check(self, *, calls_billed: int | None = None) -> None:
        """The invariants, whatever happened before."""
        records = self.records
        assert len(records) == ITEMS
        answered = {item: record for item, record in records.items() if record.outcome is Outcome.SUCCEEDED}
        if self.job.phase is Phase.DONE:
            assert all(record.outcome is not None for record in records.values())
            self._check_output(answered)
        self._check_ends(answered)
        self._check_sent()
        self._check_costs(calls_billed)
        found = self.project.cache.get([record.fingerprint for record in answered.values()])
        assert len(found) == len(answered), "an answer was counted that is not in the cache"

    def _check_output(self, answered: Collection[int]) -> None:
        """Each row has its own answer or its own reason; every row is there, in order."""
        rows = self.output()
        assert [row["what"] for row in rows] == EVENTS
        for row, planned in zip(rows, read_rows(self.project.workspace.plan(self.task_id)), strict=True):
            if planned.item in answered:
                assert (row["summary"], row["summarize_status"]) == (f"about {row['what']}", "ok")
            else:
                assert row["summary"] == ""
                assert row["summarize_status"].startswith("failed: ")
        seen = view(self.project, self.task_id)
        succeeded = [row["summarize_status"] for row in rows].count("ok")
        assert (seen.succeeded, seen.succeeded + seen.failed, seen.rows) == (succeeded, len(EVENTS), len(EVENTS))

    def _check_ends(self, answered: Collection[int]) -> None:
        """Each item is answered, failed or open, and nothing else."""
        with self.project.ledger.read() as connection:
            counted = items.counts(connection, self.task_id)
            still_open = set(items.open_items(connection, self.task_id))
            failures = set(items.failures(connection, self.task_id))
        assert sorted([*still_open, *failures, *answered]) == list(range(ITEMS))
        assert sum(counted[outcome] for outcome in [*Outcome, "open"]) == ITEMS

    def _check_sent(self) -> None:
        """Nothing was sent that the ledger does not know of."""
        sent = {sent.custom_id for batch in self.provider.batches.values() for sent in batch.requests}
        keys = {shard.shard_key: shard for shard in self.shards}
        assert {custom_id.rpartition("-i")[0] for custom_id in sent} <= set(keys)
        for shard in self.shards:
            in_file = read_shard(self.project.workspace.shard(shard.task_id, shard.round, shard.shard))
            assert len(in_file) == shard.requests == len({sent.custom_id for sent in in_file})

    def _check_costs(self, calls_billed: int | None) -> None:
        job, spent = self.job, self.spent
        assert spent.cost_usd == pytest.approx(spent.calls * CALL_USD[job.mode])
        assert view(self.project, self.task_id).cost_usd == pytest.approx(spent.cost_usd)
        if calls_billed is not None:
            assert spent.calls == calls_billed
        if job.phase is Phase.DONE:
            costs = read_documents(self.project.workspace.manifest(self.task_id))["costs"][0]
            assert (costs["calls"], costs["cost_usd"]) == (spent.calls, pytest.approx(spent.cost_usd))


def write_project(folder: Path, *, rules: dict[str, Any] | None = None, **sections: Any) -> Path:
    """A project folder with one task, one provider and its prompts; returns its config.json.

    Args:
        rules: of the task: `judge`, `rows_per_request`, `repairs`.
    """
    (folder / "prompt_lib").mkdir(parents=True, exist_ok=True)
    (folder / "prompt_lib" / "event_prompt.py").write_text(PROMPT)
    case = {"description": "Events.", "mandatory_columns": {"what": "What happened."}}
    task = {"description": "Summarise.", "prompt": "event_prompt.py", "output_columns": {"summary": "summary"}}
    task |= rules or {}
    (folder / "prompt_lib" / "judge.yaml").write_text(JUDGE_PROMPT)
    price = {**PRICES, "source": "this test", "date": "2026-01-01"}
    models = dict.fromkeys((MODEL, JUDGE_MODEL), price)
    provider: dict[str, Any] = {"dialect": "openai", "api_key_env": "THE_KEY", "model": MODEL, "models": models}
    provider["base_url"] = "http://127.0.0.1:9/v1"  # nobody there: a call past the fake one would fail at once
    provider["parameters"] = {"max_output_tokens": LIMIT}
    config = {
        "tasks": {"summarize": {**task, "data_cases": {"loss": case}}},
        "providers": {"openai": {**provider, "limits": sections.pop("limits", {})}},
        "submission": {"parallel_transfers": 1} | sections.pop("submission", {}),
        "concurrent": {"max_workers": 1, "attempts": 3, "min_wait_seconds": 0, "max_wait_seconds": 0},
        **sections,
    }
    path = folder / "config.json"
    path.write_text(json.dumps(config))
    return path


def open_fake(config: Path, **environ: str) -> tuple[Project, FakeProvider, Clock]:
    """A project on real files whose only provider is the fake one."""
    settings, clock = load_settings(config, {}), Clock()
    provider = FakeProvider(clock)
    workspace = workspace_of(settings, config, None)
    for part in (workspace.batch_input, workspace.batch_output, workspace.store):
        part.mkdir(exist_ok=True)
    project = Project(
        settings=settings,
        prompt_lib=config.parent / "prompt_lib",
        workspace=workspace,
        ledger=Ledger.open(workspace.ledger),
        cache=CallCache.open(workspace.call_cache),
        environ={"THE_KEY": "key", **environ},
        clock=clock,
        gates=Gates(lambda: clock.now + time.monotonic()),
        uptime=clock,
        _connected=OnlyProvider(provider),
    )
    return project, provider, clock


def make_template(folder: Path) -> str:
    """A planned job on disk, rendered by the real process pool; returns its task_id."""
    project, _, _ = open_fake(write_project(folder))
    upload = folder / "events.csv"
    upload.write_text("number,what\n" + "".join(f"{number},{event}\n" for number, event in enumerate(EVENTS)))
    task_id = plan_file(project, upload)
    project.close()
    return task_id


def plan_file(project: Project, upload: Path) -> str:
    """A planned job; returns its task_id."""
    task_id = receive(project, Order(upload, upload.name, "summarize", "loss")).task_id
    assert advance(project, task_id).came is Came.CONFIRM
    return task_id


def world_with(folder: Path, mode: Mode, rules: dict[str, Any], events: Sequence[str], **sections: Any) -> World:
    """A job that is planned for this test alone, by the task's own rules; approved."""
    project, provider, clock = open_fake(write_project(folder, rules=rules, **sections))
    upload = folder / "events.csv"
    upload.write_text("number,what\n" + "".join(f"{number},{event}\n" for number, event in enumerate(events)))
    return job_of(World(project, provider, clock, ""), upload, mode)


def job_of(world: World, upload: Path, mode: Mode) -> World:
    """A job of a file in the same store; approved."""
    task_id = plan_file(world.project, upload)
    with world.project.ledger.write() as connection:
        jobs.change(connection, task_id, mode=mode)
    approve(world.project, task_id)
    return World(world.project, world.provider, world.clock, task_id)


def world_from(template: Path, task_id: str, folder: Path, mode: Mode, approved: bool, **sections: Any) -> World:
    """A fresh copy of the planned job, with other settings; `repairs` are the job's own."""
    shutil.copytree(template, folder, dirs_exist_ok=True)
    rules = AnswerRules(sections.pop("repairs", 2))
    project, provider, clock = open_fake(write_project(folder, **sections))
    with project.ledger.write() as connection:
        jobs.change(connection, task_id, mode=mode, rules=asdict(rules))
    if approved:
        approve(project, task_id)
    return World(project, provider, clock, task_id)
