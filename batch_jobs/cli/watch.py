"""Waits for a job and shows how it goes: tqdm on a terminal's stderr, plain lines elsewhere."""

from __future__ import annotations

import queue
import signal
import sys
import time
from typing import TYPE_CHECKING, Any

import click

from batch_jobs.cli.show import LABEL_CHARS, duration, line
from batch_jobs.errors import BatchJobsError, Interrupted, JobHeld
from batch_jobs.lifecycle.run import Progress

if TYPE_CHECKING:
    from batch_jobs.lifecycle.advance import Advanced
    from batch_jobs.lifecycle.project import Project

UNITS = {
    "rendering": "row",
    "answering": "item",
    "waiting": "item",
    "merging": "item",
    "writing": "row",
    "filing": "row",
}
LOOK_SECONDS = 0.2


class Bars:
    """One bar per step; call it with every Progress (from one thread)."""

    def __init__(self, *, quiet: bool = False) -> None:
        self.quiet, self.terminal = quiet, sys.stderr.isatty()
        self._step = ""
        self._bar: Any = None
        self._said = ""

    def __call__(self, progress: Progress) -> None:
        """Show one progress."""
        if progress.step == "trouble":
            self._tell(line("trouble", f"{progress.detail}; trying again"))
        elif progress.step == "held":
            self._tell(line("held", f"{progress.detail}; waiting for it"))
        elif self.terminal and not self.quiet:
            self._draw(progress)
        elif progress.step != self._step or progress.detail != self._said:
            left = f", about {duration(progress.eta_seconds)} left" if progress.eta_seconds else ""
            detail = f" {progress.detail.replace('_', ' ')}" if progress.detail else ""
            self._tell(line(progress.step, f"{progress.done:,}/{progress.total:,}{detail}{left}"))
            self._step, self._said = progress.step, progress.detail

    def _tell(self, text: str) -> None:
        if text == self._said:
            return
        if self._bar is not None:
            self._bar.clear()
        click.echo(text, err=True)
        self._said = text

    def _draw(self, progress: Progress) -> None:
        from tqdm import tqdm

        if progress.step != self._step or self._bar is None:
            self.close()
            unit = UNITS.get(progress.step, "item")
            left = "" if progress.step == "waiting" else ", {remaining} left, {rate_fmt}"
            form = "{desc}{percentage:3.0f}% {bar:24} {n_fmt}/{total_fmt}" + left + "{postfix}"
            self._bar = tqdm(total=progress.total, unit=unit, bar_format=form, file=sys.stderr, leave=False)
            self._bar.set_description_str(f"{progress.step:<{LABEL_CHARS}}")
            self._step = progress.step
        parts = [progress.detail.replace("_", " ").lower()] if progress.detail else []
        if progress.eta_seconds:
            parts.append(f"about {duration(progress.eta_seconds)} left")
        self._bar.total = progress.total
        self._bar.set_postfix_str(", ".join(parts), refresh=False)
        self._bar.update(progress.done - self._bar.n)
        self._bar.refresh()

    def close(self) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None


def advance_once(project: Project, task_id: str, bars: Bars) -> Advanced:
    """Take a job as far as it goes now; while another process works on it, say so and come again in a while."""
    from batch_jobs.lifecycle.advance import Advanced, Came, advance
    from batch_jobs.lifecycle.schedule import HELD_SECONDS

    try:
        return advance(project, task_id, bars)
    except JobHeld:
        bars(Progress(task_id, "held", 0, 0, "another process works on this job"))
        time.sleep(HELD_SECONDS)
        return Advanced(Came.WAIT)


def wait_for(project: Project, task_id: str, *, quiet: bool = False) -> Advanced:
    """Advance a job in the background until it is done, paused or waits for a word; show its progress.

    Raises:
        Interrupted: Ctrl-C; what was in flight was finished first.
        BatchJobsError: what the job ran into.
    """
    from batch_jobs.lifecycle.schedule import Poller

    seen: queue.SimpleQueue[Progress | Advanced | BatchJobsError] = queue.SimpleQueue()

    def notify(progress: Progress) -> None:
        if progress.task_id == task_id:  # jobs that this one waits for are taken along in silence
            seen.put(progress)

    def ended(which: str, how: Advanced | BatchJobsError) -> None:
        if which == task_id:
            seen.put(how)

    poller = Poller(project, workers=1, notify=notify, ended=ended)
    bars = Bars(quiet=quiet)
    previous = signal.signal(signal.SIGTERM, _interrupt)
    try:
        poller.watch(task_id)
        while True:
            try:
                news = seen.get(timeout=LOOK_SECONDS)
            except queue.Empty:
                continue
            if isinstance(news, Progress):
                bars(news)
            elif isinstance(news, BatchJobsError):
                raise news
            else:
                return news
    except KeyboardInterrupt:
        bars.close()
        click.echo("\nfinishing what is in flight (Ctrl-C again to stop at once) ...", err=True)
        poller.close()
        raise Interrupted(
            f"interrupted; nothing is lost. Go on with the same command, or: batch-jobs resume {task_id[:12]}"
        ) from None
    finally:
        signal.signal(signal.SIGTERM, previous)
        bars.close()
        poller.close()


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt
