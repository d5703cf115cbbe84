"""BatchEvents: what happened to a job, append-only, each with a name from `EventName`."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, insert, select

from batch_jobs.models import EventName
from batch_jobs.storage.schema import events

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class BatchEvent:
    """One thing that happened."""

    event_id: int
    task_id: str
    at: float
    name: EventName
    data: dict[str, Any]


def add(connection: Connection, task_id: str, name: EventName, data: dict[str, Any] | None = None) -> None:
    """Append one event within the caller's transaction, and log it under its name."""
    logger.info(name.value, extra={"task_id": task_id, "data": data or {}})
    connection.execute(insert(events).values(task_id=task_id, at=time.time(), name=name, data=data or {}))


def of_job(connection: Connection, task_id: str, after: int = 0, limit: int = 1000) -> list[BatchEvent]:
    """A job's events in order, after an event_id."""
    query = select(events).where(events.c.task_id == task_id, events.c.event_id > after)
    rows = connection.execute(query.order_by(events.c.event_id).limit(limit))
    return [BatchEvent(row.event_id, row.task_id, row.at, EventName(row.name), row.data) for row in rows]


def named(connection: Connection, task_id: str, name: EventName) -> list[BatchEvent]:
    """A job's events of one name."""
    return [event for event in of_job(connection, task_id, limit=1_000_000) if event.name is name]
