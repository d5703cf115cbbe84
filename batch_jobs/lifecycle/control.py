"""What people say to a job: begin, pause, resume, cancel, discard."""

from __future__ import annotations

from sqlalchemy import Connection

from batch_jobs.errors import WrongMoment
from batch_jobs.lifecycle.filing import expect_folders, file_answers
from batch_jobs.lifecycle.manifest import write_manifest
from batch_jobs.lifecycle.packing import forget_waiting
from batch_jobs.lifecycle.plan import layout_of, plan_of
from batch_jobs.lifecycle.policy import mass_error, mass_rule
from batch_jobs.lifecycle.project import Project
from batch_jobs.lifecycle.run import Progress, Run
from batch_jobs.models import EventName, Layout, Mode, Phase
from batch_jobs.storage import events, items, jobs, leases
from batch_jobs.storage.files import remove_tree
from batch_jobs.storage.jobs import Job, lease_name


def begin(run: Run, job: Job) -> None:
    """PLANNED to RUNNING: file what was answered before, make the folders of what is to do, and go.

    Single calls go out at once; their folders are made beside them (`batch_jobs.lifecycle.concurrent`).
    """
    run.notify(Progress(job.task_id, "preparing", 0, plan_of(job).items))
    if plan_of(job).known:
        file_answers(run.project, job, None, known_only=True, notify=run.notify)
    if job.mode is Mode.BATCH or layout_of(job) is Layout.PACKED:
        expect_folders(run.project, job, notify=run.notify, stop=run.stop)
    if run.stop.is_set():
        return  # begun anew next time
    with run.write() as connection:
        if jobs.get(connection, job.task_id).phase is not job.phase:
            return  # cancelled meanwhile
        jobs.move(connection, job, Phase.RUNNING, started_at=run.project.clock())
        events.add(connection, job.task_id, EventName.JOB_STARTED, {"mode": job.mode, "simulated": job.simulated})
    write_manifest(run.project, job.task_id)


def approve(project: Project, task_id: str) -> None:
    """The user's word that the planned job may be sent."""
    with project.ledger.write() as connection:
        jobs.change(connection, task_id, autostart=1)


def pause(run: Run, job: Job, why: str) -> None:
    """RUNNING to PAUSED: an operator must act; nothing is sent until `resume`."""
    with run.write() as connection:
        _pause(connection, job, why)
    write_manifest(run.project, job.task_id)


def pause_on_mass_error(run: Run, job: Job) -> bool:
    """Pause the job if most of what came back is one and the same error; those items are open again.

    Returns:
        Whether it is paused now.
    """
    with run.write() as connection:
        error = _mass_error(connection, run, job)
        if error is None or jobs.get(connection, job.task_id).phase is not Phase.RUNNING:
            return False
        code, words = error
        number = items.reopen(connection, job.task_id, job.round_base, code)
        why = f"{number:,} items ended in the same error ({words or code}); they are sent again after: resume"
        _pause(connection, job, why)
    write_manifest(run.project, job.task_id)
    return True


def has_mass_error(run: Run, job: Job) -> bool:
    """Whether `pause_on_mass_error` would pause the job."""
    with run.project.ledger.read() as connection:
        return _mass_error(connection, run, job) is not None


def _mass_error(connection: Connection, run: Run, job: Job) -> tuple[str, str] | None:
    ended, errors = items.errors(connection, job.task_id, job.round_base)
    return mass_error(ended, errors, mass_rule(run.project.settings.rounds))


def _pause(connection: Connection, job: Job, why: str) -> None:
    now = jobs.get(connection, job.task_id)
    if now.phase is Phase.RUNNING:
        jobs.move(connection, now, Phase.PAUSED, message=why)
        events.add(connection, job.task_id, EventName.JOB_PAUSED, {"why": why})


def resume(project: Project, task_id: str) -> Job:
    """PAUSED to RUNNING; a job that is not paused is returned as it is.

    Raises:
        WrongMoment: the job is done.
    """
    with project.ledger.write() as connection:
        job = jobs.get(connection, task_id)
        if job.phase is Phase.DONE:
            raise WrongMoment(
                f"job {task_id} is done already; get its file with: batch-jobs status {task_id} --download"
            )
        if job.phase is Phase.PAUSED:
            jobs.move(connection, job, Phase.RUNNING, message=None)
            values = {"round": job.round + 1} if job.mode is Mode.CONCURRENT else {}
            jobs.change(connection, task_id, round_base=job.round + 1, resumed_at=project.clock(), **values)
            events.add(connection, task_id, EventName.JOB_RESUMED)
        return jobs.get(connection, task_id)


def cancel(project: Project, task_id: str) -> Job:
    """Ask a job to stop: what was finished is still fetched, what was not sent never is.

    Raises:
        WrongMoment: the job is done, or about to be.
    """
    with project.ledger.write() as connection:
        job = jobs.get(connection, task_id)
        if job.phase is Phase.CANCELLING:
            return job
        if job.phase in {Phase.WRITING, Phase.DONE}:
            raise WrongMoment(f"job {task_id} has ended already; there is nothing left to cancel")
        jobs.move(connection, job, Phase.CANCELLING, message=None)
        events.add(connection, task_id, EventName.JOB_CANCEL_ASKED)
        return jobs.get(connection, task_id)


def discard(project: Project, task_id: str) -> None:
    """Forget a job that never sent anything, with its files (a dry run, or "no" to the plan).

    Raises:
        JobHeld: another process is working on it.
        WrongMoment: something was sent.
    """
    with leases.holding(project.ledger.engine, lease_name(task_id)) as lease:
        with project.ledger.write(lease) as connection:
            job = jobs.get(connection, task_id)
            if job.phase not in {Phase.RECEIVED, Phase.PLANNED}:
                raise WrongMoment(f"job {task_id} has begun; stop it with: batch-jobs cancel {task_id}")
            jobs.remove(connection, task_id)
        forget_waiting(project, job)
        remove_tree(project.workspace.input(task_id))
        remove_tree(project.workspace.output(task_id))
