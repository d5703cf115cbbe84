"""Rebuild what is a projection: folders and segments of the store, and manifests, from ledger, cache and snapshots."""

from __future__ import annotations

from batch_jobs.lifecycle.filing import expect_folders, file_job
from batch_jobs.lifecycle.manifest import write_manifest
from batch_jobs.lifecycle.project import Project
from batch_jobs.models import Phase
from batch_jobs.storage import jobs
from batch_jobs.storage.files import remove_tree

ALL_JOBS = 1_000_000


def rebuild(project: Project) -> tuple[int, int]:
    """Remove every data case's folders and segments, file all jobs again, oldest first, and write their manifests anew.

    Returns:
        Results filed, and records that wait in `to_process`.
    """
    with project.ledger.read() as connection:
        found = [job for job in reversed(jobs.newest(connection, ALL_JOBS)) if "items" in (job.plan or {})]
    for data_case in {job.data_case for job in found}:
        for kind in ("to_process", "processed"):
            remove_tree(project.workspace.store / data_case / kind)
    filed = waiting = 0
    for job in found:
        filed += file_job(project, job)
        write_manifest(project, job.task_id)
        if job.phase in {Phase.RUNNING, Phase.PAUSED}:
            waiting += expect_folders(project, job)
    return filed, waiting
