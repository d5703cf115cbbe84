"""The call cache: fingerprint -> answer. Written, durably, before an answer is counted anywhere else.

A file of its own beside the ledger, so that a re-run, a crash or another job never pays again for an answer.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import islice
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple

from sqlalchemy import Column, Engine, inspect, select
from sqlalchemy.dialects.sqlite import insert

from batch_jobs.storage import schema
from batch_jobs.storage.database import execute_many, fetch_among, open_sqlite, reading, writing
from batch_jobs.storage.schema import answers

CHUNK = 5_000
CACHE_KB = 16_000
"""Pages of an index over a million digests are touched in no order: fewer would be read again and again."""


class Answer(NamedTuple):
    """One valid answer that was paid for; its fields are the table's columns, in order.

    Attributes:
        fingerprint: sha256 of the call, 32 bytes.
        answer: the answer as JSON text, valid against the task's schema.
        simulated: 1 where it came from the sandbox, else 0.
        task_id: the job that paid.
        at: unix seconds.
    """

    fingerprint: bytes
    answer: str
    provider: str
    model: str
    task: str
    simulated: int
    input_tokens: int
    cached_tokens: int
    output_tokens: int
    cost_usd: float
    task_id: str
    at: float


@lru_cache(maxsize=4)
def cache_of_worker(path: Path, cache_kb: int = CACHE_KB) -> CallCache:
    """The cache in a worker process, opened once for all its tasks; the process it works for has made the file."""
    return CallCache(open_sqlite(path, cache_kb=cache_kb))


class CallCache:
    """Open with `CallCache.open(path)`; safe to share between threads and processes."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    @classmethod
    def open(cls, path: Path) -> CallCache:
        """Open the cache file, made when needed."""
        engine = open_sqlite(path, cache_kb=CACHE_KB)
        with reading(engine) as connection:
            made = inspect(connection).has_table(answers.name)
        if not made:
            with writing(engine) as connection:
                schema.cache.create_all(connection)
        return cls(engine)

    def put(self, new: Sequence[Answer]) -> None:
        """Store answers in one durable transaction; the first answer to a call stays.

        In the order of their fingerprints, as the index has them: its pages are then touched once each.
        """
        if new:
            with writing(self.engine) as connection:
                execute_many(
                    connection, insert(answers).on_conflict_do_nothing(), Answer._fields, sorted(new, key=itemgetter(0))
                )

    def get(self, fingerprints: Sequence[bytes]) -> dict[bytes, Answer]:
        """The answers there are."""
        return {row[0]: Answer._make(row) for row in self._rows(fingerprints, *answers.c)}

    def texts(self, fingerprints: Sequence[bytes]) -> dict[bytes, str]:
        """Only the answers' JSON texts."""
        return dict(self._rows(fingerprints, answers.c.fingerprint, answers.c.answer))

    def _rows(self, fingerprints: Sequence[bytes], *columns: Column[Any]) -> Iterator[tuple[Any, ...]]:
        with reading(self.engine) as connection:
            for start in range(0, len(fingerprints), CHUNK):
                yield from fetch_among(connection, columns, answers.c.fingerprint, fingerprints[start : start + CHUNK])

    def known(self, fingerprints: Iterable[bytes]) -> Iterator[bool]:
        """For each fingerprint in turn, whether its answer is here; streams in chunks."""
        source = iter(fingerprints)
        call = answers.c.fingerprint
        with reading(self.engine) as connection:
            empty = connection.execute(select(call).limit(1)).first() is None
            while chunk := list(islice(source, CHUNK)):
                there = set() if empty else {row[0] for row in fetch_among(connection, [call], call, chunk)}
                yield from (fingerprint in there for fingerprint in chunk)

    def close(self) -> None:
        """Release the connections."""
        self.engine.dispose()
