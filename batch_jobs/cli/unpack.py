"""`batch-jobs unpack`."""

from __future__ import annotations

import click

from batch_jobs.cli import show
from batch_jobs.cli.options import Place, answer_json, full_id, opened, project_options, say
from batch_jobs.errors import EXIT_OK


@click.command()
@click.argument("task_id", required=False)
@click.option("--task_id", "--task-id", "task_id_option", help="The same, as an option.")
@click.option("--identity", "identities", multiple=True, help="Only this record; may be given more than once.")
@click.option("--limit", type=click.IntRange(min=1), help="At most so many results.")
@project_options
def unpack_command(
    place: Place, task_id: str | None, task_id_option: str | None, identities: tuple[str, ...], limit: int | None
) -> int:
    """Write folders for packed results: of a job, of some records, or of the first so many.

    The results of large jobs are packed into one Parquet file a job (store.layout in config.json). This writes
    store/<data_case>/processed/<identity>/ for a selection of them, as small jobs have it; the packed file stays. A
    folder takes about 20 KB of disk. Run again, it changes nothing; rebuild-store removes these folders.
    """
    from batch_jobs.lifecycle.unpack import unpack

    given = task_id_option or task_id
    with opened(place) as project:
        written = unpack(project, full_id(project, given) if given else None, identities, limit)
    for folder, number in written.items():
        say(place, show.line("unpacked", f"{show.count(number, 'result')} into {folder}"))
    if not written:
        say(place, show.line("unpacked", "nothing: there are no packed results"))
    answer_json(place, {"unpacked": sum(written.values()), "folders": [str(folder) for folder in written]})
    return EXIT_OK
