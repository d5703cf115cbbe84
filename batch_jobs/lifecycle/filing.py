"""Files answers into the folder store, for people to browse: a projection, at any time made again from the rest."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterable, Iterator
from itertools import islice, takewhile

from batch_jobs.lifecycle.packing import pack_job, pack_waiting, packing
from batch_jobs.lifecycle.plan import layout_of
from batch_jobs.lifecycle.project import Project
from batch_jobs.lifecycle.run import Notify, Progress, nobody
from batch_jobs.models import Layout, Phase
from batch_jobs.render.items import Place, read_places
from batch_jobs.storage import items
from batch_jobs.storage.call_cache import Answer
from batch_jobs.storage.folders import FolderStore
from batch_jobs.storage.jobs import Job
from batch_jobs.storage.results import Filed, result_document, result_name
from batch_jobs.storage.segments import SegmentWriter

CHUNK = 1_000


def file_answers(
    project: Project, job: Job, chosen: list[int] | None, *, known_only: bool = False, notify: Notify = nobody
) -> int:
    """File the answers of succeeded items into folders, under every identity they serve; a packed job has none.

    Args:
        project: the project.
        job: a planned job.
        chosen: item numbers, None for all of the job.
        known_only: only items that were answered before this job.
        notify: told how far it is, a thousand places at a time.

    Returns:
        Results filed.
    """
    if layout_of(job) is Layout.PACKED:
        return 0
    places = read_places(project.workspace.plan(job.task_id), project.workspace.snapshot(job.task_id), chosen)
    shown = _shown(places, "filing", job, len(chosen) if chosen is not None else job.rows, notify)
    return FolderStore(project.workspace.store, job.data_case).file(_filed(project, job, shown, known_only))


def file_job(project: Project, job: Job, notify: Notify = nobody) -> int:
    """File all answers of a job, in its layout: folders whenever it is called, a segment once every item has ended.

    Returns:
        Results filed.
    """
    if layout_of(job) is Layout.FOLDERS:
        return file_answers(project, job, None, notify=notify)
    return pack_job(project, job, notify) if job.phase in {Phase.WRITING, Phase.DONE} else 0


@contextlib.contextmanager
def pack(project: Project, job: Job) -> Iterator[SegmentWriter | None]:
    """What takes the job's segment from whoever passes over its rows; None where it is filed in folders."""
    if layout_of(job) is Layout.FOLDERS:
        yield None
        return
    with packing(project, job) as segment:
        yield segment


def _shown(places: Iterable[Place], step: str, job: Job, total: int, notify: Notify) -> Iterator[Place]:
    for number, place in enumerate(places, 1):
        if number % CHUNK == 0:
            notify(Progress(job.task_id, step, min(number, total), total))
        yield place


def _filed(project: Project, job: Job, places: Iterable[Place], known_only: bool) -> Iterator[Filed]:
    source = iter(places)
    while chunk := list(islice(source, CHUNK)):
        with project.ledger.read() as connection:
            records = items.some(connection, job.task_id, sorted({place.item for place in chunk}))
        answers = project.cache.get(list({place.fingerprint for place in chunk}))
        for place in chunk:
            record, answer = records[place.item], answers.get(place.fingerprint)
            if answer is not None and (record.known or not known_only):
                yield _result(job, place, answer)


def _result(job: Job, place: Place, answer: Answer) -> Filed:
    name = result_name(job.task, place.fingerprint, place.alternate)
    return Filed(place.identity, name, result_document(answer), place.details)


def expect_folders(
    project: Project,
    job: Job,
    chosen: list[int] | None = None,
    *,
    notify: Notify = nobody,
    stop: threading.Event | None = None,
) -> int:
    """Make `to_process/<identity>`, or one segment there, for what waits for an answer; a stop ends it early.

    Args:
        project: the project.
        job: a planned job.
        chosen: open items, None for all of the job; a segment is always of all.
        notify: told how far it is, a thousand places at a time.
        stop: ends it early.

    Returns:
        Identities that wait.
    """
    if layout_of(job) is Layout.PACKED:
        return pack_waiting(project, job, notify, stop)
    if chosen is None:
        with project.ledger.read() as connection:
            chosen = items.open_items(connection, job.task_id)
    if not chosen:
        return 0
    places = read_places(project.workspace.plan(job.task_id), project.workspace.snapshot(job.task_id), chosen)
    shown = _shown(places, "preparing", job, len(chosen), notify)
    going = takewhile(lambda _: stop is None or not stop.is_set(), shown)
    rows = ((place.identity, place.details) for place in going if not place.alternate)
    return FolderStore(project.workspace.store, job.data_case).expect(rows, job.task)
