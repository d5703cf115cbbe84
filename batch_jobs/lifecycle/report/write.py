"""The two files of a report, in the job's folder or where the user wants them; and the page alone, for the API."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from batch_jobs.errors import UserError, WrongMoment
from batch_jobs.lifecycle.project import Project
from batch_jobs.lifecycle.report.gather import gather
from batch_jobs.lifecycle.report.settings import artefacts_of
from batch_jobs.models import Phase
from batch_jobs.output.report_facts import Report
from batch_jobs.output.report_html import GENERATOR, html_of
from batch_jobs.output.report_markdown import markdown_of
from batch_jobs.storage import jobs
from batch_jobs.storage.files import atomic_write, store_errors

HTML, MARKDOWN = "report.html", "report.md"
MARK_BYTES = 2_000
"""Of a report's beginning, where it says that it is one."""


@dataclass(frozen=True, slots=True)
class Written:
    """Where a report is."""

    report: Report
    html: Path
    markdown: Path


def write_report(project: Project, task_id: str, folder: Path | None = None) -> Written:
    """Write report.html and report.md of a job; written again, they are the same as long as the job is.

    Args:
        project: the project.
        task_id: a job that is planned, at least.
        folder: where they go, made if need be; None for `batch_output/<task_id>`.

    Raises:
        WrongMoment: there is nothing to report yet.
        UserError: the folder can't be one, or holds a file of that name that is no report.
    """
    target = folder if folder is not None else project.workspace.report(task_id)
    html, markdown = target / HTML, target / MARKDOWN
    if folder is not None:
        _check_target(folder)
        _check_free(html, markdown)
    with project.ledger.read() as connection:
        job = jobs.get(connection, task_id)
    report = gather(project, task_id)
    with store_errors(target):
        target.mkdir(parents=True, exist_ok=True)
    report = replace(report, artefacts=artefacts_of(project, job, target))
    atomic_write(html, html_of(report))
    atomic_write(markdown, markdown_of(report))
    return Written(report, html, markdown)


def page_of(project: Project, task_id: str) -> bytes:
    """The HTML page of a done job, without links to files, which a client elsewhere could not follow.

    Raises:
        WrongMoment: not done yet.
    """
    with project.ledger.read() as connection:
        job = jobs.get(connection, task_id)
    if job.phase is not Phase.DONE:
        raise WrongMoment(f"job {task_id} is not done yet ({job.phase}); ask again when it is")
    return html_of(gather(project, task_id))


def _check_target(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder}: is a file; --output takes a folder, in which {HTML} and {MARKDOWN} are written")
    if not folder.exists() and not folder.resolve().parent.is_dir():
        raise UserError(f"{folder}: there is no folder {folder.parent}; make it, or choose another place")


def _check_free(*paths: Path) -> None:
    """A file of that name that is not a report is somebody's own."""
    for path in paths:
        if path.is_dir():
            raise UserError(f"{path}: is a folder; choose another place for the report")
        if path.exists():
            with store_errors(path), path.open("rb") as handle:
                ours = GENERATOR.encode() in handle.read(MARK_BYTES)
            if not ours:
                raise UserError(f"{path}: is there and is no report; nothing was written. Choose another folder")
