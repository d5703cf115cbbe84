"""The last two stages of a job, export and report: what other modules make of a done job's results, as a stage."""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path

from batch_jobs.errors import ConfigError, WrongMoment
from batch_jobs.lifecycle.project import Project
from batch_jobs.models import Phase
from batch_jobs.storage import jobs

MAKERS = {
    "export": ("batch_jobs.lifecycle.export", "export_job"),
    "report": ("batch_jobs.lifecycle.report", "write_report"),
}
"""Stage -> the module and its function, `(project, task_id) -> path or paths`: all that a merge has to say here."""


def make_output(project: Project, stage: str, task_id: str) -> list[Path]:
    """Have a done job's export or report made.

    Args:
        project: opened.
        stage: `export` or `report`.
        task_id: the job.

    Returns:
        What was written.

    Raises:
        WrongMoment: the job is not done.
        ConfigError: this version cannot do it.
    """
    with project.ledger.read() as connection:
        job = jobs.get(connection, task_id)
    if job.phase is not Phase.DONE:
        raise WrongMoment(f"job {task_id} is not done yet ({job.phase}); first: batch-jobs stage generate {task_id}")
    module, function = MAKERS[stage]
    if importlib.util.find_spec(module) is None:
        raise ConfigError(f"this version of batch-jobs has no {stage} yet; the job's file: batch-jobs status {task_id}")
    written: Path | list[Path] = getattr(importlib.import_module(module), function)(project, task_id)
    return [written] if isinstance(written, Path) else list(written)
