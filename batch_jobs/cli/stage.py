"""`batch-jobs stage ...`: the steps of a job one at a time, each with an artefact to look at."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from batch_jobs.cli import show
from batch_jobs.cli.ending import exit_code, finish, shown_path
from batch_jobs.cli.options import Place, answer_json, full_id, opened, path_of, project_options, say
from batch_jobs.cli.run import may_go_on, show_plan
from batch_jobs.cli.watch import wait_for
from batch_jobs.errors import EXIT_BAD_INPUT, EXIT_OK, UserError
from batch_jobs.models import Mode, Phase

if TYPE_CHECKING:
    from batch_jobs.lifecycle.project import Project
    from batch_jobs.lifecycle.stages import Made
    from batch_jobs.lifecycle.stages_schema import Bill
    from batch_jobs.storage.jobs import Job

F = TypeVar("F", bound=Callable[..., Any])
EPILOG = """\b
In this order:
  batch-jobs stage schema --task severity --data-case external_loss --file losses.csv
  batch-jobs stage ingest --task severity --data-case external_loss --file losses.csv
  batch-jobs stage items TASK_ID
  batch-jobs stage generate TASK_ID"""


class _Stages(click.Group):
    """A wrong stage is answered with the nearest one."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        """In the order of the work."""
        return list(self.commands)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find a stage."""
        if args and args[0] not in self.commands and not args[0].startswith("-"):
            from batch_jobs.config import nearest

            ctx.fail(f'there is no stage "{args[0]}"{nearest(args[0], self.commands)}')
        return super().resolve_command(ctx, args)


@click.group(cls=_Stages, epilog=EPILOG)
def stage() -> None:
    """Run one stage of a job, and look at what it leaves.

    A stage does nothing where its artefact is there and its inputs have not changed. Where it writes one anew, the old
    one is kept in archived/ beside it; --force has it written anew in any case.
    """


def _task_options(function: F) -> F:
    function = click.option("--data_case", "--data-case", required=True, help="One of its data cases.")(function)
    return click.option("--task", required=True, help="A task of config.json.")(function)


def _model_options(function: F) -> F:
    function = click.option("--sheet", help="The worksheet of an xlsx.  [default: the first]")(function)
    function = click.option("--model", help="A model of that provider.  [default: from config]")(function)
    return click.option("--provider", help="A provider of config.json.  [default: from config]")(function)


def _job_options(function: F) -> F:
    function = click.option("--task_id", "--task-id", "task_id_option", help="The same, as an option.")(function)
    return click.argument("task_id", required=False)(function)


_force = click.option("--force", is_flag=True, help="Write it anew; the old one goes to archived/ beside it.")


@stage.command()
@_task_options
@click.option("--file", "file", metavar="PATH", help="A sample: the LLM sees its first rows.")
@_model_options
@_force
@project_options
def schema(
    place: Place,
    task: str,
    data_case: str,
    file: str | None,
    provider: str | None,
    model: str | None,
    sheet: str | None,
    force: bool,
) -> int:
    """Have an LLM write the schema of a task's answers: the module of pydantic models that its YAML prompt names.

    One call, which is paid for once; its module is checked before it is put in place, and never run before that. A
    schema that is there is kept.
    """
    from batch_jobs.lifecycle.stages_schema import Sample, SchemaOrder, make_schema

    path = path_of("--file", file) if file else None
    sample = Sample(path, path.name, sheet) if path else None
    with opened(place) as project:
        order = SchemaOrder(task, data_case, sample, provider, model, force)
        made = make_schema(project, order, lambda text: say(place, show.line("schema", text)))
        _say_made(place, "schema", made.made)
        if made.module is not None:
            say(place, show.line("answer", f"{made.module.model}: {', '.join(made.module.fields)}"))
            say(place, show.line("cost", _cost(made.bill, simulated=project.simulated)))
            rehearsed = "the same without --sandbox, with --force, for one that an LLM has written"
            say(place, show.line("next", rehearsed if project.simulated else "look at it, then: batch-jobs run"))
        answer_json(place, made.as_json())
    return EXIT_OK


def _cost(bill: Bill, *, simulated: bool) -> str:
    if not bill.calls:
        return "nothing: the answer was known"
    price = show.money(bill.cost_usd)
    used = f"{bill.usage.input_tokens:,} tokens in, {bill.usage.output_tokens:,} out"
    said = f"{price} for {show.count(bill.calls, 'call')} to {bill.provider} {bill.model} ({used})"
    return f"{said}, simulated" if simulated else said


@stage.command("schema-text")
@click.option("--task", required=True, help="A task of config.json.")
@_force
@project_options
def schema_text(place: Place, task: str, force: bool) -> int:
    """Write the JSON Schema text of a task's answers beside its schema, as <stem>.schema.json."""
    from batch_jobs.lifecycle.stages_text import write_schema_text

    with opened(place) as project:
        made = write_schema_text(project, task, force=force)
    _say_made(place, "schema-text", made)
    answer_json(place, {"stage": "schema-text", **made.as_json()})
    return EXIT_OK


@stage.command()
@click.option("--file", "file", required=True, metavar="PATH", help="The spreadsheet.")
@_task_options
@click.option("--mode", type=click.Choice([mode.value for mode in Mode]), help="[default: from config]")
@_model_options
@_force
@project_options
def ingest(
    place: Place,
    file: str,
    task: str,
    data_case: str,
    mode: str | None,
    provider: str | None,
    model: str | None,
    sheet: str | None,
    force: bool,
) -> int:
    """Take a file in, and write down what it is: batch_input/<task_id>/ingest.json.

    The same file for the same task and data case, whose job is not done, is that job again; unless it was planned with
    another prompt or config than the present ones, which it keeps: then a new job is made.
    """
    from batch_jobs.lifecycle.documents import as_table
    from batch_jobs.lifecycle.receive import Order
    from batch_jobs.lifecycle.stages_job import ingest as take_in
    from batch_jobs.lifecycle.stages_job import ingested_as_json

    path, asked = path_of("--file", file), Mode(mode) if mode else None
    given = Order(path, path.name, task, data_case, asked, provider, model, sheet, path.resolve())
    with opened(place) as project, as_table(project, given) as order:
        done = take_in(project, order, force=force)
        say(place, show.file_line(done.job))
        _say_made(place, "ingest", done.made)
        say(place, show.line("task_id", done.job.task_id))
        say(place, show.line("next", f"batch-jobs stage items {done.job.task_id[:12]}"))
        answer_json(place, ingested_as_json(done))
    return EXIT_OK


@stage.command()
@_job_options
@_force
@project_options
def items(place: Place, task_id: str | None, task_id_option: str | None, force: bool) -> int:
    """Plan a job, and write down what it asks: batch_input/<task_id>/items.jsonl, a line an item. Nothing is sent."""
    with opened(place) as project:
        job = _job(project, task_id_option or task_id)
        made = _items(project, place, job, force=force)
        if _job(project, job.task_id).phase is Phase.PLANNED:
            say(place, show.line("next", f"batch-jobs stage generate {job.task_id[:12]}"))
        answer_json(place, {"stage": "items", "task_id": job.task_id, **made.as_json()})
    return EXIT_OK


def _items(project: Project, place: Place, job: Job, *, force: bool) -> Made:
    from batch_jobs.lifecycle.stages import require_current
    from batch_jobs.lifecycle.stages_job import write_items

    require_current(project, job)
    if job.phase in {Phase.RECEIVED, Phase.PLANNED}:
        show_plan(project, place, job.task_id)
    made = write_items(project, job.task_id, force=force)
    _say_made(place, "items", made)
    return made


@stage.command()
@_job_options
@click.option("--yes", "-y", is_flag=True, help="Send without asking.")
@_force
@project_options
def generate(place: Place, task_id: str | None, task_id_option: str | None, yes: bool, force: bool) -> int:
    """Send what a job asks, wait for the answers, and write them down: batch_output/<task_id>/answers.jsonl.

    The file goes beside the upload, as with run. What was answered is never asked again, also with --force.
    """
    from batch_jobs.lifecycle.stages_job import write_answers
    from batch_jobs.lifecycle.view import view
    from batch_jobs.models import Status

    with opened(place) as project:
        job = _job(project, task_id_option or task_id)
        _items(project, place, job, force=False)
        if job.phase is not Phase.DONE:
            if not may_go_on(project, place, _job(project, job.task_id), continued=True, yes=yes):
                return EXIT_BAD_INPUT
            wait_for(project, job.task_id)
        seen = view(project, job.task_id)
        if seen.status is not Status.DONE:
            return finish(project, place, job.task_id, None)
        made = write_answers(project, job.task_id, force=force)
        _say_made(place, "generate", made)
        also = {"stage": "generate", **made.as_json()}
        if job.delivered:
            answer_json(place, {**seen.as_json(), **also})
            return exit_code(seen)
        return finish(project, place, job.task_id, None, also=also)


@stage.command()
@_job_options
@click.option(
    "--format",
    "fmt",
    type=click.Choice(["csv", "tsv", "psv", "jsonl", "xlsx", "parquet"]),
    default="jsonl",
    show_default=True,
    help="What to write.",
)
@project_options
def export(place: Place, task_id: str | None, task_id_option: str | None, fmt: str) -> int:
    """Export the rows of a done job: the same as batch-jobs export."""
    from batch_jobs.lifecycle.stages_outputs import export_stage

    with opened(place) as project:
        job = _job(project, task_id_option or task_id)
        _say_written(place, "export", job, export_stage(project, job.task_id, fmt, Path.cwd()))
    return EXIT_OK


@stage.command()
@_job_options
@project_options
def report(place: Place, task_id: str | None, task_id_option: str | None) -> int:
    """Write the report of a done job: the same as batch-jobs report."""
    from batch_jobs.lifecycle.stages_outputs import report_stage

    with opened(place) as project:
        job = _job(project, task_id_option or task_id)
        _say_written(place, "report", job, report_stage(project, job.task_id))
    return EXIT_OK


def _say_written(place: Place, name: str, job: Job, written: list[Path]) -> None:
    for path in written:
        say(place, show.line("written", shown_path(path)))
    answer_json(place, {"stage": name, "task_id": job.task_id, "written": [str(path) for path in written]})


def _job(project: Project, given: str | None) -> Job:
    from batch_jobs.storage import jobs

    if not given:
        raise UserError("which job? Give its task_id; see what there is with: batch-jobs jobs")
    with project.ledger.read() as connection:
        return jobs.get(connection, full_id(project, given))


def _say_made(place: Place, name: str, made: Made) -> None:
    color = "green" if made.state == "written" else None
    say(place, show.line(name, f"{made.state}  {shown_path(Path(made.path))}", color))
    if made.archived is not None:
        say(place, show.line("archived", shown_path(made.archived)))
