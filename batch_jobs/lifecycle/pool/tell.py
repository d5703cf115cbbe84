"""What people are told while calls are made: progress, the status document in the job's folder, lines in its log."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator
from typing import Any

from batch_jobs.lifecycle.manifest import iso
from batch_jobs.lifecycle.pool.calls import Pool, Way
from batch_jobs.lifecycle.pool.figures import write_figures
from batch_jobs.lifecycle.pool.gate import Reason, Standing
from batch_jobs.lifecycle.run import Progress, Run
from batch_jobs.models import BreakerState
from batch_jobs.storage.jobs import Job

logger = logging.getLogger(__name__)

WRITE_SECONDS = 5.0
LOG_SECONDS = 30.0
WORTH_SAYING_SECONDS = 1.0


class Teller:
    """Tells of one pass of a job."""

    def __init__(self, run: Run, job: Job, pool: Pool, way: Way) -> None:
        self.run, self.job, self.pool, self.way = run, job, pool, way
        self._written_at = self._logged_at = way.clock()
        self._said: tuple[BreakerState, str] = (BreakerState.CLOSED, "")

    @contextlib.contextmanager
    def telling(self) -> Iterator[Callable[[], None]]:
        """Yield what tells how it goes now, often called; at the end the document is written once more."""
        yield self._tell
        self._write(self._figures(self.way.gate.standing(self.way.clock())))

    def _tell(self) -> None:
        now = self.way.clock()
        standing = self.way.gate.standing(now)
        self._show(standing)
        if now - self._written_at >= WRITE_SECONDS:
            self._written_at = now
            self._write(self._figures(standing))
        if now - self._logged_at >= LOG_SECONDS:
            self._logged_at = now
            self._log("calls.progress", self._figures(standing))

    def _show(self, standing: Standing) -> None:
        tracker = self.pool.tracker
        detail = self._detail(standing)
        if (standing.breaker, detail) != self._said:
            self._said = standing.breaker, detail
            if detail:
                self._log("calls.waiting", {"why": detail, "breaker": standing.breaker})
        done = sum(tracker.ended.values())
        self.run.notify(Progress(self.job.task_id, "answering", done, tracker.total, detail))

    def _detail(self, standing: Standing) -> str:
        """Why nothing goes out, where that takes long enough to be asked."""
        waits = self.pool.waits
        if waits is None or standing.waits_seconds < WORTH_SAYING_SECONDS:
            return "" if waits is None or waits.reason is not Reason.BREAKER else "waiting for one call, to see"
        until = iso(self.run.project.clock() + standing.waits_seconds) or ""
        if waits.reason is Reason.BREAKER:
            return f"the provider fails call after call: trying again at {until[11:19]} UTC"
        return f"cooling down until {until[11:19]} UTC, as the provider asks"

    def _figures(self, standing: Standing) -> dict[str, Any]:
        pool = self.pool
        figures = pool.tracker.figures(
            self.way.clock(), in_flight=pool.in_flight, retrying=pool.retrying, standing=standing
        )
        return {"at": iso(self.run.project.clock()), **figures}

    def _write(self, figures: dict[str, Any]) -> None:
        write_figures(self.run.project, self.job.task_id, figures)

    def _log(self, name: str, data: dict[str, Any]) -> None:
        logger.info(name, extra={"task_id": self.job.task_id, "data": data})
