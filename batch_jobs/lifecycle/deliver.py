"""Hand the finished file over: beside the user's file under a free name, or where `--output` says."""

from __future__ import annotations

import os
from itertools import count
from pathlib import Path
from typing import NamedTuple

from batch_jobs.errors import UserError, WrongMoment
from batch_jobs.lifecycle.finish import output_file
from batch_jobs.lifecycle.group_output import groups_file
from batch_jobs.lifecycle.project import Project
from batch_jobs.models import EventName, OutputShape, Phase
from batch_jobs.storage import events, jobs
from batch_jobs.storage.files import copy_file, publish_new, sha256_of
from batch_jobs.storage.jobs import Job

NAME_BYTES = 255
"""What file systems allow a name (ext4, xfs, APFS, NTFS in characters)."""


class Finished(NamedTuple):
    """A file of a done job, as it lies in the store.

    Attributes:
        ending: of the name that people know it by, before and after a number: `.summarize`, `.csv`.
        cut: cells that were cut to what a worksheet's cell holds.
        encoding: Python codec name, of a text.
    """

    job: Job
    path: Path
    ending: tuple[str, str]
    cut: int = 0
    encoding: str = "utf-8"

    @property
    def name(self) -> str:
        """What it is called elsewhere: the upload's stem and the ending, as long as a name may be."""
        ending = "".join(self.ending)
        return f"{cut(Path(self.job.file_name).stem, NAME_BYTES - len(ending.encode()))}{ending}"


def finished_file(project: Project, task_id: str, shape: OutputShape = OutputShape.ROWS) -> Finished:
    """The output file of a done job in the store, of that shape.

    Raises:
        WrongMoment: not done yet, or cancelled before there was anything to write.
        UserError: the job has no output of that shape.
        StoreError: the disk is full, or the cache has lost an answer.
    """
    with project.ledger.read() as connection:
        job = jobs.get(connection, task_id)
    if job.phase is not Phase.DONE:
        raise WrongMoment(f"job {task_id} is not done yet ({job.phase}); ask again with: batch-jobs status {task_id}")
    path = output_file(project, job)
    if path is None:
        raise WrongMoment(f"job {task_id} was cancelled before anything was sent: there is no output file")
    if shape is OutputShape.GROUPS:
        path = groups_file(project, job)
        return Finished(job, path, (f".{job.task}.{shape}", path.suffix), encoding=job.format.encoding)
    return Finished(job, path, (f".{job.task}", job.suffix), encoding=job.format.encoding)


def deliver(
    project: Project,
    task_id: str,
    output: Path | None = None,
    folder: Path | None = None,
    shape: OutputShape = OutputShape.ROWS,
) -> Path:
    """Copy the output to where the user wants it.

    Args:
        project: the project.
        task_id: a done job.
        output: this very file, replaced atomically if it is there.
        folder: where it goes without `output`, when the job does not know the user's own file.
        shape: what a line of it stands for.

    Returns:
        Where the file is now. Delivered there before and unchanged since, it is not written again.

    Raises:
        WrongMoment: not done yet.
        UserError: `output` is a folder or lies in a folder that is not there; the job has no output of that shape.
    """
    found = finished_file(project, task_id, shape)
    job, source, ending = found.job, found.path, found.ending
    digest = sha256_of(source)
    if output is not None:
        check_target(output)
        copy_file(source, output)
        return _remember(project, job, output, digest)
    beside = Path(job.source_path).parent if job.source_path else folder
    if beside is None or not beside.is_dir():
        return source
    for path in job.delivered:
        if job.delivered[path] == digest and Path(path).parent == beside and _is_still(Path(path), digest):
            return Path(path)
    return _remember(project, job, _first_free(project, source, beside / job.file_name, ending, digest), digest)


def _is_still(path: Path, digest: str) -> bool:
    return path.is_file() and sha256_of(path) == digest


def _first_free(project: Project, source: Path, upload: Path, ending: tuple[str, str], digest: str) -> Path:
    """Publish under `<stem>.<task>.<ext>`, or `-2`, `-3`, ...: never over a file that is there.

    The very output, there and known of no job, was published by a process that died before it could write that down.
    """
    for number in count(1):
        last = f"{ending[0]}{'' if number == 1 else f'-{number}'}{ending[1]}"
        target = upload.with_name(f"{cut(upload.stem, NAME_BYTES - len(last.encode()))}{last}")
        if publish_new(source, target) or _was_published(project, target, digest):
            return target
    raise AssertionError("count() does not end")


def _was_published(project: Project, target: Path, digest: str) -> bool:
    with project.ledger.read() as connection:
        known = jobs.delivered_to(connection)
    return str(target.resolve()) not in known and target.is_file() and sha256_of(target) == digest


def cut(stem: str, max_bytes: int) -> str:
    """The beginning of a name that fits into so many bytes."""
    return os.fsencode(stem)[:max_bytes].decode("utf-8", "ignore")


def check_target(output: Path) -> None:
    """Refuse, with a UserError, what can't be written to."""
    if output.is_dir():
        raise UserError(f"{output}: is a folder; give the output a file name")
    if not output.parent.is_dir():
        raise UserError(f"{output}: there is no folder {output.parent}; make it, or choose another place")


def _remember(project: Project, job: Job, path: Path, digest: str) -> Path:
    with project.ledger.write() as connection:
        delivered = {**jobs.get(connection, job.task_id).delivered, str(path.resolve()): digest}
        jobs.change(connection, job.task_id, delivered=delivered)
        events.add(connection, job.task_id, EventName.JOB_DELIVERED, {"path": str(path)})
    return path
