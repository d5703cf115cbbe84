"""The last two stages of a job, export and report: what their own modules make of a done job, run as a stage.

Both write the same bytes again where nothing has changed.
"""

from __future__ import annotations

from pathlib import Path

from batch_jobs.errors import WrongMoment
from batch_jobs.lifecycle.project import Project
from batch_jobs.models import Phase
from batch_jobs.output.export import ExportFormat
from batch_jobs.storage import jobs


def export_stage(project: Project, task_id: str, fmt: str, folder: Path) -> list[Path]:
    """Export a done job's rows.

    Args:
        project: opened.
        task_id: the job.
        fmt: `csv`, `jsonl`, ...; one of `ExportFormat`.
        folder: where the file goes when the user's own is not known.

    Returns:
        What was written.

    Raises:
        WrongMoment: the job is not done.
    """
    from batch_jobs.lifecycle.export import export

    _check_done(project, task_id)
    return [export(project, task_id, ExportFormat(fmt), None, folder).path]


def report_stage(project: Project, task_id: str) -> list[Path]:
    """Write a done job's report; see `export_stage`."""
    from batch_jobs.lifecycle.report.write import write_report

    _check_done(project, task_id)
    written = write_report(project, task_id)
    return [written.html, written.markdown]


def _check_done(project: Project, task_id: str) -> None:
    with project.ledger.read() as connection:
        job = jobs.get(connection, task_id)
    if job.phase is not Phase.DONE:
        raise WrongMoment(f"job {task_id} is not done yet ({job.phase}); first: batch-jobs stage generate {task_id}")
