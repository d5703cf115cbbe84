"""`batch-jobs run`: the main job, from a file to the same file with new columns."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from batch_jobs.cli import show
from batch_jobs.cli.ending import finish
from batch_jobs.cli.options import Place, answer_json, opened, output_shape, path_of, project_options, say
from batch_jobs.cli.watch import Bars, advance_once, wait_for
from batch_jobs.errors import EXIT_BAD_INPUT, EXIT_OK, UserError
from batch_jobs.models import Mode, OutputShape, Phase

if TYPE_CHECKING:
    from batch_jobs.lifecycle.project import Project
    from batch_jobs.lifecycle.receive import Order
    from batch_jobs.storage.jobs import Job

EPILOG = """\b
Examples:
  batch-jobs run --file losses.xlsx --task summarize --data-case external_loss
  batch-jobs run --file losses.csv --task summarize --data-case external_loss --mode batch --detach --yes
  batch-jobs run --file losses.csv --task summarize --data-case external_loss --sandbox --dry-run"""


@click.command(epilog=EPILOG)
@click.option(
    "--file",
    "file",
    required=True,
    metavar="PATH",
    help="csv, tsv, psv, xlsx, jsonl, ndjson or parquet; or a document: pdf, docx, txt, md.",
)
@click.option("--task", required=True, help="A task of config.json, for example summarize.")
@click.option("--data_case", "--data-case", required=True, help="One of its data cases, for example external_loss.")
@click.option(
    "--mode",
    type=click.Choice([mode.value for mode in Mode]),
    help="batch: half the price, within a day; concurrent: at once; auto picks.  [default: from config]",
)
@click.option("--provider", help="A provider of config.json.  [default: from config]")
@click.option("--model", help="A model of that provider.  [default: from config]")
@click.option("--sheet", help="The worksheet of an xlsx.  [default: the first]")
@click.option("--output", metavar="PATH", help="Where the result goes, replaced if there.  [default: beside the file]")
@output_shape
@click.option("--detach", is_flag=True, help="End after the batches are submitted; fetch later with status --download.")
@click.option("--yes", "-y", is_flag=True, help="Send without asking.")
@click.option("--dry-run", is_flag=True, help="Show the plan and stop; nothing is sent or kept.")
@click.option("--new", is_flag=True, help="Start another job even if one for this very file is not finished.")
@project_options
def run(
    place: Place,
    file: str,
    task: str,
    data_case: str,
    mode: str | None,
    provider: str | None,
    model: str | None,
    sheet: str | None,
    output: str | None,
    shape: str,
    detach: bool,
    yes: bool,
    dry_run: bool,
    new: bool,
) -> int:
    """Answer every row of a spreadsheet and get it back with new columns.

    Shows the plan and its cost and asks before it sends. Interrupted or killed, give the same command again: it goes
    on where it was, and no answer is paid for twice.
    """
    from batch_jobs.lifecycle.documents import as_table
    from batch_jobs.lifecycle.group_output import check_shape
    from batch_jobs.lifecycle.receive import Order

    if detach and mode == Mode.CONCURRENT:
        raise UserError("--detach is for batches, which run at the provider; single calls need this process. Drop one")
    asked = Mode.BATCH if detach else Mode(mode) if mode else None
    path, target = path_of("--file", file), path_of("--output", output) if output else None
    given = Order(path, path.name, task, data_case, asked, provider, model, sheet, path.resolve())
    with opened(place) as project, as_table(project, given) as order:
        check_shape(project, task, data_case, OutputShape(shape))
        if order.original is not None:
            say(place, show.document_line(order.original))
        job, continued = _find_or_receive(project, place, order, new=new)
        return _carry_on(
            project,
            place,
            job,
            continued,
            target,
            OutputShape(shape),
            detach=detach,
            yes=yes,
            dry_run=dry_run,
        )


def _find_or_receive(project: Project, place: Place, order: Order, *, new: bool) -> tuple[Job, bool]:
    """The job of this very file that is not at its end, else a new one; and whether it was found."""
    from batch_jobs.lifecycle.receive import find_open, receive

    found = None if new else find_open(project, order)
    if found is None:
        job = receive(project, order)
        say(place, show.file_line(job))
        return job, False
    say(place, show.file_line(found))
    left = "whose file was not handed over" if found.phase is Phase.DONE else "which is not finished"
    say(place, show.line("continues", f"job {found.task_id[:12]}, {left}; --new starts another", "yellow"))
    return found, True


def _carry_on(
    project: Project,
    place: Place,
    job: Job,
    continued: bool,
    output: Path | None,
    shape: OutputShape,
    *,
    detach: bool,
    yes: bool,
    dry_run: bool,
) -> int:
    if job.phase in {Phase.RECEIVED, Phase.PLANNED}:
        show_plan(project, place, job.task_id)
        if dry_run:
            return _dry_run(project, place, job, continued)
    elif dry_run:
        say(place, show.line("dry run", "this job has begun already; see: batch-jobs status"))
        return EXIT_OK
    if not may_go_on(project, place, job, continued, yes=yes):
        return EXIT_BAD_INPUT
    if detach:
        return _detach(project, place, job.task_id)
    wait_for(project, job.task_id)
    return finish(project, place, job.task_id, output, shape=shape)


def may_go_on(project: Project, place: Place, job: Job, continued: bool, *, yes: bool) -> bool:
    """Get the user's word to send what is planned, or go on with what was begun; without it a new job is forgotten."""
    from batch_jobs.lifecycle.control import approve, discard, resume

    if job.phase in {Phase.RECEIVED, Phase.PLANNED}:
        if not _may_send(project, place, job, yes=yes):
            if not continued:
                discard(project, job.task_id)
            say(place, show.line("stopped", "nothing was sent"))
            return False
        approve(project, job.task_id)
    elif job.phase is Phase.PAUSED:
        resume(project, job.task_id)
    say(place, show.line("task_id", job.task_id + _may_leave(project, job.task_id)))
    return True


def _may_leave(project: Project, task_id: str) -> str:
    """How to come back later, for a job that takes its time."""
    from batch_jobs.lifecycle.view import view

    seen = view(project, task_id)
    waits = seen.mode is Mode.BATCH and seen.items > seen.from_cache
    return f"   you may leave: batch-jobs status {task_id[:12]} --download" if waits else ""


def show_plan(project: Project, place: Place, task_id: str) -> None:
    """Plan a job that is not planned yet, and show what it will take."""
    from batch_jobs.lifecycle.plan import plan_of
    from batch_jobs.lifecycle.schema_fit import schema_hints

    bars = Bars()
    try:
        while (job := _look_up(project, task_id)).phase is Phase.RECEIVED:
            advance_once(project, task_id, bars)
    finally:
        bars.close()
    if job.plan is not None:
        entry = project.entry(job.provider).models.get(job.model)
        for text in show.plan_lines(job, plan_of(job), entry):
            say(place, text)
        if (hints := schema_hints(project, job)) is not None:
            say(place, show.line("schema", hints, "yellow"))


def _look_up(project: Project, task_id: str) -> Job:
    from batch_jobs.storage import jobs

    with project.ledger.read() as connection:
        return jobs.get(connection, task_id)


def _dry_run(project: Project, place: Place, job: Job, continued: bool) -> int:
    from batch_jobs.lifecycle.control import discard
    from batch_jobs.lifecycle.view import view

    document = {**view(project, job.task_id).as_json(), "dry_run": True}
    if not continued:
        discard(project, job.task_id)
    say(place, show.line("dry run", "stopped here: nothing was sent, nothing was kept"))
    answer_json(place, document)
    return EXIT_OK


def _may_send(project: Project, place: Place, job: Job, *, yes: bool) -> bool:
    """The user's word; not asked for when there is nothing to send, with --yes, or when nobody sits there."""
    from batch_jobs.lifecycle.view import view

    seen = view(project, job.task_id)
    if yes or seen.items == seen.from_cache or not (sys.stdin.isatty() and sys.stdout.isatty()):
        return True
    return click.confirm(show.line("send?", "").rstrip(), default=True, err=place.as_json)


def _detach(project: Project, place: Place, task_id: str) -> int:
    """Stay until every shard of the round is with the provider, then leave."""
    import time

    from batch_jobs.lifecycle.advance import Came
    from batch_jobs.lifecycle.view import all_submitted, view

    bars = Bars()
    advanced = advance_once(project, task_id, bars)
    while advanced.came is Came.WAIT and not advanced.waits_for and not all_submitted(project, task_id):
        time.sleep(advanced.seconds)
        advanced = advance_once(project, task_id, bars)
    bars.close()
    if advanced.came is not Came.WAIT:
        return finish(project, place, task_id, None)
    say(place, show.line("detached", f"fetch it later with: batch-jobs status {task_id[:12]} --download", "green"))
    answer_json(place, view(project, task_id).as_json())
    return EXIT_OK
