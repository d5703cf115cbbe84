"""Transfers: several shards' uploads, creates, looks and downloads at once, bounded, and what follows one at a time.

What is begun is finished: a create whose reply nobody waits for would be an unknown outcome.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from typing import Any, TypeVar

from batch_jobs.errors import SyncFailed

Each = TypeVar("Each")
Came = TypeVar("Came")


def side_by_side(
    todo: Sequence[Each],
    work: Callable[[Each, threading.Event], Came],
    then: Callable[[Came], None],
    workers: int,
) -> None:
    """Work on several things at once, each in one thread, and follow each up in the caller's.

    Args:
        todo: begun in this order.
        work: what may go on beside the others; ends early, between its steps, once the event is set.
        then: what may not, for each as it comes.
        workers: at most at once; with 1 everything is done in the caller's thread, in order.

    Raises:
        BaseException: the first that `work` or `then` raised, once all that was begun has ended, and nothing new was;
            but SyncFailed before any other, as the process must end then.
    """
    halt = threading.Event()
    if workers == 1 or len(todo) <= 1:
        for each in todo:
            then(work(each, halt))
        return
    with ThreadPoolExecutor(min(workers, len(todo)), thread_name_prefix="transfer") as pool:
        futures = [pool.submit(work, each, halt) for each in todo]
        try:
            for future in as_completed(futures):
                then(future.result())
        except BaseException:
            halt.set()
            pool.shutdown(wait=True, cancel_futures=True)
            _raise_what_ends_the_process(futures)
            raise


def _raise_what_ends_the_process(futures: Sequence[Future[Any]]) -> None:
    for future in futures:
        error = None if future.cancelled() else future.exception()
        if isinstance(error, SyncFailed) or (error is not None and not isinstance(error, Exception)):
            raise error
