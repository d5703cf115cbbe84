"""One job whose runs are killed: the real command line, started again until the job is done, and then audited.

The audit is the same however it was killed: each row once, in its place, with its own answer; the store agrees with
itself; the provider has executed each item once, and was paid what we say that it was.
"""

from __future__ import annotations

import itertools
import json
import shutil
import sqlite3
import time
import urllib.request
from collections import Counter
from contextlib import closing, suppress
from dataclasses import asdict, astuple, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from tests.acceptance.kit import Sandbox, clean_environ, losses, own_answer, read_csv, write_csv
from tests.faults.steps import names_in
from tests.faults.zygote import Ended, Zygote

REPOSITORY = Path(__file__).resolve().parents[2]
WORKERS = 4
QUARANTINE_SECONDS = "0.7"
"""Longer than any late acceptance of a case."""

TASKS: dict[str, dict[str, Any]] = {
    "judged": {"prompt": "judged.yaml"},
    "together": {"rows_per_request": 4},
    "judged_together": {"prompt": "judged.yaml", "rows_per_request": 4},
    "grouped": {"prompt": "grouped.yaml"},
}
"""Tasks besides the shipped ones, by what they have that the shipped one has not."""
GROUPING = {"mode": "row_output_with_group_context", "columns": ["nfr_taxonomy"]}
"""Of the task `grouped`."""
PROMPTS = {
    "grouped.yaml": """
schema: {type: object, properties: {summary: {type: string}}, required: [summary], additionalProperties: false}
system: Summarise the record, in sight of its group. {llm_schema}
user: "{group} {context}"
judge: |
  {group}
  {context}
  Is this a true summary of it? {answer}
""",
    "judged.yaml": """
schema: {type: object, properties: {summary: {type: string}}, required: [summary], additionalProperties: false}
system: Summarise the record. {llm_schema}
user: "{context}"
judge: |
  {context}
  Is this a true summary of it? {answer}
""",
}

SETTLED_SECONDS = 20.0
PAUSED = 4
TOO_LATE = 5
ROWS_FAILED = 3


@dataclass(frozen=True)
class Case:
    """A kind of job, and what the provider does to it.

    Attributes:
        name: `<provider>/<what happens>`; the provider is `concurrent` for single calls.
        shard: items of one batch.
        faults: of the sandbox, from the job's beginning.
        words: what the sandbox is asked to do with single rows, in one word, by the row's number.
        task: of `TASKS`, or the shipped one.
        rejects: the part of first answers that the judge of a judged task rejects.
        failed: rows that get no answer, by number.
        cancelled: the job is cancelled once it has begun.
        settings: environment variables of its runs.
    """

    name: str
    rows: int = 40
    shard: int = 10
    batch_seconds: float = 0.15
    call_ms: float = 0.0
    faults: tuple[dict[str, Any], ...] = ()
    words: dict[int, str] = field(default_factory=dict)
    task: str = "summarize"
    rejects: float = 0.0
    failed: frozenset[int] = frozenset()
    cancelled: bool = False
    settings: dict[str, str] = field(default_factory=dict)

    @property
    def concurrent(self) -> bool:
        """Whether it goes by single calls."""
        return self.name.startswith("concurrent/")

    @property
    def provider(self) -> str:
        """The provider's name in config.json."""
        return "openai" if self.concurrent else self.name.partition("/")[0]

    @property
    def behaviour(self) -> dict[str, Any]:
        """The sandbox's."""
        pace = {"batch_seconds": self.batch_seconds, "call_ms": self.call_ms}
        return {**pace, "faults": self.faults, "reject_share": self.rejects, "reject_first_only": True}


@dataclass
class Bench:
    """What all jobs of a test process share: the warmed process, the sandbox, and a place for their folders."""

    zygote: Zygote
    sandbox: Sandbox
    folder: Path
    numbers: itertools.count[int] = field(default_factory=itertools.count)


@dataclass(frozen=True)
class Audit:
    """What a job, or several, came to.

    Attributes:
        killed_running: kills while its calls or batches were under way.
        executed: calls that the provider billed.
        twice: calls that were executed though their item had been executed before, and nothing asked for it.
        lost: calls that were executed and are not in our books: the process died before it had their answer.
    """

    kills: int = 0
    killed_running: int = 0
    runs: int = 0
    jobs: int = 0
    rows: int = 0
    executed: int = 0
    twice: int = 0
    lost: int = 0
    seconds: float = 0.0

    @property
    def figures(self) -> dict[str, float]:
        """For the record."""
        return {**asdict(self), "seconds": round(self.seconds, 1)}

    def __add__(self, other: Audit) -> Audit:
        return Audit(*(ours + theirs for ours, theirs in zip(astuple(self), astuple(other), strict=True)))


class KilledJob:
    """One job in a folder of its own, with a key of its own, alone at its sandbox while it lives."""

    def __init__(self, bench: Bench, case: Case) -> None:
        self.bench, self.case = bench, case
        number = next(bench.numbers)
        self.folder = bench.folder / f"job-{number:04d}"
        self.kills: list[str] = []
        self.runs = self.killed_running = 0
        self.task_id: str | None = None
        self._cancelling = self._late = False
        self._begun = time.monotonic()
        self.rows = losses(case.rows, 1_000_000 + number * 10_000)
        for row, word in case.words.items():
            self.rows[row]["DescriptionOfEvent"] += f" Please {word} this one."
        self._make_project()
        self._behave()
        self._newest = {
            table: max((row["seq"] for row in self._rows(table, 0, f"seq = (SELECT max(seq) FROM {table})")), default=0)
            for table in ("bill", "batches")
        }

    def _make_project(self) -> None:
        self.folder.mkdir(parents=True)
        shutil.copy(REPOSITORY / "config.json", self.folder)
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(REPOSITORY / "prompt_lib", self.folder / "prompt_lib", ignore=ignored)
        for name, text in PROMPTS.items():
            (self.folder / "prompt_lib" / name).write_text(text, "utf-8")
        config = json.loads((self.folder / "config.json").read_text("utf-8"))
        shipped = config["tasks"]["summarize"]
        config["tasks"].update({name: {**shipped, **own} for name, own in TASKS.items()})
        cases = {name: {**case, "grouping": GROUPING} for name, case in shipped["data_cases"].items()}
        config["tasks"]["grouped"]["data_cases"] = cases
        (self.folder / "config.json").write_text(json.dumps(config), "utf-8")
        self.file = write_csv(self.folder / "losses.csv", self.rows)
        self._upload = self.file.read_bytes()
        limit = f"BATCH_JOBS__PROVIDERS__{self.case.provider.upper()}__LIMITS__MAX_REQUESTS"
        own = {
            limit: str(self.case.shard),
            "BATCH_JOBS__SUBMISSION__QUARANTINE_SECONDS": QUARANTINE_SECONDS,
            "BATCH_JOBS__CONCURRENT__MAX_WORKERS": str(WORKERS),
            "BATCH_JOBS__CONCURRENT__ATTEMPTS": "6",
            **self.case.settings,
        }
        self.environ = clean_environ({**self.bench.sandbox.environ(), **own})

    def _behave(self) -> None:
        data = json.dumps(self.case.behaviour).encode()
        request = urllib.request.Request(f"{self.bench.sandbox.url}/sandbox/behaviour", data, method="PUT")
        with urllib.request.urlopen(request, timeout=10) as reply:
            reply.read()

    # -- its runs --------------------------------------------------------------------------------------------------

    @cached_property
    def log(self) -> Path:
        """The names of the steps that its runs came to."""
        return self.folder.with_suffix(".steps")

    def once(self, *, arm: tuple[str, dict[str, Any]] | None = None, kill_after: float | None = None) -> bool:
        """Give the command that a user would give now, and wait for its end.

        Returns:
            Whether the job is done.
        """
        if arm is not None:
            arm = (arm[0], {"root": str(self.folder), "log": str(self.log), **arm[1]})
        zygote = self.bench.zygote
        ended = zygote.run(*self._command(), cwd=self.folder, environ=self.environ, arm=arm, kill_after=kill_after)
        self.runs += 1
        if ended.killed:
            died_at = names_in(Path(arm[1]["done"]))[-1] if arm and "done" in arm[1] else f"{kill_after:.3f}"
            self.kills.append(died_at)
            self.killed_running += self.phase() == "running"
            self._cancelling |= self.case.cancelled and (
                "lifecycle.concurrent" in died_at or "lifecycle.pool" in died_at
            )
            return False
        return self._is_done(ended)

    def phase(self) -> str:
        """The phase of the newest job, as the ledger has it now."""
        path = self.folder / "store" / "ledger.sqlite"
        with (
            suppress(sqlite3.OperationalError),
            closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection,
        ):
            row = connection.execute("SELECT phase FROM jobs ORDER BY created_at DESC LIMIT 1").fetchone()
            return str(row[0]) if row else ""
        return ""  # not made yet

    def _command(self) -> list[str | Path]:
        if self._late:
            return ["status", self._id(), "--watch", "--json"]
        if self._cancelling:
            return ["cancel", self._id(), "--json"]
        case = "--task", self.case.task, "--data-case", "external_loss", "--provider", self.case.provider
        mode = ["concurrent"] if self.case.concurrent else ["batch", *(["--detach"] if self.case.cancelled else [])]
        return ["run", "--file", self.file, *case, "--yes", "--json", "--mode", *mode]

    def _id(self) -> str:
        if self.task_id is None:
            self.task_id = self._ask("jobs")[0]["task_id"]
        return self.task_id

    def _is_done(self, ended: Ended) -> bool:
        assert "a bug" not in ended.err, self.story(ended.err)
        if ended.code == PAUSED:
            return False
        if ended.code == TOO_LATE and self._cancelling:
            self._late = True
            return False
        fine = {0, ROWS_FAILED} if self.case.failed or self.case.cancelled else {0}
        assert ended.code in fine, self.story(f"exit code {ended.code}: {ended.err}")
        if self.case.cancelled and not self._cancelling:
            self._cancelling = True
            return False
        self.end = json.loads(ended.out)
        return True

    def finish(self) -> None:
        """Give the command again until the job is done; nothing is killed any more."""
        for _ in range(6):
            if self.once():
                return
        raise AssertionError(self.story("is not done after six runs without a kill"))

    def _ask(self, *command: str) -> Any:
        ended = self.bench.zygote.run(*command, "--json", cwd=self.folder, environ=self.environ)
        assert ended.code == 0, self.story(f"{command}: exit code {ended.code}: {ended.err}{ended.out}")
        return json.loads(ended.out)

    def story(self, problem: str) -> str:
        """What went wrong, where to look, and how it was killed."""
        kills = "\n".join(f"  --kill {kill!r} \\" for kill in self.kills)
        again = f"python -m tests.faults.sweep --case {self.case.name} \\\n{kills}"
        return f"{self.case.name}: {problem}\nfolder: {self.folder}\nagain, roughly:\n{again}"

    # -- what it came to -------------------------------------------------------------------------------------------

    def audit(self) -> Audit:
        """Check a done job in every way, remove its folder, and give its figures."""
        self._check_output()
        self._ask("check-store")
        executed, withheld = self._bill(), self._withheld()
        booked = self._ask("jobs")
        handed_over = sum(Path(job["output"]).parent == self.folder for job in booked)
        # whoever asks again when the file is there, without the words of the run that made it, asks for a new job,
        # which tries the rows without an answer anew
        twice = self._executed_twice(executed) - max(handed_over - 1, 0) * len(self.case.failed)
        lost = self._check_cost([line for line in executed if line["batch_id"] not in withheld], booked)
        in_flight = WORKERS * self.killed_running if self.case.concurrent else 0
        assert 0 <= twice <= in_flight, self.story(f"{twice} items were billed twice, {in_flight} may have been")
        assert 0 <= lost <= in_flight, self.story(f"{lost} calls are not in the books, {in_flight} may have been lost")
        if not self.case.concurrent:
            self._check_creates()
        seconds = time.monotonic() - self._begun
        figures = Audit(
            len(self.kills), self.killed_running, self.runs, 1, self.case.rows, len(executed), twice, lost, seconds
        )
        shutil.rmtree(self.folder)
        return figures

    def _check_output(self) -> None:
        assert self.file.read_bytes() == self._upload, self.story("the upload was changed")
        written = read_csv(Path(self.end["output"]))
        assert len(written) == len(self.rows), self.story(f"{len(self.rows)} rows became {len(written)}")
        for number, (row, was) in enumerate(zip(written, self.rows, strict=True)):
            status = row[f"{self.case.task}_status"]
            answered = status == "ok"
            fine = own_answer(row) if answered else row["summary"] == "" and status != ""
            wanted = self.case.cancelled or answered == (number not in self.case.failed)
            same = {name: row[name] for name in was} == was
            assert fine and wanted and same, self.story(f"row {number} is wrong: {row}")

    def _bill(self) -> list[dict[str, Any]]:
        """Every call that was executed for this job, once all its batches, the late ones too, have ended."""
        deadline = time.monotonic() + SETTLED_SECONDS
        while self._rows("batches", self._newest["batches"], "NOT settled"):
            assert time.monotonic() < deadline, self.story("a batch does not end")
            time.sleep(0.02)
            self.bench.sandbox.ask("bill")  # settles what is due
        return self._rows("bill", self._newest["bill"])

    def _withheld(self) -> set[str]:
        """Batches that bill what they had done and hand out nothing: Gemini's, when they were cancelled."""
        ended = self._rows("batches", self._newest["batches"], "dialect = 'gemini' AND cancelled_at IS NOT NULL")
        return {row["batch_id"] for row in ended if not json.loads(row["outcome"]).get("output_file")}

    def _executed_twice(self, executed: list[dict[str, Any]]) -> int:
        """Calls beyond one a request: what goes again because its answer was of no use says why, so it is another.

        In a batch each id is executed once in any case.
        """
        if not self.case.concurrent:
            ids = Counter(line["custom_id"] for line in executed)
            assert not ids or max(ids.values()) == 1, self.story(f"executed twice under one id: {ids.most_common(3)}")
        return len(executed) - len({line["request_hash"] for line in executed})

    def _check_cost(self, executed: list[dict[str, Any]], booked: list[dict[str, Any]]) -> int:
        """Compare bill and books, and give the number of calls that are on the bill only."""
        entry = json.loads((self.folder / "config.json").read_text())["providers"][self.case.provider]
        price = entry["models"][entry["model"]]["standard" if self.case.concurrent else "batch"]
        costs = [
            (line["input_tokens"] - line["cached_tokens"]) * price["input"] / 1e6
            + line["cached_tokens"] * price["cached"] / 1e6
            + line["output_tokens"] * price["output"] / 1e6
            for line in executed
        ]
        ours = sum(job["cost_usd"] for job in booked)
        lost = len(executed) - sum(int(document["costs"]["1"]["calls"]) for document in self._manifests())
        missing, rounding = sum(costs) - ours, 1e-6 * len(booked)
        fine = -rounding <= missing <= lost * max(costs, default=0.0) + rounding
        assert fine, self.story(f"our books say {ours} USD, the bill says {sum(costs)} USD, {lost} calls are lost")
        return lost

    def _check_creates(self) -> None:
        """The provider has no batch that we do not know, and so it has each shard once."""
        known = [batch.get("batch_id") for each in self._manifests() for batch in each.get("batches", {}).values()]
        ours = sorted(batch_id for batch_id in known if batch_id)
        theirs = sorted(row["batch_id"] for row in self._rows("batches", self._newest["batches"]))
        assert ours == theirs, self.story(f"batches: ours {ours}, the provider's {theirs}")

    def _manifests(self) -> list[dict[str, Any]]:
        return [json.loads(path.read_bytes()) for path in sorted(self.folder.glob("batch_output/*/manifest.json"))]

    def _rows(self, table: str, after: int, where: str = "TRUE") -> list[dict[str, Any]]:
        """What the sandbox has written down since then; it serves one job at a time."""
        with closing(sqlite3.connect(self.bench.sandbox.state / "sandbox.sqlite")) as connection:
            connection.row_factory = sqlite3.Row
            found = connection.execute(f"SELECT * FROM {table} WHERE seq > ? AND {where}", (after,))
            return [dict(row) for row in found]
