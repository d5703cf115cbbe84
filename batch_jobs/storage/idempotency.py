"""Idempotency keys in the ledger: which upload a client's key stands for, so that a repeated one finds its job.

The rules are Stripe's (https://docs.stripe.com/api/idempotent_requests): same key and same request, same answer;
same key and another request is refused. The table's primary key decides between uploads that come in at once.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass

from sqlalchemy import ColumnElement, Connection, and_, delete, exists, select
from sqlalchemy.dialects.sqlite import insert

from batch_jobs.errors import KeyReused
from batch_jobs.storage.schema import idempotency_keys as table
from batch_jobs.storage.schema import jobs

KEEP_SECONDS = 30 * 24 * 3600.0
"""How long a key is remembered; after that it is as good as new."""


@dataclass(frozen=True, slots=True)
class Claim:
    """A key together with the request it was sent with, both as hex sha256: neither is kept in the clear."""

    key_sha256: str
    request_sha256: str


@dataclass(frozen=True, slots=True)
class Held:
    """What a key stands for already: the job that was made, and for which request."""

    task_id: str
    request_sha256: str


def claim_for(owner: str, key: str, request: Mapping[str, object]) -> Claim:
    """Build a claim.

    Args:
        owner: digest of the caller's API key, or empty: callers never share keys.
        key: as the client sent it.
        request: everything that makes the request what it is, as JSON values; the order of names does not matter.
    """
    return Claim(_digest([owner, key]), _digest(request))


def find(connection: Connection, claim: Claim, now: float) -> Held | None:
    """What the claim's key stands for; None when it is new, was forgotten, or its job was discarded.

    Args:
        connection: of a transaction.
        claim: whose request is not looked at, see `check_same`.
        now: unix seconds.
    """
    query = select(table.c.task_id, table.c.request_sha256).where(table.c.key_sha256 == claim.key_sha256, _alive(now))
    row = connection.execute(query).one_or_none()
    return None if row is None else Held(row.task_id, row.request_sha256)


def take(connection: Connection, claim: Claim, task_id: str, now: float) -> Held | None:
    """Tie the claim's key to a job that is recorded in this very transaction.

    Returns:
        None when the key is now this job's, else what it stands for: another upload was faster.
    """
    connection.execute(delete(table).where(table.c.created_at < now - KEEP_SECONDS))
    connection.execute(delete(table).where(table.c.key_sha256 == claim.key_sha256, ~_alive(now)))
    values = {"key_sha256": claim.key_sha256, "request_sha256": claim.request_sha256}
    query = insert(table).values(**values, task_id=task_id, created_at=now).on_conflict_do_nothing()
    return None if connection.execute(query).rowcount == 1 else find(connection, claim, now)


def check_same(held: Held, claim: Claim) -> None:
    """Refuse a key that was sent with another request before.

    Raises:
        KeyReused: the file, its name or a form field differs.
    """
    if held.request_sha256 != claim.request_sha256:
        raise KeyReused(
            "this Idempotency-Key was sent before with another request (the file, its name or a form field differs), "
            f"which made job {held.task_id}. Send exactly that request again, or a new key for a new job"
        )


def _alive(now: float) -> ColumnElement[bool]:
    """Whether a key counts: young enough, and its job was not discarded."""
    return and_(table.c.created_at >= now - KEEP_SECONDS, exists().where(jobs.c.task_id == table.c.task_id))


def _digest(value: object) -> str:
    """The hex sha256 of a value's canonical JSON: sorted names, no spaces, ASCII only."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode("ascii")).hexdigest()
