"""The process pool that renders a job: one task a row group, results in any order, a dead worker is an error."""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import os
import threading
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool

from batch_jobs import system
from batch_jobs.errors import RenderFailed, SyncFailed
from batch_jobs.render.spec import RenderSpec
from batch_jobs.render.worker import render_segment
from batch_jobs.storage.files import store_errors


def render_all(spec: RenderSpec, progress: Callable[[int], None]) -> int:
    """Render every row group of the snapshot into bodies and index files.

    Args:
        spec: what to render with.
        progress: called with the number of rows of each finished group.

    Returns:
        Segments rendered; they are numbered from 0 like the snapshot's row groups.

    Raises:
        RenderFailed: a worker process died.
        StoreError: the disk is full, or can't be written.
        SyncFailed: the disk could not make a worker's files durable.
    """
    import pyarrow.parquet as pq

    with pq.ParquetFile(spec.snapshot) as snapshot:
        sizes = [snapshot.metadata.row_group(group).num_rows for group in range(snapshot.metadata.num_row_groups)]
    with store_errors(spec.plan):
        spec.plan.mkdir(parents=True, exist_ok=True)
    context = multiprocessing.get_context("spawn")  # fork is not safe in a process with threads
    workers = min(os.cpu_count() or 1, max(len(sizes), 1))
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_end_with_parent) as pool:
        first_rows = [sum(sizes[:group]) for group in range(len(sizes))]
        jobs = [pool.submit(render_segment, spec, group, first_rows[group]) for group in range(len(sizes))]
        try:
            for job in as_completed(jobs):
                progress(job.result())
        except BrokenProcessPool as error:
            raise RenderFailed(
                "a worker process died while it rendered the requests (out of memory, or the prompt module ended it); "
                f"nothing was sent. Check {spec.prompt_file} and the memory, then run the same command again"
            ) from error
        except BaseException as error:
            if isinstance(error, SyncFailed):
                system.sync_failed_in_worker(error)
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return len(sizes)


def _end_with_parent() -> None:
    """A worker whose parent was killed would wait for work for ever, with the parent's output pipes open."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, name="parent-watch", daemon=True).start()
