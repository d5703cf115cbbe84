"""`batch-jobs cancel`, `resume` and `rebuild-store`."""

from __future__ import annotations

import click

from batch_jobs.cli import show
from batch_jobs.cli.ending import finish
from batch_jobs.cli.options import Place, answer_json, full_id, opened, path_of, project_options, say
from batch_jobs.cli.watch import wait_for
from batch_jobs.errors import EXIT_OK


@click.command()
@click.argument("task_id")
@project_options
def cancel_command(place: Place, task_id: str) -> int:
    """Stop a job. What was finished by then is fetched, written to the file, and priced."""
    from batch_jobs.lifecycle.control import cancel

    with opened(place) as project:
        full = full_id(project, task_id)
        cancel(project, full)
        say(place, show.line("cancelling", "what was finished is still fetched"))
        wait_for(project, full)
        return finish(project, place, full, None)


@click.command()
@click.argument("task_id")
@click.option("--output", metavar="PATH", help="Where the file goes, replaced if there.  [default: beside the upload]")
@project_options
def resume_command(place: Place, task_id: str, output: str | None) -> int:
    """Go on with a job that was paused (after a top-up, with the right key) or interrupted."""
    from batch_jobs.lifecycle.control import approve, resume

    with opened(place) as project:
        full = full_id(project, task_id)
        resume(project, full)
        approve(project, full)
        wait_for(project, full)
        return finish(project, place, full, path_of("--output", output) if output else None)


@click.command()
@project_options
def rebuild_store(place: Place) -> int:
    """Make the folders of the store and the manifests anew, from the ledger, the call cache and the snapshots."""
    from batch_jobs.lifecycle.rebuild import rebuild

    with opened(place) as project:
        filed, waiting = rebuild(project)
    say(place, show.line("rebuilt", f"{show.count(filed, 'result')} filed, {show.count(waiting, 'folder')} to process"))
    answer_json(place, {"filed": filed, "to_process": waiting})
    return EXIT_OK
