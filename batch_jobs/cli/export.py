"""`batch-jobs export`."""

from __future__ import annotations

from pathlib import Path

import click

from batch_jobs.cli import show
from batch_jobs.cli.ending import shown_path
from batch_jobs.cli.options import Place, answer_json, full_id, opened, path_of, project_options, say
from batch_jobs.errors import EXIT_OK
from batch_jobs.output.export import ExportFormat

EPILOG = """\b
Examples:
  batch-jobs export 3f2a9c --format parquet
  batch-jobs export 3f2a9c --format csv --output answers.csv"""


@click.command(epilog=EPILOG)
@click.argument("task_id")
@click.option(
    "--format",
    "fmt",
    required=True,
    type=click.Choice([each.value for each in ExportFormat]),
    help="What to write; jsonl and parquet keep the types of the answer's fields.",
)
@click.option("--output", metavar="PATH", help="Where it goes, replaced if there.  [default: beside the upload]")
@project_options
def export_command(place: Place, task_id: str, fmt: str, output: str | None) -> int:
    """Write a done job's rows as a table of another format, with their ids and all fields of the answer.

    Beside the columns of the file: row number, item number, identity and group before them; every field of the answer,
    status, outcome, and the judge's verdict and score behind them. The same job gives the same bytes each time.
    """
    from batch_jobs.cli.watch import Bars
    from batch_jobs.lifecycle.export import export

    target, bars = path_of("--output", output) if output else None, Bars()
    with opened(place) as project:
        full = full_id(project, task_id)
        try:
            made = export(project, full, ExportFormat(fmt), target, Path.cwd(), bars)
        finally:
            bars.close()
    say(place, show.line("exported", f"{show.count(made.rows, 'row')}, {show.count(len(made.columns), 'column')}"))
    if made.cut:
        say(
            place,
            show.line("cut", f"{show.count(made.cut, 'cell')} to the 32,767 characters that Excel holds", "yellow"),
        )
    say(place, show.line("written", shown_path(made.path)))
    document = {"task_id": full, "format": fmt, "path": str(made.path), "rows": made.rows, "columns": made.columns}
    answer_json(place, {**document, "cells_cut": made.cut})
    return EXIT_OK
