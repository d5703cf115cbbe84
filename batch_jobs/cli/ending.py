"""How a command that followed a job ends: the file is handed over, the result shown, the exit code chosen."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from batch_jobs.cli import show
from batch_jobs.cli.options import Place, answer_json, say
from batch_jobs.errors import EXIT_NOT_DONE, EXIT_OK, EXIT_OPERATOR, EXIT_ROWS_FAILED
from batch_jobs.models import OutputShape, Phase, Status

if TYPE_CHECKING:
    from batch_jobs.lifecycle.project import Project
    from batch_jobs.lifecycle.view import JobView


def finish(
    project: Project,
    place: Place,
    task_id: str,
    output: Path | None,
    folder: Path | None = None,
    shape: OutputShape = OutputShape.ROWS,
    *,
    also: dict[str, Any] | None = None,
) -> int:
    """Show how a job stands now; deliver its file if it is done.

    Args:
        project: the project.
        place: how to talk.
        task_id: the job.
        output: where the file goes; None for beside the user's own.
        folder: where it goes when the job does not know the user's own file.
        shape: what a line of it stands for.
        also: what else the JSON object says.

    Returns:
        The exit code.
    """
    from batch_jobs.lifecycle.deliver import deliver
    from batch_jobs.lifecycle.finish import first_rows, output_file
    from batch_jobs.lifecycle.view import view
    from batch_jobs.storage import jobs

    seen = view(project, task_id)
    if seen.status is Status.DONE:
        for text in show.done_lines(seen):
            say(place, text)
        with project.ledger.read() as connection:
            job = jobs.get(connection, task_id)
        if output_file(project, job) is not None:
            for text in show.preview_lines(first_rows(project, job), shutil.get_terminal_size((100, 24)).columns):
                say(place, text)
            say(place, show.line("written", shown_path(deliver(project, task_id, output, folder, shape))))
            say(place, show.report_line(seen))
    else:
        for text in show.status_lines(seen):
            say(place, text)
        if seen.phase is Phase.PAUSED:
            say(place, show.line("then", f"batch-jobs resume {task_id[:12]}"))
    answer_json(place, {**view(project, task_id).as_json(), **(also or {})})
    return exit_code(seen)


def shown_path(path: Path) -> str:
    """A path as short as it can be said from here."""
    try:
        return str(path.resolve().relative_to(Path.cwd()))
    except ValueError:
        return str(path)


def exit_code(seen: JobView) -> int:
    """0 all rows answered, 3 some failed, 4 needs the operator, 5 not done yet."""
    if seen.phase is Phase.PAUSED:
        return EXIT_OPERATOR
    if seen.status is not Status.DONE:
        return EXIT_NOT_DONE
    return EXIT_OK if seen.failed == 0 and seen.succeeded == seen.rows else EXIT_ROWS_FAILED
