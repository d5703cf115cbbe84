"""The call cache: fingerprint -> answer. Written, durably, before an answer is counted anywhere else.

A file of its own beside the ledger, so that a re-run, a crash or another job never pays again for an answer.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path

from sqlalchemy import Engine, func, select
from sqlalchemy.dialects.sqlite import insert

from batch_jobs.storage import schema
from batch_jobs.storage.database import open_sqlite, reading, writing
from batch_jobs.storage.schema import answers

CHUNK = 5_000


@dataclass(frozen=True, slots=True)
class Answer:
    """One valid answer that was paid for.

    Attributes:
        fingerprint: sha256 of the call, 32 bytes.
        answer: the answer as JSON text, valid against the task's schema.
        simulated: it came from the sandbox.
        task_id: the job that paid.
        at: unix seconds.
    """

    fingerprint: bytes
    answer: str
    provider: str
    model: str
    task: str
    simulated: bool
    input_tokens: int
    cached_tokens: int
    output_tokens: int
    cost_usd: float
    task_id: str
    at: float


class CallCache:
    """Open with `CallCache.open(path)`; safe to share between threads and processes."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    @classmethod
    def open(cls, path: Path) -> CallCache:
        """Open the cache file, made when needed."""
        engine = open_sqlite(path)
        with writing(engine) as connection:
            schema.cache.create_all(connection)
        return cls(engine)

    def put(self, new: Sequence[Answer]) -> None:
        """Store answers in one durable transaction; the first answer to a call stays."""
        if new:
            with writing(self.engine) as connection:
                connection.execute(insert(answers).on_conflict_do_nothing(), [asdict(answer) for answer in new])

    def get(self, fingerprints: Sequence[bytes]) -> dict[bytes, Answer]:
        """The answers there are."""
        found: dict[bytes, Answer] = {}
        with reading(self.engine) as connection:
            for start in range(0, len(fingerprints), CHUNK):
                query = select(answers).where(answers.c.fingerprint.in_(fingerprints[start : start + CHUNK]))
                for row in connection.execute(query):
                    values = {**row._mapping, "simulated": bool(row.simulated)}
                    found[row.fingerprint] = Answer(**values)
        return found

    def known(self, fingerprints: Iterable[bytes]) -> Iterator[bool]:
        """For each fingerprint in turn, whether its answer is here; streams in chunks."""
        source = iter(fingerprints)
        with reading(self.engine) as connection:
            empty = not connection.execute(
                select(func.count()).select_from(answers.select().limit(1).subquery())
            ).scalar()
            while chunk := list(islice(source, CHUNK)):
                query = select(answers.c.fingerprint).where(answers.c.fingerprint.in_(chunk))
                there = set() if empty else set(connection.execute(query).scalars())
                yield from (fingerprint in there for fingerprint in chunk)

    def close(self) -> None:
        """Release the connections."""
        self.engine.dispose()
