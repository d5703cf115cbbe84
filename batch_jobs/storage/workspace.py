"""Where everything lies below one root: the only module that builds paths from ids."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from batch_jobs.errors import JobNotFound

TASK_ID_PATTERN = re.compile(r"[a-f0-9]{32}")


def checked_id(task_id: str) -> str:
    """Return a task_id that is safe as a path, or refuse it.

    Raises:
        JobNotFound: not of the form we make; nothing was looked up.
    """
    if not TASK_ID_PATTERN.fullmatch(task_id):
        raise JobNotFound(f"there is no job {task_id[:64]!r}: a task_id is 32 characters of 0-9 and a-f")
    return task_id


@dataclass(frozen=True, slots=True)
class Workspace:
    """The folders of one root."""

    batch_input: Path
    batch_output: Path
    store: Path

    @property
    def ledger(self) -> Path:
        """The truth."""
        return self.store / "ledger.sqlite"

    @property
    def call_cache(self) -> Path:
        """Every answer that was paid for."""
        return self.store / "call_cache.sqlite"

    @property
    def sandbox(self) -> Path:
        """The sandbox's own state."""
        return self.store / "sandbox"

    def input(self, task_id: str) -> Path:
        """What came in and what was sent."""
        return self.batch_input / checked_id(task_id)

    def output(self, task_id: str) -> Path:
        """What came back and what was made of it."""
        return self.batch_output / checked_id(task_id)

    def upload(self, task_id: str, suffix: str) -> Path:
        """The kept upload, byte for byte."""
        return self.input(task_id) / f"upload{suffix}"

    def snapshot(self, task_id: str) -> Path:
        """The upload's rows as Parquet, every cell text."""
        return self.input(task_id) / "rows.parquet"

    def plan(self, task_id: str) -> Path:
        """Which item each row belongs to, and the rendered bodies."""
        return self.input(task_id) / "plan"

    def prompt(self, task_id: str, name: str) -> Path:
        """The prompt module as it was when the job was planned."""
        return self.input(task_id) / "prompt" / name

    def config(self, task_id: str) -> Path:
        """The job's part of config.json as it was when the job was planned."""
        return self.input(task_id) / "config.json"

    def shard(self, task_id: str, round_no: int, shard_no: int) -> Path:
        """One shard, exactly as it was sent."""
        return self.input(task_id) / f"round-{round_no}" / f"shard-{shard_no:04d}.jsonl"

    def raw_results(self, task_id: str, round_no: int, shard_no: int) -> Path:
        """The folder of one shard's raw results."""
        return self.output(task_id) / f"round-{round_no}" / f"shard-{shard_no:04d}"

    def calls_sent(self, task_id: str) -> Path:
        """What the concurrent path sent, a line a request."""
        return self.input(task_id) / "calls.jsonl"

    def calls_received(self, task_id: str) -> Path:
        """What the concurrent path got back, a line a call."""
        return self.output(task_id) / "calls.jsonl"

    def pool(self, task_id: str) -> Path:
        """How the calls of the concurrent path went when last looked at."""
        return self.output(task_id) / "pool.json"

    def result(self, task_id: str, suffix: str) -> Path:
        """The finished spreadsheet."""
        return self.output(task_id) / f"output{suffix}"

    def groups(self, task_id: str, suffix: str) -> Path:
        """The finished table with a line a group."""
        return self.output(task_id) / f"groups{suffix}"

    def export(self, task_id: str, fmt: str) -> Path:
        """The job's rows in another format; nothing but exports lies in its folder."""
        return self.output(task_id) / "exports" / f"rows.{fmt}"

    def manifest(self, task_id: str) -> Path:
        """The job as documents people can open."""
        return self.output(task_id) / "manifest.json"

    def report(self, task_id: str) -> Path:
        """The folder that the job's report goes to unless somebody says otherwise."""
        return self.output(task_id)

    def log(self, task_id: str) -> Path:
        """The job's log."""
        return self.output(task_id) / "job.log"

    def items(self, task_id: str) -> Path:
        """What the job asks, a line an item, to look at."""
        return self.input(task_id) / "items.jsonl"

    def answers(self, task_id: str) -> Path:
        """How each item ended, a line an item, to look at."""
        return self.output(task_id) / "answers.jsonl"
