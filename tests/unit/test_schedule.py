"""The poller's scheduler: closed at any moment, it ends without a word on the user's screen."""

from __future__ import annotations

import threading

from apscheduler.executors.debug import DebugExecutor

from batch_jobs.lifecycle.schedule import scheduler_of


def test_a_shutdown_while_it_goes_over_its_jobs_is_no_error() -> None:
    """A command that fails at once closes the scheduler before that has let go of the job it has just begun."""
    scheduler, begun = scheduler_of(1), threading.Event()
    closer = threading.Thread(target=scheduler.shutdown)

    def close_meanwhile() -> None:
        """Runs in the scheduler's own thread, so that the shutdown falls between begin and removal of this job."""
        closer.start()
        begun.set()
        while scheduler.running:
            closer.join(0.001)

    scheduler.start(paused=True)
    scheduler.add_executor(DebugExecutor(), "inline")
    scheduler.add_job(close_meanwhile, "date", executor="inline")
    errors: list[threading.ExceptHookArgs] = []
    hook, threading.excepthook = threading.excepthook, errors.append
    try:
        scheduler.resume()
        assert begun.wait(10)
        closer.join()
    finally:
        threading.excepthook = hook
    assert not scheduler.running
    assert errors == []
