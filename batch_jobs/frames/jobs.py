"""One question about a DataFrame as a job of the store: found again if it was asked before, else made."""

from __future__ import annotations

import os
import tempfile
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from batch_jobs.errors import FileRefused, UserError
from batch_jobs.frames.asked import DATA_CASE, Asked, asked_of
from batch_jobs.frames.rows import FRAME, UPLOAD, Chosen, check_ids, choose, texts_of, unsendable, write_upload
from batch_jobs.frames.store import How, folder_of, keep_task, opened, with_tasks_of
from batch_jobs.models import JobOutcome, Mode, Parameters, Phase

if TYPE_CHECKING:
    import pandas as pd
    from pydantic import BaseModel

    from batch_jobs.frames.asked import KeptPrompt
    from batch_jobs.lifecycle.project import Project
    from batch_jobs.lifecycle.receive import Order
    from batch_jobs.storage.jobs import Job

FRESH = "fresh "


@dataclass(frozen=True, slots=True)
class Question:
    """All that a call says, checked as far as that goes without opening anything.

    Attributes:
        frame: the user's rows; never changed.
        prompt: what is asked of each.
        shown: column -> what it holds, of what a row shows.
        how: the requests are made.
        mode: batch, concurrent or auto.
        id_col: the column that names a row.
        rows_per_request: rows that go into one request.
        folder: that holds the store.
        fresh: True asks anew; a word keeps its answers apart from those under other words.
        model: the pydantic model that the answers are read as.
        progress: show a bar on stderr.
    """

    frame: pd.DataFrame
    prompt: KeptPrompt
    shown: dict[str, str]
    how: How
    mode: Mode = Mode.CONCURRENT
    id_col: str | None = None
    rows_per_request: int = 1
    folder: Path = field(default_factory=lambda: folder_of(None))
    fresh: bool | str = False
    model: type[BaseModel] | None = None
    progress: bool = True


@dataclass(frozen=True, slots=True)
class Found:
    """The job of a question.

    Attributes:
        job: None where no row could be sent.
        problems: rows that were not sent, by position, and why.
        known: it was done before this call.
    """

    job: Job | None
    problems: Mapping[int, str]
    known: bool = False


def mode_of(mode: str) -> Mode:
    """The mode of this name.

    Raises:
        UserError: there is none.
    """
    try:
        return Mode(mode)
    except ValueError:
        raise UserError(f'mode: there is no "{mode}" (there is: {", ".join(Mode)})') from None


def find_or_make(question: Question, *, autostart: bool) -> Found:
    """The job of this very question that is under way or complete, else a new one.

    Args:
        question: what is asked.
        autostart: it may be sent without a further word.

    Raises:
        FileRefused: the frame can't be taken as it is.
        ConfigError: the prompt, the key or a parameter is wrong.
    """
    frame = question.frame
    chosen = choose(frame, question.shown, question.prompt.columns, question.id_col)
    if question.id_col is not None:
        check_ids(frame, question.id_col, chosen.labels[question.id_col])
    asked = asked_of(
        question.prompt,
        question.shown,
        id_column=question.id_col,
        rows_per_request=question.rows_per_request,
    )
    if isinstance(question.fresh, str) and question.fresh:
        asked = asked.again(question.fresh)
    keep_task(question.folder, asked)
    with opened(question.folder, question.how) as project:
        texts = texts_of(frame, chosen)
        problems = unsendable(texts, chosen, project.settings.intake.max_cell_chars)
        if len(problems) == len(frame):
            return Found(None, problems)
        with tempfile.TemporaryDirectory(prefix="batch-jobs-") as temp:
            upload = Path(temp) / UPLOAD
            write_upload(texts, chosen, problems, len(frame), upload)
            job, known = _find_or_receive(project, question, asked, upload, autostart=autostart)
    return Found(job, problems, known)


def _find_or_receive(
    project: Project, question: Question, asked: Asked, upload: Path, *, autostart: bool
) -> tuple[Job, bool]:
    from batch_jobs.lifecycle.receive import receive
    from batch_jobs.storage.files import sha256_of

    alike = _alike(project, question, sha256_of(upload))
    if question.fresh is True:
        found = _under_way(question, _asked_anew(project, asked, alike))
        if found is None:
            asked = asked.again(f"{FRESH}{uuid.uuid4().hex}")
            keep_task(question.folder, asked)
            project = with_tasks_of(project, question.folder)
    else:
        of_task = [job for job in alike if job.task == asked.name]
        found = _under_way(question, of_task) or next((job for job in of_task if _is_complete(project, job)), None)
    if found is not None:
        return found, found.phase is Phase.DONE
    return receive(project, _order(project, question, asked, upload, autostart=autostart)), False


def _order(project: Project, question: Question, asked: Asked, upload: Path, *, autostart: bool) -> Order:
    from batch_jobs.lifecycle.receive import Order

    return Order(
        file=upload,
        file_name=UPLOAD,
        task=asked.name,
        data_case=DATA_CASE,
        mode=question.mode,
        provider=question.how.backend or project.settings.defaults.provider,
        autostart=autostart,
    )


def _alike(project: Project, question: Question, digest: str) -> list[Job]:
    """The jobs of the same rows, whatever was asked, whose answers would be made in the same way; newest first.

    Args:
        project: opened as the question wants it.
        question: what is asked.
        digest: of the upload.
    """
    from batch_jobs.storage import jobs

    provider = question.how.backend or project.settings.defaults.provider
    entry = project.entry(provider)
    endpoint, simulated = project.endpoint(provider), int(project.simulated)
    with project.ledger.read() as connection:
        found = jobs.alike(
            connection,
            file_sha256=digest,
            data_case=DATA_CASE,
            provider=provider,
            endpoint=endpoint,
            model=entry.model,
            simulated=simulated,
        )
    parameters = Parameters(**entry.parameters.model_dump())
    return [job for job in found if job.parameters == parameters and job.task in project.settings.tasks]


def _asked_anew(project: Project, asked: Asked, alike: Iterable[Job]) -> list[Job]:
    """Those that ask the same once more, each under a word of its own."""
    tasks = project.settings.tasks
    editions = [job for job in alike if job.task.startswith(f"{asked.name}-")]
    return [job for job in editions if tasks[job.task].edition.startswith(FRESH)]


def _under_way(question: Question, alike: Iterable[Job]) -> Job | None:
    """The newest that is under way, in the mode that is wanted."""
    same_way = (job for job in alike if question.mode in (Mode.AUTO, job.mode))
    return next((job for job in same_way if job.phase not in {Phase.DONE, Phase.CANCELLING}), None)


def _is_complete(project: Project, job: Job) -> bool:
    """Whether every row was answered, and what the answers are read from is there: it may have been cleared away."""
    plan, snapshot = project.workspace.plan(job.task_id), project.workspace.snapshot(job.task_id)
    return job.outcome is JobOutcome.COMPLETE and plan.is_dir() and snapshot.exists()


def begin(project: Project, job: Job) -> None:
    """Give the word that a job may be sent, or go on with one that was paused."""
    from batch_jobs.lifecycle.control import approve, resume

    if job.phase in {Phase.RECEIVED, Phase.PLANNED} and not job.autostart:
        approve(project, job.task_id)
    elif job.phase is Phase.PAUSED:
        resume(project, job.task_id)


def chosen_again(project: Project, job: Job, frame: pd.DataFrame) -> tuple[Chosen, dict[int, str]]:
    """Which columns of a frame a job was made of, and which rows were not sent.

    Raises:
        FileRefused: the frame lacks one of them.
        UserError: the job was made of a file.
    """
    task = project.settings.tasks.get(job.task)
    if task is None or DATA_CASE not in task.data_cases or job.file_name != UPLOAD:
        raise UserError(f"job {job.task_id} was not made of a DataFrame; use the command line for it")
    shown = tuple(task.data_cases[DATA_CASE].mandatory_columns)
    chosen = Chosen(job.columns[0], choose(frame, job.columns[1:], (), None).labels, shown)
    texts = texts_of(frame, chosen)
    return chosen, unsendable(texts, chosen, project.settings.intake.max_cell_chars)


def check_same_rows(project: Project, job: Job, frame: pd.DataFrame) -> None:
    """Check that a frame holds the rows that a job was made of.

    Raises:
        FileRefused: it does not.
    """
    from batch_jobs.storage.files import sha256_of

    chosen, problems = chosen_again(project, job, frame)
    with tempfile.TemporaryDirectory(prefix="batch-jobs-") as temp:
        upload = Path(temp) / UPLOAD
        write_upload(texts_of(frame, chosen), chosen, problems, len(frame), upload)
        if sha256_of(upload) != job.file_sha256:
            raise FileRefused(f"its rows are not those of job {job.task_id}", file=FRAME, fix="Give the very same rows")


def question_of(
    frame: pd.DataFrame,
    prompt: KeptPrompt,
    shown: dict[str, str],
    how: How,
    *,
    mode: str = "concurrent",
    id_col: str | None = None,
    chunk_size: int = 1,
    cache_path: str | os.PathLike[str] | None = None,
    fresh: bool | str = False,
    model: type[BaseModel] | None = None,
    progress: bool = True,
) -> Question:
    """Make a question of a call's arguments.

    Raises:
        UserError: one of them can't be.
    """
    if chunk_size < 1:
        raise UserError(f"chunk_size: at least one row goes into a request, not {chunk_size}")
    return Question(
        frame=frame,
        prompt=prompt,
        shown=shown,
        how=how,
        mode=mode_of(mode),
        id_col=id_col,
        rows_per_request=chunk_size,
        folder=folder_of(cache_path),
        fresh=fresh,
        model=model,
        progress=progress,
    )
