"""The last two stages of a job, export and report: what their own modules make of a done job, run as a stage.

The only place that names these modules; both write the same bytes again where nothing has changed.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from batch_jobs.errors import ConfigError, WrongMoment
from batch_jobs.lifecycle.project import Project
from batch_jobs.models import Phase
from batch_jobs.storage import jobs

EXPORT, REPORT = "batch_jobs.lifecycle.export", "batch_jobs.lifecycle.report.write"


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
        ConfigError: this version cannot do it.
    """
    exports = _module(project, task_id, "export", EXPORT)
    return [exports.export(project, task_id, exports.ExportFormat(fmt), None, folder).path]


def report_stage(project: Project, task_id: str) -> list[Path]:
    """Write a done job's report; see `export_stage`."""
    written = _module(project, task_id, "report", REPORT).write_report(project, task_id)
    return [written.html, written.markdown]


def _module(project: Project, task_id: str, stage: str, name: str) -> Any:
    with project.ledger.read() as connection:
        job = jobs.get(connection, task_id)
    if job.phase is not Phase.DONE:
        raise WrongMoment(f"job {task_id} is not done yet ({job.phase}); first: batch-jobs stage generate {task_id}")
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not name.startswith(error.name):
            raise
        raise ConfigError(
            f"this version of batch-jobs has no {stage}; the job's file: batch-jobs status {task_id}"
        ) from error
