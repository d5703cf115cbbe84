"""A log file per job: named events with ids, one line each, nothing of a row's content above DEBUG, never a key."""

from __future__ import annotations

import contextlib
import json
import logging
import sys
import time
from collections.abc import Iterator

from batch_jobs.lifecycle.project import Project

ROOT_LOGGER = "batch_jobs"


class _OfJob(logging.Filter):
    def __init__(self, task_id: str) -> None:
        super().__init__()
        self.task_id = task_id

    def filter(self, record: logging.LogRecord) -> bool:
        """Keep the records of one job."""
        return getattr(record, "task_id", None) == self.task_id


class _Line(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        """`2026-11-21T10:00:00Z INFO shard.submitted {"shard_key": ...}`."""
        at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(record.created))
        data = json.dumps(getattr(record, "data", {}), default=str, ensure_ascii=False)
        simulated = " simulated" if getattr(record, "simulated", False) else ""
        return f"{at} {record.levelname}{simulated} {record.getMessage()} {data}"


class _File(logging.FileHandler):
    """A log on a full disk stays behind; the job goes on, as its events are in the ledger."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write a line if that is possible."""
        with contextlib.suppress(OSError):
            super().emit(record)

    def handleError(self, record: logging.LogRecord) -> None:
        """Say nothing of the disk here: where it matters, the job says it."""
        if not isinstance(sys.exception(), OSError):
            super().handleError(record)

    def close(self) -> None:
        """Close, also where the last lines can't be written."""
        with contextlib.suppress(OSError):
            super().close()


@contextlib.contextmanager
def job_log(project: Project, task_id: str, *, simulated: bool) -> Iterator[None]:
    """Write this job's log records to its log file while the block runs."""
    path = project.workspace.log(task_id)
    path.parent.mkdir(parents=True, exist_ok=True)
    handler = _File(path, encoding="utf-8", delay=True)
    handler.setFormatter(_Line())
    handler.addFilter(_OfJob(task_id))
    if simulated:
        handler.addFilter(_mark_simulated)
    logger = logging.getLogger(ROOT_LOGGER)
    logger.addHandler(handler)
    if logger.getEffectiveLevel() > logging.INFO:
        logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        handler.close()


def _mark_simulated(record: logging.LogRecord) -> bool:
    record.simulated = True
    return True
