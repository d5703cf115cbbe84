"""Leases with fencing tokens: one holder at a time per job, across processes, replaced soon after it dies.

A token grows with every change of holder; a write under an old token is refused inside its own transaction.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass

from sqlalchemy import Connection, Engine, insert, select, update

from batch_jobs import system
from batch_jobs.errors import JobHeld, StoreError
from batch_jobs.storage.database import reading, writing
from batch_jobs.storage.schema import leases

TTL_SECONDS = 12.0


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to advance one job, for as long as it is renewed."""

    name: str
    holder: str
    token: int


def holder_name() -> str:
    """`host:pid:nonce`: tells on the same host whether the holder still lives."""
    return f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex[:8]}"


def _is_dead(holder: str) -> bool:
    host, pid, _ = holder.rsplit(":", 2)
    return host == socket.gethostname() and not system.process_alive(int(pid))


def acquire(engine: Engine, name: str, holder: str, now: float) -> Lease | None:
    """Take the lease if it is free, expired, or its holder on this machine is dead; else None."""
    with writing(engine) as connection:
        row = connection.execute(select(leases).where(leases.c.name == name)).one_or_none()
        if row is None:
            connection.execute(insert(leases).values(name=name, holder=holder, token=1, expires_at=now + TTL_SECONDS))
            return Lease(name, holder, 1)
        if row.expires_at > now and not _is_dead(row.holder):
            return None
        token = row.token + 1
        values = {"holder": holder, "token": token, "expires_at": now + TTL_SECONDS}
        connection.execute(update(leases).where(leases.c.name == name).values(**values))
        return Lease(name, holder, token)


def verify(connection: Connection, lease: Lease) -> None:
    """Refuse to go on when the lease has gone to another holder.

    Raises:
        JobHeld: the token has changed.
    """
    token = connection.execute(select(leases.c.token).where(leases.c.name == lease.name)).scalar()
    if token != lease.token:
        raise JobHeld("another process has taken this job over; this one stops, and nothing is lost")


def renew(engine: Engine, lease: Lease, now: float) -> None:
    """Put the expiry off by one TTL."""
    with writing(engine) as connection:
        verify(connection, lease)
        connection.execute(update(leases).where(leases.c.name == lease.name).values(expires_at=now + TTL_SECONDS))


def release(engine: Engine, lease: Lease) -> None:
    """Give the lease back at once; the token lives on, so that it can only grow."""
    with writing(engine) as connection:
        mine = (leases.c.name == lease.name) & (leases.c.token == lease.token)
        connection.execute(update(leases).where(mine).values(expires_at=0))


def current_holder(engine: Engine, name: str, now: float) -> str | None:
    """Who holds the lease now, or None."""
    with reading(engine) as connection:
        return holder_of(connection, name, now)


def holder_of(connection: Connection, name: str, now: float) -> str | None:
    """`current_holder`, within a transaction."""
    row = connection.execute(select(leases).where(leases.c.name == name)).one_or_none()
    return row.holder if row is not None and row.expires_at > now and not _is_dead(row.holder) else None


@contextlib.contextmanager
def holding(engine: Engine, name: str) -> Iterator[Lease]:
    """Hold a lease for the block, renewed by a thread three times a TTL.

    Raises:
        JobHeld: somebody else has it.
    """
    lease = acquire(engine, name, holder_name(), time.time())
    if lease is None:
        raise JobHeld(f"another process is working on this job ({name})")
    stop = threading.Event()
    thread = threading.Thread(target=_keep, args=(engine, lease, stop), name=f"lease-{name}", daemon=True)
    thread.start()
    try:
        yield lease
    finally:
        stop.set()
        thread.join()
        with contextlib.suppress(StoreError):  # it expires by itself
            release(engine, lease)


def _keep(engine: Engine, lease: Lease, stop: threading.Event) -> None:
    while not stop.wait(TTL_SECONDS / 3):
        try:
            renew(engine, lease, time.time())
        except JobHeld:
            return  # the next fenced write says so
        except StoreError:
            continue  # a passing fault; the expiry decides
