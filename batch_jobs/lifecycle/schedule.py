"""The poller: APScheduler runs `advance` for every open job, each job coming back when its own wait is over.

Used by the API server for all jobs and by a waiting CLI for one. Late runs are made up once, never dropped.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from batch_jobs.errors import BatchJobsError, JobHeld, StoreError
from batch_jobs.lifecycle.advance import Advanced, Came, advance
from batch_jobs.lifecycle.project import Project
from batch_jobs.lifecycle.run import Notify, nobody
from batch_jobs.models import Phase
from batch_jobs.storage import jobs

logger = logging.getLogger(__name__)

HELD_SECONDS = 2.0
FAILED_SECONDS = 30.0
SCAN_SECONDS = 5.0
OPEN_JOBS = 1_000
Ended = Callable[[str, Advanced | BatchJobsError], None]


class Poller:
    """Advances jobs in the background until `close`."""

    def __init__(
        self, project: Project, *, workers: int = 4, notify: Notify = nobody, ended: Ended | None = None
    ) -> None:
        from apscheduler.executors.pool import ThreadPoolExecutor
        from apscheduler.schedulers.background import BackgroundScheduler

        self.project, self.notify, self.ended = project, notify, ended
        self.stop = threading.Event()
        self._watched: set[str] = set()
        self._scheduler = BackgroundScheduler(
            executors={"default": ThreadPoolExecutor(workers), "scan": ThreadPoolExecutor(1)},
            job_defaults={"coalesce": True, "misfire_grace_time": None, "max_instances": 1},
            timezone=UTC,
        )
        self._scheduler.start()

    def watch(self, task_id: str, seconds: float = 0.0) -> None:
        """Advance a job after some seconds; one that is watched already keeps its own pace."""
        if self.stop.is_set():
            return
        self._watched.add(task_id)
        at = datetime.now(UTC) + timedelta(seconds=seconds)
        options: dict[str, Any] = {"args": [task_id], "id": task_id, "replace_existing": True}
        self._scheduler.add_job(self._advance, "date", run_date=at, **options)

    def watch_all(self) -> None:
        """Watch every open job of the store, now and as others come in."""
        self._scheduler.add_job(
            self._scan, "interval", seconds=SCAN_SECONDS, next_run_time=datetime.now(UTC), executor="scan"
        )

    def close(self) -> None:
        """Ask what is in flight to stop at its next safe point, and wait for it."""
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

    def _advance(self, task_id: str) -> None:
        try:
            advanced = advance(self.project, task_id, self.notify, self.stop)
        except JobHeld:
            self.watch(task_id, HELD_SECONDS)
        except BatchJobsError as error:
            logger.error("poller.job_failed", extra={"task_id": task_id, "data": {"why": error.message}})
            self._tell(task_id, error)
            if self.ended is None:
                self.watch(task_id, FAILED_SECONDS)
        except Exception as error:
            logger.exception("poller.bug", extra={"task_id": task_id})
            self._tell(task_id, BatchJobsError(f"a bug: {type(error).__name__}: {error}"))
        else:
            if advanced.came is Came.WAIT:
                self.watch(task_id, advanced.seconds)
            else:
                self._tell(task_id, advanced)

    def _tell(self, task_id: str, how: Advanced | BatchJobsError) -> None:
        self._watched.discard(task_id)
        if self.ended is not None:
            self.ended(task_id, how)
