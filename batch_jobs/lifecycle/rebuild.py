"""Rebuild the folder store: it is a projection, so it can be made anew from the ledger, the cache, the snapshots."""

from __future__ import annotations

from batch_jobs.lifecycle.filing import expect_folders, file_answers
from batch_jobs.lifecycle.project import Project
from batch_jobs.models import Phase
from batch_jobs.storage import jobs
from batch_jobs.storage.files import remove_tree

ALL_JOBS = 1_000_000


def rebuild(project: Project) -> tuple[int, int]:
    """Remove every data case's folders and file all jobs again, oldest first.

    Returns:
        Results filed, and folders that wait in `to_process`.
    """
    with project.ledger.read() as connection:
        found = [job for job in reversed(jobs.newest(connection, ALL_JOBS)) if job.plan is not None]
    for data_case in {job.data_case for job in found}:
        for kind in ("to_process", "processed"):
            remove_tree(project.workspace.store / data_case / kind)
    filed = waiting = 0
    for job in found:
        filed += file_answers(project, job, None)
        if job.phase in {Phase.RUNNING, Phase.PAUSED}:
            waiting += expect_folders(project, job)
    return filed, waiting
