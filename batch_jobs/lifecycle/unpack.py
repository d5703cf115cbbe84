"""Unpack: folders for a selection of packed results, in the store's usual places, for people and other programs."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path

from batch_jobs.errors import StoreError, UserError, WrongMoment
from batch_jobs.lifecycle.plan import layout_of
from batch_jobs.lifecycle.project import Project
from batch_jobs.models import Layout, Phase
from batch_jobs.storage import jobs
from batch_jobs.storage.folders import FolderStore
from batch_jobs.storage.jobs import Job
from batch_jobs.storage.packed import PackedStore, find, stream_segment
from batch_jobs.storage.results import Filed

IDENTITY = re.compile(r"[0-9a-f]{64}")
ALL_JOBS = 1_000_000
NAMED_AT_MOST = 5


def unpack(project: Project, task_id: str | None, identities: Sequence[str], limit: int | None) -> dict[Path, int]:
    """Write `processed/<identity>/` for packed results; again, it has the same effect.

    Args:
        project: the project.
        task_id: a done job's results; None for those of all jobs, of each record the latest.
        identities: only these; empty for all.
        limit: at most so many results; None for no limit.

    Returns:
        Results written, by the folder that they went into.

    Raises:
        UserError: an identity is none, or has no packed result; nothing is selected; the job is not packed.
        WrongMoment: the job is not done.
        StoreError: a segment is missing or can't be read, or the disk is full.
    """
    wanted = [_checked(identity) for identity in dict.fromkeys(identities)]
    if task_id is None and not wanted and limit is None:
        raise UserError("nothing is selected: give a TASK_ID, --identity or --limit")
    chosen = _of_job(project, task_id, wanted) if task_id is not None else _of_all(project, wanted)
    written: dict[Path, int] = {}
    left = limit
    for data_case, results in chosen:
        if left == 0:
            break
        store = FolderStore(project.workspace.store, data_case)
        filed = store.file(islice(results, left))
        left = left - filed if left is not None else None
        if filed:
            written[store.processed] = filed
    return written


def _checked(identity: str) -> str:
    lower = identity.strip().lower()
    if not IDENTITY.fullmatch(lower):
        raise UserError(f"--identity {identity[:80]}: an identity is 64 characters of 0-9 and a-f")
    return lower


def _of_job(project: Project, task_id: str, wanted: list[str]) -> list[tuple[str, Iterable[Filed]]]:
    with project.ledger.read() as connection:
        job = jobs.get(connection, task_id)
    segment = _segment(project, job)
    if not wanted:
        return [(job.data_case, stream_segment(segment))]
    found = list(find(segment, wanted))
    _all_found(wanted, found)
    return [(job.data_case, found)]


def _segment(project: Project, job: Job) -> Path:
    if job.phase is not Phase.DONE:
        raise WrongMoment(f"job {job.task_id} is not done yet: it is packed at its end. See: batch-jobs status")
    store = PackedStore(project.workspace.store, job.data_case)
    if layout_of(job) is not Layout.PACKED:
        raise UserError(f"job {job.task_id} is not packed: its folders are in {store.processed} already")
    segment = store.segment(job.task, job.task_id)
    if not segment.exists():
        raise StoreError(f"{segment}: is not there. Make it anew: batch-jobs rebuild-store")
    return segment


def _of_all(project: Project, wanted: list[str]) -> list[tuple[str, Iterable[Filed]]]:
    stores = {data_case: PackedStore(project.workspace.store, data_case) for data_case in _packed_cases(project)}
    if not wanted:
        return [(data_case, store.stream()) for data_case, store in stores.items()]
    found = {data_case: store.find(wanted) for data_case, store in stores.items()}
    _all_found(wanted, [filed for of_case in found.values() for filed in of_case])
    return list(found.items())


def _packed_cases(project: Project) -> Iterator[str]:
    """The data cases that have packed jobs, in alphabetical order."""
    with project.ledger.read() as connection:
        every = jobs.newest(connection, ALL_JOBS)
    yield from sorted({job.data_case for job in every if layout_of(job) is Layout.PACKED and job.phase is Phase.DONE})


def _all_found(wanted: list[str], found: list[Filed]) -> None:
    there = {filed.identity for filed in found}
    missing = [identity for identity in wanted if identity not in there]
    if missing:
        more = f" and {len(missing) - NAMED_AT_MOST:,} more" if len(missing) > NAMED_AT_MOST else ""
        raise UserError(
            f"there is no packed result of identity {', '.join(missing[:NAMED_AT_MOST])}{more}; nothing was written. "
            "Look them up in store/<data_case>/processed/*.parquet"
        )
