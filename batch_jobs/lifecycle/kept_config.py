"""A job's part of config.json as it was when the job was planned: kept beside its prompt, its hashes in the plan.

config.json goes on changing; what a job ran with must be told later, and two jobs compared.
"""

from __future__ import annotations

import hashlib
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import orjson

from batch_jobs.lifecycle.project import Project
from batch_jobs.storage.files import atomic_write
from batch_jobs.storage.jobs import Job

CANONICAL = orjson.OPT_SORT_KEYS
"""Equal settings give equal bytes: keys sorted, no white space, every default spelled out."""


def keep_config(project: Project, job: Job) -> dict[str, str]:
    """Write `batch_input/<task_id>/config.json`, and hash its parts; a plan made again keeps anew.

    Returns:
        sha256 of the task's part (with this job's data case only) and of the provider's, by `task` and `provider`.
    """
    parts = _parts(project, job)
    written = orjson.dumps(parts, option=CANONICAL | orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)
    atomic_write(project.workspace.config(job.task_id), written)
    return {name: hashlib.sha256(orjson.dumps(part, option=CANONICAL)).hexdigest() for name, part in parts.items()}


def _parts(project: Project, job: Job) -> dict[str, Any]:
    task = project.settings.tasks[job.task].model_dump(mode="json")
    task["data_cases"] = {job.data_case: task["data_cases"][job.data_case]}
    provider = project.entry(job.provider).model_dump(mode="json")
    if provider["base_url"]:
        provider["base_url"] = _without_user(provider["base_url"])
    return {"task": {job.task: task}, "provider": {job.provider: provider}}


def _without_user(url: str) -> str:
    """An address without the name and password that it may carry."""
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def workers_of(project: Project) -> dict[str, int]:
    """How much is done at once: processes on rows, single calls, transfers of batches."""
    settings = project.settings
    return {
        "processes": project.workers.count,
        "calls": settings.concurrent.max_workers,
        "transfers": settings.submission.parallel_transfers,
    }
