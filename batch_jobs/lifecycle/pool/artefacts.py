"""What single calls sent and got back, a line a request and a line a call, in the job's folders.

For audit, and for figures of how long they took: the call cache and the ledger are the truth. A process that was killed
may have left half a line, and not written the last ones.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import orjson

from batch_jobs import system
from batch_jobs.lifecycle.pool.calls import Settled
from batch_jobs.models import AskKind, ItemResult
from batch_jobs.storage.workspace import Workspace


@contextlib.contextmanager
def open_artefacts(workspace: Workspace, task_id: str) -> Iterator[tuple[IO[bytes], IO[bytes]]]:
    """Open both files of a job, to add to what is there: what is sent, what comes back."""
    sent, received = workspace.calls_sent(task_id), workspace.calls_received(task_id)
    for path in (sent, received):
        path.parent.mkdir(parents=True, exist_ok=True)
    with sent.open("a+b") as log_sent, received.open("a+b") as log_received:
        for path, log in ((sent, log_sent), (received, log_received)):
            system.sync_folder(path.parent)  # they are there after a crash, whatever they hold
            _end_line(log)
        yield log_sent, log_received


def _end_line(log: IO[bytes]) -> None:
    """End a line that a killed process left half, so that the next one is not lost with it."""
    if log.seek(0, os.SEEK_END):
        log.seek(-1, os.SEEK_END)
        if log.read() != b"\n":
            log.write(b"\n")


def write_received(log: IO[bytes], group: Sequence[Settled]) -> None:
    """Note what calls brought; a process that is killed later has not lost it."""
    log.writelines(map(_line, group))
    log.flush()


def _line(settled: Settled) -> bytes:
    line: dict[str, object] = {
        "item": settled.call.item,
        "begun": settled.begun,
        "seconds": settled.seconds,
        "last_seconds": settled.last_seconds,
    }
    if settled.call.kind is not AskKind.ANSWER:
        line["kind"] = settled.call.kind
    line |= {name: getattr(settled.result, name) for name in ItemResult.__slots__}
    return orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE)


def read_received(path: Path) -> Iterator[dict[str, Any]]:
    """Stream what calls brought, in the order in which it was noted; nothing where there is no such file.

    A line that is no whole one is passed by.
    """
    try:
        with path.open("rb") as lines:
            for line in lines:
                try:
                    call = orjson.loads(line)
                except orjson.JSONDecodeError:
                    continue
                if isinstance(call, dict):
                    yield call
    except OSError:
        return
