"""The poller: APScheduler runs `advance` for every open job, each job coming back when its own wait is over.

Used by the API server for all jobs and by a waiting CLI for one. Late runs are made up once, never dropped.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from batch_jobs.errors import BatchJobsError, JobHeld, StoreError, SyncFailed
from batch_jobs.lifecycle.advance import Advanced, Came, advance
from batch_jobs.lifecycle.project import Project
from batch_jobs.lifecycle.run import Notify, Progress, nobody
from batch_jobs.models import Phase
from batch_jobs.storage import jobs

if TYPE_CHECKING:
    from apscheduler.schedulers.background import BackgroundScheduler

logger = logging.getLogger(__name__)

HELD_SECONDS = 2.0
FAILED_SECONDS = 30.0
SCAN_SECONDS = 5.0
OPEN_JOBS = 1_000
Ended = Callable[[str, Advanced | BatchJobsError], None]


def scheduler_of(workers: int) -> BackgroundScheduler:
    """A scheduler that is not started: late runs are made up once, and one for scanning never waits for the others."""
    from apscheduler.executors.pool import ThreadPoolExecutor
    from apscheduler.jobstores.base import JobLookupError
    from apscheduler.schedulers.background import BackgroundScheduler

    class Scheduler(BackgroundScheduler):  # type: ignore[misc]
        """Lets go of a job that is gone: a shutdown while its thread goes over the due ones (APScheduler 3.11)."""

        def remove_job(self, job_id: str, jobstore: str | None = None) -> None:
            with contextlib.suppress(JobLookupError):
                super().remove_job(job_id, jobstore)

    return Scheduler(
        executors={"default": ThreadPoolExecutor(workers), "scan": ThreadPoolExecutor(1)},
        job_defaults={"coalesce": True, "misfire_grace_time": None, "max_instances": 2},
        timezone=UTC,
    )


class Poller:
    """Advances jobs in the background until `close`."""

    def __init__(
        self, project: Project, *, workers: int = 4, notify: Notify = nobody, ended: Ended | None = None
    ) -> None:
        self.project, self.notify, self.ended = project, notify, ended
        self.stop = threading.Event()
        self._lock = threading.Lock()
        self._watched: set[str] = set()
        self._running: set[str] = set()
        self._again: dict[str, float] = {}
        self._scheduler = scheduler_of(workers)
        self._scheduler.start()

    def watch(self, task_id: str, seconds: float = 0.0) -> None:
        """Advance a job after some seconds; one that is being advanced right now is looked at again after that."""
        with self._lock:
            if self.stop.is_set():
                return
            self._watched.add(task_id)
            if task_id in self._running:
                self._again[task_id] = min(seconds, self._again.get(task_id, seconds))
                return
            at = datetime.now(UTC) + timedelta(seconds=seconds)
            options: dict[str, Any] = {"args": [task_id], "id": task_id, "replace_existing": True}
            self._scheduler.add_job(self._run, "date", run_date=at, **options)

    def watch_all(self) -> None:
        """Watch every open job of the store, now and as others come in."""
        self._scheduler.add_job(
            self._scan, "interval", seconds=SCAN_SECONDS, next_run_time=datetime.now(UTC), executor="scan"
        )

    def close(self) -> None:
        """Ask what is in flight to stop at its next safe point, and wait for it."""
        with self._lock:  # nothing is added after this: the scheduler waits for its workers with its own lock held
            self.stop.set()
        if self._scheduler.running:
            self._scheduler.shutdown(wait=True)

    def _scan(self) -> None:
        try:
            with self.project.ledger.read() as connection:
                found = jobs.newest(connection, OPEN_JOBS, unfinished_only=True)
        except StoreError:
            logger.exception("poller.scan_failed")
            return
        for job in found:
            waits_for_people = job.phase is Phase.PAUSED or (job.phase is Phase.PLANNED and not job.autostart)
            if not waits_for_people and job.task_id not in self._watched:
                self.watch(job.task_id)

    def _run(self, task_id: str) -> None:
        """Advance a job, once at a time; what asked for it meanwhile is done after it, and not dropped."""
        with self._lock:
            self._running.add(task_id)
        try:
            self._advance(task_id)
        finally:
            with self._lock:
                self._running.discard(task_id)
                seconds = self._again.pop(task_id, None)
            if seconds is not None:
                self.watch(task_id, seconds)

    def _advance(self, task_id: str) -> None:
        try:
            advanced = advance(self.project, task_id, self.notify, self.stop)
        except JobHeld:
            self.notify(Progress(task_id, "held", 0, 0, "another process works on this job"))
            self.watch(task_id, HELD_SECONDS)
        except SyncFailed as error:
            logger.critical("poller.sync_failed", extra={"task_id": task_id, "data": {"why": error.message}})
            self.stop.set()
            self._tell(task_id, error)
        except BatchJobsError as error:
            logger.error("poller.job_failed", extra={"task_id": task_id, "data": {"why": error.message}})
            self._tell(task_id, error)
            if self.ended is None:
                self.watch(task_id, FAILED_SECONDS)
        except Exception as error:
            logger.exception("poller.bug", extra={"task_id": task_id})
            self._tell(task_id, BatchJobsError(f"a bug: {type(error).__name__}: {error}"))
            self._watched.add(task_id)  # it would only fail again: a restart tries it once more
        else:
            if advanced.came is Came.WAIT:
                self.watch(task_id, advanced.seconds)
                for other in advanced.waits_for:  # whose process may be gone; what it has under way is needed here
                    self.watch(other)
            else:
                self._tell(task_id, advanced)

    def _tell(self, task_id: str, how: Advanced | BatchJobsError) -> None:
        self._watched.discard(task_id)
        if self.ended is not None:
            self.ended(task_id, how)
