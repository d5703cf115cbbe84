"""Planned jobs, made once by the real code and process pool: two for each way in which a world's answers come about.

Each world is a copy of one way's jobs, on real files and databases.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import orjson

from batch_jobs.config import Settings, load_settings
from batch_jobs.lifecycle.project import workspace_of
from batch_jobs.lifecycle.sides import realm_of, side_of
from batch_jobs.models import PHASE_MOVES, SHARD_MOVES, AskKind, GroupMode, Outcome
from batch_jobs.render.bodies import BodyReader
from batch_jobs.render.items import read_items, read_rows
from batch_jobs.render.spec import call_prefix, fingerprint
from batch_jobs.storage import jobs
from batch_jobs.storage.database import open_sqlite
from batch_jobs.storage.jobs import Job
from batch_jobs.storage.workspace import Workspace
from tests.contract.lifecycle.kit import EVENTS, JUDGE_MODEL, open_fake, plan_file, write_project
from tests.simulation.asked import Asked
from tests.simulation.lines import JUDGE_PRICES
from tests.simulation.violations import Kind

QUARANTINE = 900.0
LIMITS: tuple[dict[str, int], ...] = ({"max_requests": 2}, {"max_requests": 3}, {"max_requests": 3})
FEW_TOKENS = 650
"""Of a queue, in the last of these, where several rows go together: two such requests fit in, and three do not."""
ROWS_TOGETHER = 2
EQUAL_ERRORS_MIN = 4
SECTIONS: dict[str, Any] = {
    "polling": {"min_seconds": 5, "max_seconds": 7200},
    "submission": {"quarantine_seconds": QUARANTINE, "parallel_transfers": 1},
    "rounds": {"equal_errors_min": EQUAL_ERRORS_MIN},
}
LATER = ["event-6", "event-4", "event-5", "UNRENDERABLE", "event-7", "event-4"]
"""A second upload, two of whose four items are the first one's, too."""
FEWER = ["event-3", "event-4", "event-5", "UNRENDERABLE", "event-1", "event-4"]
"""In the first one's place where a judge looks at everything: it takes twice as many requests."""
MOVES = (("provider_batches", "state", SHARD_MOVES), ("jobs", "phase", PHASE_MOVES))
RIGHT_KEY = "key"
ANSWERS, JUDGES = "openai", "judges"
"""The provider that answers, and the one that judges, each with an account of its own."""


@dataclass(frozen=True)
class Way:
    """How the answers of a job come about."""

    judged: bool = False
    rows: int = 1
    grouped: bool = False

    @property
    def name(self) -> str:
        return f"{'judged' if self.judged else 'plain'}-{'groups' if self.grouped else self.rows}"


WAYS = tuple(Way(judged, *how) for judged in (False, True) for how in ((1, False), (ROWS_TOGETHER, False), (1, True)))
JUDGE_OF_GROUPS = """
system: You check.
user: |
  {group}
  Is this true of them? {answer}
"""


@dataclass(frozen=True)
class JobPlan:
    """A planned job of the template: what its file holds, row by row, and which item answers which row."""

    task_id: str
    uploaded: list[str]
    item_of_row: list[int | None]
    events: list[str]

    @classmethod
    def read(cls, task_id: str, uploaded: list[str], plan: Path) -> JobPlan:
        """Read a job's plan."""
        items = [row.item for row in read_rows(plan)]
        event_of = {item: uploaded[row] for row, item in enumerate(items) if item is not None}
        return cls(task_id, uploaded, items, [event_of[item] for item in sorted(event_of)])


@dataclass
class Made:
    """The jobs of one way.

    Attributes:
        prefixes: what stands before a body in the call cache's keys, by the provider that is asked.
        answers: the key of an event's final answer.
        parts: the key of an event's part in the answer to several.
    """

    folder: Path
    jobs: list[JobPlan]
    prefixes: dict[str, bytes]
    answers: dict[str, bytes] = field(default_factory=dict)
    parts: dict[str, bytes] = field(default_factory=dict)

    @cached_property
    def event_of(self) -> dict[bytes, str]:
        """Whose final answer lies under a key."""
        return {key: event for event, key in self.answers.items()}


class Template:
    """Planned jobs; each world is a copy of those of one way.

    Its ledger refuses by triggers what must never happen: a move that no table allows, an outcome that changes.
    """

    def __init__(self, folder: Path) -> None:
        self.root = folder / "world"
        self.settings: dict[tuple[Way, int], Settings] = {}
        self.made = {way: self._make(way, folder / way.name) for way in WAYS}
        some = self.settings[Way(), 0]
        self.workspace: Workspace = workspace_of(some, self.root / "config.json", self.root)
        self.ledger_engine = open_sqlite(self.workspace.ledger)
        self.cache_engine = open_sqlite(self.workspace.call_cache)

    def copy(self, way: Way) -> None:
        """A fresh world; what is never written again is only linked."""
        self.ledger_engine.dispose()
        self.cache_engine.dispose()
        shutil.rmtree(self.root, ignore_errors=True)
        shutil.copytree(self.made[way].folder, self.root, copy_function=_link_or_copy)

    def keys_of(self, way: Way, asked: Asked) -> set[bytes]:
        """Under which keys the answer to a request may be kept."""
        made = self.made[way]
        if asked.kind is AskKind.BUNDLE and way.judged:
            return {made.parts[event] for event in asked.events}
        if asked.kind is AskKind.JUDGE or way.judged:
            return {asked.question}
        return {made.answers[event] for event in asked.events}

    def close(self) -> None:
        self.ledger_engine.dispose()
        self.cache_engine.dispose()

    def _make(self, way: Way, folder: Path) -> Made:
        folder.mkdir(parents=True)
        for number, limits in enumerate(LIMITS):
            config = _write_config(folder, way, limits, few_tokens=number > 1)
            self.settings[way, number] = load_settings(config, {})
        uploads = {"events.csv": FEWER if way.judged else EVENTS, "later.csv": LATER}
        project, _, _ = open_fake(config, JUDGE_KEY=RIGHT_KEY)
        planned = list[tuple[Job, JobPlan]]()
        for name, events in uploads.items():
            upload = folder / name
            upload.write_text("number,what\n" + "".join(f"{number},{event}\n" for number, event in enumerate(events)))
            task_id = plan_file(project, upload)
            with project.ledger.read() as connection:
                job = jobs.get(connection, task_id)
            planned.append((job, JobPlan.read(task_id, events, project.workspace.plan(task_id))))
        project.close()
        made = Made(folder, [plan for _, plan in planned], _prefixes(planned[0][0]))
        for job, plan in planned:
            _read_keys(made, way, job, plan, project.workspace.plan(plan.task_id))
        with contextlib.closing(sqlite3.connect(project.workspace.ledger)) as ledger:
            ledger.executescript("".join(_triggers()))
        return made


def _write_config(folder: Path, way: Way, limits: dict[str, int], *, few_tokens: bool) -> Path:
    judge = {"judge": {"prompt": "judge.yaml", "provider": JUDGES}} if way.judged else {}
    rules = {"rows_per_request": way.rows, **judge}
    tokens = {"max_enqueued_tokens": FEW_TOKENS} if few_tokens and way.rows > 1 else {}
    path = write_project(folder, rules=rules, limits=limits | tokens, **SECTIONS)
    config = orjson.loads(path.read_bytes())
    if way.grouped:
        grouping = {"mode": GroupMode.OUTPUT, "columns": ["what"]}
        config["tasks"]["summarize"]["data_cases"]["loss"]["grouping"] = grouping
        (folder / "prompt_lib" / "judge.yaml").write_text(JUDGE_OF_GROUPS)
    models = {JUDGE_MODEL: {**JUDGE_PRICES, "source": "this test", "date": "2026-01-01"}}
    entry = {**config["providers"][ANSWERS], "api_key_env": "JUDGE_KEY", "model": JUDGE_MODEL, "models": models}
    config["providers"][JUDGES] = entry
    path.write_bytes(orjson.dumps(config))
    return path


def _prefixes(job: Job) -> dict[str, bytes]:
    sides = (side_of(job, kind) for kind in (AskKind.ANSWER, AskKind.JUDGE))
    return {side.provider: call_prefix(realm_of(side), side.dialect, side.endpoint, side.model) for side in sides}


def _read_keys(made: Made, way: Way, job: Job, plan: JobPlan, folder: Path) -> None:
    together = call_prefix(realm_of(job), job.dialect, job.endpoint, job.model, way.rows)
    with BodyReader(folder) as reader:
        for planned in read_items(folder):
            event = plan.events[planned.item]
            assert made.answers.setdefault(event, planned.fingerprint) == planned.fingerprint
            made.parts[event] = fingerprint(together, reader.read(planned))


def _link_or_copy(source: str, target: str) -> None:
    if ".sqlite" in source:
        shutil.copy(source, target)
    else:
        os.link(source, target)


def _triggers() -> Iterator[str]:
    for table, column, moves in MOVES:
        legal = " OR ".join(f"(OLD.{column}='{a}' AND NEW.{column}='{b}')" for a, to in moves.items() for b in to)
        yield (
            f"CREATE TRIGGER legal_{table} BEFORE UPDATE OF {column} ON {table} "
            f"WHEN NOT ({legal} OR OLD.{column}=NEW.{column}) "
            f"BEGIN SELECT RAISE(ABORT, '{Kind.ILLEGAL_MOVE}: {table}'); END;"
        )
    yield (
        "CREATE TRIGGER one_outcome BEFORE UPDATE OF outcome ON items "
        "WHEN OLD.outcome IS NOT NULL AND NEW.outcome IS NOT OLD.outcome "
        f"AND NOT (OLD.outcome='{Outcome.ERRORED}' AND NEW.outcome IS NULL) "
        f"BEGIN SELECT RAISE(ABORT, '{Kind.OUTCOME}: it changed'); END;"
        "CREATE TABLE reopened (task_id TEXT, item INTEGER);"
        "CREATE TRIGGER note_reopened AFTER UPDATE OF outcome ON items "
        "WHEN OLD.outcome IS NOT NULL AND NEW.outcome IS NULL "
        "BEGIN INSERT INTO reopened VALUES (NEW.task_id, NEW.item); END;"
    )
