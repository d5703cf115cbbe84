"""`batch-jobs status` and `batch-jobs jobs`: how one job stands, and which jobs there are."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

import click

from batch_jobs.cli import show
from batch_jobs.cli.ending import exit_code, finish
from batch_jobs.cli.options import Place, answer_json, full_id, opened, output_shape, path_of, project_options, say
from batch_jobs.cli.watch import Bars, wait_for
from batch_jobs.errors import BatchJobsError, JobHeld, UserError
from batch_jobs.models import OutputShape, Status

if TYPE_CHECKING:
    from batch_jobs.lifecycle.project import Project

LIMIT = 20


@click.command()
@click.argument("task_id", required=False)
@click.option("--task_id", "--task-id", "task_id_option", help="The same, as an option.")
@click.option(
    "--download", is_flag=True, help="Look at the provider now, fetch what is finished, write the file when done."
)
@click.option("--watch", is_flag=True, help="Stay until the job is done.")
@click.option("--output", metavar="PATH", help="Where the file goes, replaced if there.  [default: beside the upload]")
@output_shape
@project_options
def status(
    place: Place,
    task_id: str | None,
    task_id_option: str | None,
    download: bool,
    watch: bool,
    output: str | None,
    shape: str,
) -> int:
    """Show how a job stands; its TASK_ID may be cut to its first six characters or more.

    With --download this process does the work itself, with no server alive: it polls, fetches, merges, and writes
    the file once the job is done (exit code 5 while it is not).
    """
    given = task_id_option or task_id
    if not given:
        raise UserError("which job? Give its task_id; see what there is with: batch-jobs jobs")
    with opened(place) as project:
        full = full_id(project, given)
        if watch:
            wait_for(project, full)
        elif download or output:
            _look_now(project, place, full)
        if download or watch or output:
            target = path_of("--output", output) if output else None
            return finish(project, place, full, target, Path.cwd(), OutputShape(shape))
        return _show(project, place, full)


def _look_now(project: Project, place: Place, task_id: str) -> None:
    from batch_jobs.lifecycle.advance import advance

    bars = Bars(quiet=False)
    try:
        for other in advance(project, task_id, bars).waits_for:
            with contextlib.suppress(BatchJobsError):  # that job's own trouble is shown with that job
                advance(project, other)
                advance(project, task_id, bars)
    except JobHeld:
        say(place, show.line("held", "another process is working on this job; this is what it has come to", "yellow"))
    finally:
        bars.close()


def _show(project: Project, place: Place, task_id: str) -> int:
    from batch_jobs.lifecycle.view import view

    seen = view(project, task_id)
    for text in show.status_lines(seen):
        say(place, text)
    if seen.output:
        say(place, show.report_line(seen))
    if seen.status is not Status.DONE:
        say(place, show.line("next", f"batch-jobs status {task_id[:12]} --download   (or --watch)"))
    answer_json(place, seen.as_json())
    return exit_code(seen)


@click.command()
@click.option("--stuck", is_flag=True, help="Only jobs that somebody should look at.")
@click.option("--limit", default=LIMIT, show_default=True, help="How many, newest first.")
@project_options
def jobs_command(place: Place, stuck: bool, limit: int) -> int:
    """List the jobs of this store, newest first."""
    from batch_jobs.lifecycle.view import newest_views

    with opened(place) as project:
        views = newest_views(project, limit, stuck=stuck)
    for text in show.job_table(views):
        say(place, text)
    if not views:
        say(place, "no job needs anybody" if stuck else "no jobs yet; start one with: batch-jobs run --help")
    answer_json(place, [seen.as_json() for seen in views])
    return 0
