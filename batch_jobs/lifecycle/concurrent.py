"""The concurrent path: every open item is answered by single calls; what comes back is merged in groups, cache first.

The pool (`batch_jobs.lifecycle.pool`) decides when a call goes out; here is what a job gives to it and does with what
it brings. A stop finishes what is in flight.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import IO

import orjson

from batch_jobs import system
from batch_jobs.config import pick
from batch_jobs.errors import ProviderError
from batch_jobs.lifecycle.checking import checked_result
from batch_jobs.lifecycle.control import has_mass_error
from batch_jobs.lifecycle.filing import expect_folders, file_answers
from batch_jobs.lifecycle.merge import Attempt, Merger
from batch_jobs.lifecycle.plan import layout_of
from batch_jobs.lifecycle.pool.calls import Pool, Settled, Way
from batch_jobs.lifecycle.pool.retries import Call
from batch_jobs.lifecycle.pool.tell import Teller
from batch_jobs.lifecycle.pool.tracker import Tracker
from batch_jobs.lifecycle.run import Run
from batch_jobs.lifecycle.sharing import claim_calls
from batch_jobs.models import ItemResult, Layout, Phase
from batch_jobs.render.bodies import BYTES_PER_TOKEN, BodyReader
from batch_jobs.render.items import read_chosen
from batch_jobs.storage import items, jobs
from batch_jobs.storage.files import store_errors
from batch_jobs.storage.jobs import Job
from providers.connect import codec_for
from providers.contract import Codec

FILE_EVERY = 1_000
EXPECT_AFTER_SECONDS = 5.0
"""A job that is answered sooner needs no folders of what waits."""
LOOK_SECONDS = 0.1
"""How soon a job that was cancelled or paused elsewhere begins no further call, beside a look after each merge."""


@dataclass
class AllAnswered:
    """What a pass over the open items came to.

    Attributes:
        blocked: the error that concerns the account, for which the job has to wait.
        held: open items that other jobs have under way, by their task_id.
        wait_seconds: nothing may go out for so long (the provider's word, or the breaker's); items are still open.
    """

    blocked: ProviderError | None = None
    held: Mapping[str, int] = field(default_factory=dict)
    wait_seconds: float | None = None


def answer_all(run: Run, job: Job) -> AllAnswered:
    """Answer every open item of a job that no other job has under way.

    It ends early when the run is stopped, the job cancelled, the account blocked, when all calls fail alike, or when
    nothing may go out for long.
    """
    project = run.project
    found = claim_calls(run, job)
    codec = codec_for(project.entry(job.provider).dialect, job.endpoint)
    merger = Merger(run, job, last_round=True)
    going = _Going(run, job)
    way = _way(run, job, codec, merger, going)
    tracker = Tracker(len(found.free), way.clock())
    plan = project.workspace.plan(job.task_id)
    with (
        store_errors(plan),
        BodyReader(plan) as reader,
        _artefacts(run, job) as (log_sent, log_received),
        ThreadPoolExecutor(1, "file") as executor,
    ):
        filing = _Filing(run, job, found.free, executor)
        pool = Pool(way, _calls(run, job, found.free, reader, codec, log_sent), tracker)
        with Teller(run, job, pool, way).telling() as tell:
            for group in pool.groups():
                _merge(run, job, merger, [settled.attempt for settled in group])
                log_received.writelines(_lines(group))
                going.look()
                if group and merger.tally.looks_like_mass_error(project.settings.rounds) and has_mass_error(run, job):
                    pool.halt()
                filing.add([settled.attempt.item for settled in group if settled.attempt.answered])
                tell()
        filing.finish(goes_on=not going.stopped())
    if pool.left:
        project.gates.kept[job.task_id] = pool.left
    return AllAnswered(pool.blocked, found.held, pool.leaves_for_seconds)


def _way(run: Run, job: Job, codec: Codec, merger: Merger, going: _Going) -> Way:
    provider, prompt = run.project.provider(job), merger.prompt

    def complete(body: bytes) -> ItemResult:
        return checked_result(prompt, provider.complete(body))

    return Way(
        task_id=job.task_id,
        complete=complete,
        codec=codec,
        output_limit=job.parameters.max_output_tokens,
        settings=run.project.settings.concurrent,
        gate=run.project.gate(job),
        clock=run.project.gates.clock,
        stopped=going.stopped,
    )


@dataclass
class _Going:
    """Whether a job still is to make calls: it was neither stopped here nor paused or cancelled elsewhere."""

    run: Run
    job: Job
    _over: bool = False
    _looked_at: float = float("-inf")

    def stopped(self) -> bool:
        """Whether it is not."""
        if self.run.stop.is_set():
            return True
        if self.run.project.gates.clock() - self._looked_at >= LOOK_SECONDS:
            self.look()
        return self._over

    def look(self) -> None:
        """Look into the ledger."""
        self._looked_at = self.run.project.gates.clock()
        with self.run.project.ledger.read() as connection:
            self._over = self._over or jobs.get(connection, self.job.task_id).phase is not Phase.RUNNING


@contextlib.contextmanager
def _artefacts(run: Run, job: Job) -> Iterator[tuple[IO[bytes], IO[bytes]]]:
    """What is sent, and what comes back, a line a request and a line a call; for audit, the cache is the truth."""
    workspace = run.project.workspace
    sent = workspace.calls_sent(job.task_id)
    received = workspace.calls_received(job.task_id)
    for path in (sent, received):
        path.parent.mkdir(parents=True, exist_ok=True)
    with sent.open("ab") as log_sent, received.open("ab") as log_received:
        for path in (sent, received):
            system.sync_folder(path.parent)  # they are there after a crash, whatever they hold
        yield log_sent, log_received


def _calls(run: Run, job: Job, waiting: list[int], reader: BodyReader, codec: Codec, log: IO[bytes]) -> Iterator[Call]:
    task = pick("task", job.task, run.project.settings.tasks)
    kept = run.project.gates.kept.pop(job.task_id, {})
    for planned in read_chosen(run.project.workspace.plan(job.task_id), waiting):
        body = reader.read(planned)
        log.write(codec.encode_line(f"{job.task_id}-c{planned.item}", body))
        tokens = len(body) / BYTES_PER_TOKEN + task.expected_output_tokens
        yield kept.get(planned.item) or Call(planned.item, body, tokens)


def _lines(group: Sequence[Settled]) -> Iterator[bytes]:
    for settled in group:
        result = {name: getattr(settled.attempt.result, name) for name in ItemResult.__slots__}
        how = {"item": settled.attempt.item, "begun": settled.begun, "seconds": settled.seconds}
        yield orjson.dumps({**how, **result}, option=orjson.OPT_APPEND_NEWLINE)


def _merge(run: Run, job: Job, merger: Merger, attempts: Sequence[Attempt]) -> None:
    if attempts:
        with run.project.ledger.read() as connection:
            records = items.some(connection, job.task_id, [attempt.item for attempt in attempts])
        merger.merge_now(attempts, records)


class _Filing:
    """Files answers beside the calls, a thousand at a time: it takes half a second, in which no call would go out.

    Once the job has gone on for a while it also makes the folders of what waits, from the end: what is answered first
    is filed at once, and its folder was never needed.
    """

    def __init__(self, run: Run, job: Job, waiting: list[int], executor: ThreadPoolExecutor) -> None:
        self._run, self._job, self._executor = run, job, executor
        self._done, self._answered = list[int](), set[int]()
        self._waiting = [] if layout_of(job) is Layout.PACKED else waiting
        self._under_way: Future[int] | None = None
        self._began = run.project.gates.clock()

    def add(self, done: list[int]) -> None:
        """Note items that are answered; where nothing is under way, go on with what is worth it. Never waits."""
        self._done += done
        self._answered.update(done)
        if self._under_way is not None and not self._under_way.done():
            return
        if len(self._done) >= FILE_EVERY:
            self._file()
        elif self._waiting and self._run.project.gates.clock() - self._began >= EXPECT_AFTER_SECONDS:
            self._expect()

    def finish(self, *, goes_on: bool) -> None:
        """Do what is left; returns when all is done.

        Args:
            goes_on: what has no answer gets its folders, too: it waits for an operator or a provider, or it failed.
        """
        self._file()
        while self._waiting and goes_on:
            self._expect()
        self._settle()

    def _settle(self) -> None:
        if self._under_way is not None:
            self._under_way.result()

    def _file(self) -> None:
        self._settle()
        if self._done:
            self._under_way = self._executor.submit(file_answers, self._run.project, self._job, self._done)
            self._done = []

    def _expect(self) -> None:
        """Make the folders of the last items that wait and have none yet."""
        self._settle()
        self._waiting, last = self._waiting[:-FILE_EVERY], self._waiting[-FILE_EVERY:]
        still = [item for item in last if item not in self._answered]
        if still:
            self._under_way = self._executor.submit(expect_folders, self._run.project, self._job, still)
