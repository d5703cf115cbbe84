"""Waits for a job in a library's way: no signal handlers, no printing but a bar on stderr, any thread, any notebook."""

from __future__ import annotations

import contextlib
import queue
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from batch_jobs.errors import BatchJobsError, JobHeld, ProviderError
from batch_jobs.lifecycle.run import Notify, Progress
from batch_jobs.models import Phase

if TYPE_CHECKING:
    from batch_jobs.lifecycle.advance import Advanced
    from batch_jobs.lifecycle.project import Project

LOOK_SECONDS = 0.2
QUIET_STEPS = frozenset({"trouble", "held"})


class Bar:
    """One tqdm bar a step, on stderr; none at all where it is not wanted."""

    def __init__(self, *, shown: bool) -> None:
        self._shown, self._step = shown, ""
        self._bar: Any = None

    def __call__(self, progress: Progress) -> None:
        """Show one progress; from one thread."""
        if not self._shown or progress.step in QUIET_STEPS:
            return
        if progress.step != self._step:
            self.close()
            from tqdm import tqdm

            self._step = progress.step
            self._bar = tqdm(total=progress.total, desc=progress.step, file=sys.stderr, leave=False)
        self._bar.total = progress.total
        self._bar.update(progress.done - self._bar.n)

    def close(self) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None


def follow(project: Project, task_id: str, *, progress: bool, timeout_seconds: float | None = None) -> bool:
    """Advance a job in the background until it is at an end of some kind, or the time is over.

    Ctrl-C (KeyboardInterrupt) lets what is in flight finish and be kept, and goes on to the caller.

    Returns:
        Whether it came to its end in time; otherwise its batches go on at the provider.

    Raises:
        BatchJobsError: what the job ran into; it can be gone on with.
    """
    from batch_jobs.lifecycle.schedule import Poller

    seen: queue.SimpleQueue[Progress | Advanced | BatchJobsError] = queue.SimpleQueue()

    def notify(news: Progress) -> None:
        if news.task_id == task_id:
            seen.put(news)

    def ended(which: str, how: Advanced | BatchJobsError) -> None:
        if which == task_id:
            seen.put(how)

    deadline = None if timeout_seconds is None else time.monotonic() + timeout_seconds
    poller, bar = Poller(project, workers=1, notify=notify, ended=ended), Bar(shown=progress)
    try:
        poller.watch(task_id)
        return _until_ended(seen, bar, deadline)
    finally:
        bar.close()
        poller.close()


def _until_ended(seen: queue.SimpleQueue[Any], show: Notify, deadline: float | None) -> bool:
    while deadline is None or time.monotonic() < deadline:
        try:
            news = seen.get(timeout=LOOK_SECONDS)
        except queue.Empty:
            continue
        if isinstance(news, BatchJobsError):
            raise news
        if not isinstance(news, Progress):
            return True
        show(news)
    return False


def look_once(project: Project, task_id: str, until: Callable[[], bool] | None = None) -> None:
    """Take a job as far as it goes now, without waiting for the provider.

    Args:
        project: opened.
        task_id: the job.
        until: go on looking, with the waits between, until this is so or there is nothing to wait for.
    """
    from batch_jobs.lifecycle.advance import Came, advance

    while True:
        try:
            advanced = advance(project, task_id)
        except JobHeld:
            return  # another process is at it
        for other in advanced.waits_for:  # whose process may be gone; what it has under way is needed here
            _take_along(project, other)
        done = until is None or advanced.came is not Came.WAIT or bool(advanced.waits_for) or until()
        if done:
            return
        time.sleep(advanced.seconds)


def _take_along(project: Project, task_id: str) -> None:
    """Advance a job that another one waits for; its own trouble is told to who asks for that job."""
    from batch_jobs.lifecycle.advance import advance

    with contextlib.suppress(BatchJobsError):
        advance(project, task_id)


def refuse_paused(project: Project, task_id: str) -> None:
    """Say why a job that waits for an operator has no result.

    Raises:
        ProviderError: it waits for one.
    """
    from batch_jobs.storage import jobs

    with project.ledger.read() as connection:
        job = jobs.get(connection, task_id)
    if job.phase is Phase.PAUSED:
        raise ProviderError(
            f"job {task_id} is paused: {job.message}. What was answered is kept; once it is mended, make the same call "
            "again, and it goes on"
        )
