"""Advance: take one job as far as it goes now, under its lease, and say when to come again.

Whoever comes may call it: the CLI that waits, the status script the next morning, the poller of the API server.
"""

from __future__ import annotations

import logging
import random
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from batch_jobs import system
from batch_jobs.errors import ProviderError, RequestRejected
from batch_jobs.lifecycle.admission import stalled_by
from batch_jobs.lifecycle.concurrent import answer_all
from batch_jobs.lifecycle.control import begin, pause, pause_on_mass_error
from batch_jobs.lifecycle.discard import discard_merged
from batch_jobs.lifecycle.finish import write_output
from batch_jobs.lifecycle.joblog import job_log
from batch_jobs.lifecycle.merge import last_round
from batch_jobs.lifecycle.passes import goes_on, pass_over, poll_pace
from batch_jobs.lifecycle.plan import plan_job
from batch_jobs.lifecycle.policy import poll_seconds
from batch_jobs.lifecycle.project import Project
from batch_jobs.lifecycle.rounds import open_round
from batch_jobs.lifecycle.run import Notify, Run, nobody
from batch_jobs.lifecycle.sides import side_of
from batch_jobs.models import BatchState, EventName, JobOutcome, Mode, Outcome, Phase, ShardState
from batch_jobs.storage import events, items, jobs, leases, shards
from batch_jobs.storage.files import store_errors
from batch_jobs.storage.jobs import Job, lease_name
from batch_jobs.storage.shards import Shard
from providers.codes import QUOTA_CODES

MANY_ROWS = 1_000
"""Of a job whose steps leave much to give back."""
logger = logging.getLogger(__name__)


class Came(StrEnum):
    """How far `advance` came."""

    DONE = "done"
    CONFIRM = "confirm"  # planned; somebody has to say that it may be sent
    PAUSED = "paused"
    WAIT = "wait"  # nothing to do before `seconds` have passed
    STOPPED = "stopped"  # asked to stop


@dataclass(frozen=True, slots=True)
class Advanced:
    """How far a job came, and when to come again.

    Attributes:
        seconds: when to come again, for `WAIT`.
        waits_for: other jobs of the store that have calls under way which this one needs.
    """

    came: Came
    seconds: float = 0.0
    waits_for: tuple[str, ...] = ()


def advance(project: Project, task_id: str, notify: Notify = nobody, stop: threading.Event | None = None) -> Advanced:
    """Take a job as far as it goes now.

    Raises:
        JobHeld: another process is advancing it.
        BatchJobsError: what the operator or user must hear about; the job stays resumable.
    """
    place = project.workspace.output(task_id)
    with store_errors(place), leases.holding(project.ledger.engine, lease_name(task_id)) as lease:
        run = Run(project, lease, notify, stop or threading.Event())
        job = _look_up(project, task_id)
        with job_log(project, task_id, simulated=job.simulated):
            while True:
                job = _look_up(project, task_id)
                advanced = _STEPS[job.phase](run, job)
                if job.rows >= MANY_ROWS:
                    system.give_memory_back()  # the next step is another kind of work
                if advanced is not None:
                    return advanced
                if run.stop.is_set():
                    return Advanced(Came.STOPPED)


def _look_up(project: Project, task_id: str) -> Job:
    with project.ledger.read() as connection:
        return jobs.get(connection, task_id)


def _received(run: Run, job: Job) -> Advanced | None:
    plan_job(run, job)
    return None


def _planned(run: Run, job: Job) -> Advanced | None:
    if not job.autostart:
        return Advanced(Came.CONFIRM)
    begin(run, job)
    return None


def _paused(_: Run, __: Job) -> Advanced | None:
    return Advanced(Came.PAUSED)


def _writing(run: Run, job: Job) -> Advanced | None:
    write_output(run, job)
    return None


def _done(_: Run, __: Job) -> Advanced | None:
    return Advanced(Came.DONE)


def _running(run: Run, job: Job) -> Advanced | None:
    try:
        return _concurrent(run, job) if job.mode is Mode.CONCURRENT else _batch(run, job)
    except ProviderError as error:
        if not error.operator:
            raise
        pause(run, job, error.message)
        return None


def _concurrent(run: Run, job: Job) -> Advanced | None:
    answered = answer_all(run, job)
    if answered.blocked is not None:
        raise answered.blocked
    if run.stop.is_set():
        return Advanced(Came.STOPPED)
    if pause_on_mass_error(run, job):
        return None
    if answered.wait_seconds is not None and goes_on(run, job):
        return Advanced(Came.WAIT, answered.wait_seconds)
    if answered.held and goes_on(run, job):
        return _held(run, job, answered.held)
    _close(run, job, Outcome.MISSING)
    return None


def _held(run: Run, job: Job, held: Mapping[str, int], seconds: float | None = None) -> Advanced:
    """Wait for the answers that other jobs have under way."""
    age = run.project.clock() - (job.started_at or job.created_at)
    own = poll_seconds(max(age, 0.0), poll_pace(run), random.random())
    return Advanced(Came.WAIT, min(own, seconds if seconds is not None else own), tuple(sorted(held)))


def _batch(run: Run, job: Job) -> Advanced | None:
    """One pass over the round's shards; then the next round, the end, or a wait."""
    held, split = open_round(run, job).held, _splits(run, job)
    waits = pass_over(run, job)
    if run.stop.is_set():
        return Advanced(Came.STOPPED)
    if not goes_on(run, job) or _splits(run, job) > split:
        return None  # paused or cancelled meanwhile; or there are items that go into smaller shards of this round
    if held:
        return _held(run, job, held, waits)
    if waits is not None:
        return _wait(run, job, waits)
    discard_merged(run, job)
    with run.project.ledger.read() as connection:
        left = items.open_items(connection, job.task_id)
        blocked = items.blocked(connection, job.task_id, QUOTA_CODES, job.round_base)
    if blocked is not None:  # a process that died between merging and pausing left this to us
        pause(run, job, blocked)
        return None
    if left and not last_round(run, job, job.round):
        with run.write() as connection:
            jobs.change(connection, job.task_id, round=job.round + 1)
            events.add(connection, job.task_id, EventName.ROUND_ENDED, {"round": job.round, "open": len(left)})
        return None
    if pause_on_mass_error(run, job):
        return None
    _close(run, job, Outcome.MISSING)
    return None


def _wait(run: Run, job: Job, seconds: float) -> Advanced | None:
    """Come again later; a job that gets nothing into an empty queue for too long is paused."""
    stalled = stalled_by(run, job)
    if stalled is None:
        return Advanced(Came.WAIT, seconds)
    pause(run, job, stalled)
    return None


def _splits(run: Run, job: Job) -> int:
    with run.project.ledger.read() as connection:
        return sum(shard.split for shard in shards.of_job(connection, job.task_id, job.round))


def _cancelling(run: Run, job: Job) -> Advanced | None:
    """Stop what can be stopped, fetch what was finished, and end."""
    with run.project.ledger.read() as connection:
        under_way = [s for s in shards.of_job(connection, job.task_id) if s.state is not ShardState.MERGED]
    if any(shard.state is ShardState.SUBMITTED for shard in under_way):
        _cancel_batches(run, job, under_way)
    waits = pass_over(run, job)
    if waits is not None:
        return Advanced(Came.STOPPED) if run.stop.is_set() else Advanced(Came.WAIT, waits)
    discard_merged(run, job)
    _close(run, job, Outcome.CANCELLED, cancelled=True)
    return None


def _cancel_batches(run: Run, job: Job, under_way: list[Shard]) -> None:
    for shard in under_way:
        if shard.state is ShardState.SUBMITTED and shard.batch_id and shard.batch_state is not BatchState.CANCELLING:
            try:
                run.project.provider(side_of(job, shard.kind)).cancel(shard.batch_id)
            except RequestRejected:  # it has ended meanwhile; the poll will see it
                logger.info("cancel.too_late", extra={"task_id": job.task_id, "data": {"batch": shard.batch_id}})
            except ProviderError as error:  # the next pass asks again; the other batches are not kept waiting
                if error.operator:
                    raise
                data = {"batch": shard.batch_id, "why": error.message}
                logger.warning("cancel.failed", extra={"task_id": job.task_id, "data": data})


def _close(run: Run, job: Job, otherwise: Outcome, *, cancelled: bool = False) -> None:
    """Every item has its outcome now: on to the output file."""
    with run.write() as connection:
        if jobs.get(connection, job.task_id).phase is not job.phase:
            return  # paused or cancelled meanwhile
        items.close_open(connection, job.task_id, otherwise)
        jobs.move(connection, job, Phase.WRITING, outcome=JobOutcome.CANCELLED if cancelled else None)
        events.add(connection, job.task_id, EventName.JOB_WRITING)


_STEPS: dict[Phase, Callable[[Run, Job], Advanced | None]] = {
    Phase.RECEIVED: _received,
    Phase.PLANNED: _planned,
    Phase.RUNNING: _running,
    Phase.PAUSED: _paused,
    Phase.CANCELLING: _cancelling,
    Phase.WRITING: _writing,
    Phase.DONE: _done,
}
