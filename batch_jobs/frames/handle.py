"""A job in hand: plan, submit, check, retrieve, wait, cancel. It holds no state but the job's name and where it lies.

So it may be made again from its `task_id` at any time, in any process, by `job()`.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from batch_jobs.errors import UserError, WrongMoment
from batch_jobs.frames.jobs import begin, check_same_rows, chosen_again
from batch_jobs.frames.store import How, folder_of, opened
from batch_jobs.models import Phase, Status

if TYPE_CHECKING:
    import pandas as pd
    from pydantic import BaseModel

    from batch_jobs.lifecycle.plan import PlanFigures
    from batch_jobs.lifecycle.project import Project
    from batch_jobs.lifecycle.view import JobView
    from batch_jobs.storage.jobs import Job

FRAME_FILE = "frame.parquet"


@dataclass(frozen=True)
class JobHandle:
    """One job of the store.

    Attributes:
        task_id: its name; all that has to be remembered, with `folder`.
        folder: that holds the store (`cache_path`).
        frame: the rows it was made of; None to read those that were kept with it.
        model: the pydantic model that the answers are read as.
        how: what its calls are made with otherwise than config.json says.
        progress: show a bar on stderr while it waits.
    """

    task_id: str
    folder: Path
    frame: pd.DataFrame | None = field(default=None, repr=False)
    model: type[BaseModel] | None = field(default=None, repr=False)
    how: How | None = field(default=None, repr=False)
    progress: bool = True

    def plan(self) -> PlanFigures:
        """What it will take: rows, requests, known answers, tokens, USD. Sends nothing."""
        from batch_jobs.lifecycle.plan import plan_job, plan_of
        from batch_jobs.lifecycle.run import Run
        from batch_jobs.storage import leases
        from batch_jobs.storage.jobs import lease_name

        with opened(self.folder, self.how) as project:
            job = _job(project, self.task_id)
            if job.phase is Phase.RECEIVED:
                with leases.holding(project.ledger.engine, lease_name(self.task_id)) as lease:
                    plan_job(Run(project, lease), job)
            job = _job(project, self.task_id)
            if job.plan is None or "items" not in job.plan:
                raise WrongMoment(f"job {self.task_id} was cancelled before it was planned")
            return plan_of(job)

    def submit(self) -> JobView:
        """Send what is to be sent; returns once every batch is with the provider. It may be called again.

        A job of single calls only gets the word that it may be sent: `wait` or `result` make them.
        """
        from batch_jobs.frames.waiting import look_once
        from batch_jobs.lifecycle.view import all_submitted, view
        from batch_jobs.models import Mode

        planned = self.plan()
        with opened(self.folder, self.how) as project:
            begin(project, _job(project, self.task_id))
            if planned.mode is Mode.BATCH:
                look_once(project, self.task_id, lambda: all_submitted(project, self.task_id))
            return view(project, self.task_id)

    def status(self) -> JobView:
        """How it stands, as far as is known here: nobody is asked."""
        from batch_jobs.lifecycle.view import view

        with opened(self.folder, self.how) as project:
            return view(project, self.task_id)

    def check(self) -> JobView:
        """Ask the provider how it stands, fetch and merge what is finished, go on with what is next; never waits.

        A job that has not got the word to be sent (`submit`) stays as it is; one of single calls makes them all.
        """
        from batch_jobs.frames.waiting import look_once
        from batch_jobs.lifecycle.view import view

        with opened(self.folder, self.how) as project:
            look_once(project, self.task_id)
            return view(project, self.task_id)

    def retrieve(self) -> pd.DataFrame:
        """The rows with their answers, of a job that is done; looks at the provider once more if it is not.

        Raises:
            WrongMoment: it is not done yet.
        """
        seen = self.check()
        if seen.status is not Status.DONE:
            raise WrongMoment(f"job {self.task_id} is not done yet ({seen.phase}); wait() for it, or retrieve() later")
        with opened(self.folder, self.how) as project:
            return self._result(project)

    def wait(self, timeout_seconds: float | None = None) -> JobView:
        """Stay until it is done, or so many seconds; the view tells which. What is at the provider goes on.

        Raises:
            WrongMoment: nobody has said yet that it may be sent (`submit`).
            ProviderError: it is paused: somebody has to act, see the message.
        """
        from batch_jobs.frames.waiting import follow, refuse_paused
        from batch_jobs.lifecycle.view import view

        with opened(self.folder, self.how) as project:
            follow(project, self.task_id, progress=self.progress, timeout_seconds=timeout_seconds)
            refuse_paused(project, self.task_id)
            seen = view(project, self.task_id)
        if seen.phase is Phase.PLANNED:
            raise WrongMoment(f"job {self.task_id} is planned and not sent; say submit() first")
        return seen

    def result(self, timeout_seconds: float | None = None) -> pd.DataFrame:
        """Wait for it, then the same rows with the answer's fields and a status.

        Raises:
            WrongMoment: it is not done in time; its batches go on, ask again.
            ProviderError: it is paused: somebody has to act, see the message.
        """
        seen = self.wait(timeout_seconds)
        if seen.status is not Status.DONE:
            raise WrongMoment(f"job {self.task_id} is not done after {timeout_seconds:,} s ({seen.phase}); ask again")
        with opened(self.folder, self.how) as project:
            return self._result(project)

    def cancel(self) -> JobView:
        """Stop it. What was finished is still fetched, priced, and in the result.

        Raises:
            WrongMoment: it has ended already.
        """
        from batch_jobs.frames.waiting import look_once
        from batch_jobs.lifecycle.control import cancel
        from batch_jobs.lifecycle.view import view

        with opened(self.folder, self.how) as project:
            cancel(project, self.task_id)
            look_once(project, self.task_id)
            return view(project, self.task_id)

    def keep_rows(self) -> None:
        """Keep the rows beside the job, so that another process can give them back with the answers."""
        from batch_jobs.frames.results import keep_frame

        if self.frame is not None:
            with opened(self.folder) as project:
                path = _frame_path(project, self.task_id)
                if not path.exists():
                    keep_frame(self.frame, path)

    def _result(self, project: Project) -> pd.DataFrame:
        from batch_jobs.frames.results import kept_frame, with_answers
        from batch_jobs.lifecycle.answers import answer_schema, answers_of

        job = _job(project, self.task_id)
        frame = self.frame if self.frame is not None else kept_frame(_frame_path(project, self.task_id))
        if frame is None:
            raise UserError(
                f"job {self.task_id}: its rows were not kept here (Parquet can't hold them as they are). "
                "Give them once more: batch_jobs.job(task_id, df=...)"
            )
        _, problems = chosen_again(project, job, frame)
        schema = answer_schema(project, job)
        return with_answers(frame, answers_of(project, job), problems, schema, self.model)


def job(
    task_id: str,
    *,
    cache_path: str | os.PathLike[str] | None = None,
    df: pd.DataFrame | None = None,
    schema: type[BaseModel] | None = None,
    progress: bool = True,
) -> JobHandle:
    """Find a job again, in this process or another.

    Args:
        task_id: of a `JobHandle`, whole.
        cache_path: the folder that it was made with.
        df: its rows, where they could not be kept with it.
        schema: the pydantic model, to check the answers by it once more.
        progress: show a bar on stderr while it waits.

    Raises:
        JobNotFound: there is no such job there.
        FileRefused: `df` has other rows.
    """
    folder = folder_of(cache_path)
    with opened(folder) as project:
        found = _job(project, task_id)
        if df is not None:
            check_same_rows(project, found, df)
    return JobHandle(found.task_id, folder, df, schema, progress=progress)


def _frame_path(project: Project, task_id: str) -> Path:
    return project.workspace.input(task_id) / FRAME_FILE


def _job(project: Project, task_id: str) -> Job:
    from batch_jobs.storage import jobs

    with project.ledger.read() as connection:
        return jobs.get(connection, task_id)
