"""Sharing between jobs of one store: one call is made once, whoever asks for it.

An open item is free to send, or answered meanwhile (its answer is in the cache), or held: under way for another job,
whose answer it waits for. It is taken over when the other job ends without one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice

from sqlalchemy import Connection

from batch_jobs.lifecycle.run import Progress, Run
from batch_jobs.models import EventName
from batch_jobs.storage import claims, events, items
from batch_jobs.storage.jobs import Job

CHUNK = 50_000


class Overtaken(Exception):
    """Another job took or answered a call between the look at it and the claim."""


@dataclass
class Sorted:
    """Open items by what is to be done with them, ascending.

    Attributes:
        free: to send.
        answered: their answer is in the cache.
        held: items that other jobs have under way, by the other job's task_id.
    """

    free: list[int] = field(default_factory=list)
    answered: list[int] = field(default_factory=list)
    held: Counter[str] = field(default_factory=Counter)


def sort_out(run: Run, job: Job, connection: Connection, waiting: Iterable[tuple[int, bytes]]) -> Sorted:
    """Sort open items, given with their fingerprints."""
    found, source = Sorted(), iter(waiting)
    while chunk := list(islice(source, CHUNK)):
        fingerprints = [fingerprint for _, fingerprint in chunk]
        held = claims.held_by_others(connection, job.task_id, fingerprints)
        answered = run.project.cache.known(fingerprints)
        for (item, fingerprint), known in zip(chunk, answered, strict=True):
            if known:
                found.answered.append(item)
            elif fingerprint in held:
                found.held[held[fingerprint]] += 1
            else:
                found.free.append(item)
    return found


def still_free(run: Run, job: Job, connection: Connection, fingerprints: Sequence[bytes]) -> None:
    """Prove, inside the transaction that claims them, that these calls are nobody else's.

    An answer is in the cache before its claim ends, so a call that is neither claimed nor in the cache was not made.

    Raises:
        Overtaken: one is.
    """
    if claims.held_by_others(connection, job.task_id, fingerprints) or any(run.project.cache.known(fingerprints)):
        raise Overtaken


def adopt(run: Run, job: Job, answered: Sequence[int]) -> None:
    """End the items whose answer another job has got."""
    if answered:
        with run.write() as connection:
            items.adopt(connection, job.task_id, answered)
            events.add(connection, job.task_id, EventName.ITEMS_ADOPTED, {"items": len(answered)})


def claim_calls(run: Run, job: Job) -> Sorted:
    """Claim every open item that may be sent for single calls; adopt what is answered.

    Returns:
        What was found; `free` is claimed now.
    """
    while True:
        with run.project.ledger.read() as connection:
            found = sort_out(run, job, connection, items.unanswered(connection, job.task_id))
        adopt(run, job, found.answered)
        try:
            with run.write() as connection:
                for fingerprints in _fingerprints(connection, job, found.free):
                    still_free(run, job, connection, fingerprints)
                claims.claim_calls(connection, job.task_id, found.free, job.round)
        except Overtaken:
            continue
        tell_waits(run, job, found.held)
        return found


def _fingerprints(connection: Connection, job: Job, chosen: Sequence[int]) -> Iterator[list[bytes]]:
    for start in range(0, len(chosen), CHUNK):
        records = items.some(connection, job.task_id, chosen[start : start + CHUNK])
        yield [record.fingerprint for record in records.values()]


def tell_waits(run: Run, job: Job, held: Counter[str]) -> None:
    """Say for whom the job waits, once for each other job."""
    for other, number in sorted(held.items()):
        detail = f"{number:,} items are under way for job {other[:12]}"
        run.notify(Progress(job.task_id, "held", 0, 0, detail))
        with run.write() as connection:
            said = events.named(connection, job.task_id, EventName.ITEMS_WAITING)
            if all(event.data["for"] != other for event in said):
                events.add(connection, job.task_id, EventName.ITEMS_WAITING, {"for": other, "items": number})
