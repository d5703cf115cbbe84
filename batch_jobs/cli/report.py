"""`batch-jobs report`: how a job went, as a page to show and a text to send."""

from __future__ import annotations

import click

from batch_jobs.cli import show
from batch_jobs.cli.ending import shown_path
from batch_jobs.cli.options import Place, answer_json, full_id, opened, path_of, project_options, say
from batch_jobs.errors import EXIT_OK, UserError


@click.command()
@click.argument("task_id", required=False)
@click.option("--task_id", "--task-id", "task_id_option", help="The same, as an option.")
@click.option("--output", metavar="DIR", help="The folder they go to.  [default: batch_output/<task_id>]")
@click.option(
    "--open", "opens", type=click.Choice(["yes", "no"]), default="no", show_default=True, help="Show the page at once."
)
@project_options
def report_command(
    place: Place, task_id: str | None, task_id_option: str | None, output: str | None, opens: str
) -> int:
    """Write report.html and report.md: how a job went, what it cost, what failed, twenty sample rows.

    The page is one file without scripts that asks no network: open it, print it, send it. Of a job that is under way
    it says how far it has come.
    """
    from batch_jobs.lifecycle.report.write import write_report
    from batch_jobs.output.report_words import headline

    given = task_id_option or task_id
    if not given:
        raise UserError("which job? Give its task_id; see what there is with: batch-jobs jobs")
    with opened(place) as project:
        folder = path_of("--output", output) if output else None
        written = write_report(project, full_id(project, given), folder)
    say(place, show.line("report", headline(written.report)))
    say(place, show.line("written", shown_path(written.html)))
    say(place, show.line("", shown_path(written.markdown)))
    paths = {"html": str(written.html.resolve()), "markdown": str(written.markdown.resolve())}
    answer_json(place, {"task_id": written.report.task_id, "done": written.report.done, **paths})
    if opens == "yes":
        click.launch(written.html.resolve().as_uri())
    return EXIT_OK
