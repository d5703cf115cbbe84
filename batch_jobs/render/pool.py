"""Rendering by many processes: one task a row group; a dead worker is an error, what is finished is kept.

A single row group is rendered at once, in this process: to begin another one takes longer.
"""

from __future__ import annotations

from collections.abc import Callable

from batch_jobs.errors import RenderFailed, WorkerDied
from batch_jobs.render.grouped import render_grouped
from batch_jobs.render.ordering import forget_groups, order_groups
from batch_jobs.render.spec import RenderSpec
from batch_jobs.render.worker import render_segment
from batch_jobs.storage.files import store_errors
from batch_jobs.workers import Workers


def render_all(spec: RenderSpec, progress: Callable[[int], None], workers: Workers) -> int:
    """Render every row group of the snapshot into bodies and index files.

    Args:
        spec: what to render with.
        progress: called with the number of rows of each finished group.
        workers: the processes that do it.

    Returns:
        Segments rendered; they are numbered from 0 like the snapshot's row groups.

    Raises:
        ConfigError: a group is too large to be shown whole.
        RenderFailed: a worker process died.
        StoreError: the disk is full, or can't be written.
        SyncFailed: the disk could not make a worker's files durable.
    """
    import pyarrow.parquet as pq

    with pq.ParquetFile(spec.snapshot) as snapshot:
        sizes = [snapshot.metadata.row_group(group).num_rows for group in range(snapshot.metadata.num_row_groups)]
    with store_errors(spec.plan):
        spec.plan.mkdir(parents=True, exist_ok=True)
    tasks = ((spec, group, sum(sizes[:group])) for group in range(len(sizes)))
    here = len(sizes) == 1 and not workers.apart
    try:
        if spec.grouping is None:
            forget_groups(spec.plan)
        else:
            list(workers.run(order_groups, [(spec,)], here=here))
        for rows in workers.run(render_grouped if spec.grouping else render_segment, tasks, here=here):
            progress(rows)
    except WorkerDied as error:
        raise RenderFailed(
            "a worker process died while it rendered the requests (out of memory, or the prompt module ended it); "
            f"nothing was sent. Check {spec.prompt_file} and the memory, then run the same command again"
        ) from error
    return len(sizes)
