"""Shards of requests that are made one by one: for several rows, about a draft, or again with what was wrong.

Most shards are written straight from the plan (`batch_jobs.lifecycle.rounds`); these need the item's draft, too.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain

from batch_jobs.lifecycle.admission import shard_limits
from batch_jobs.lifecycle.asking import Ask, Asker
from batch_jobs.lifecycle.policy import WIDEN_FACTOR
from batch_jobs.lifecycle.questions import Questions
from batch_jobs.lifecycle.recording import record_shard
from batch_jobs.lifecycle.run import Run
from batch_jobs.lifecycle.sides import side_of
from batch_jobs.models import AskKind
from batch_jobs.render.bodies import cut, tokens_of
from batch_jobs.render.bundles import bundles_of
from batch_jobs.render.items import read_lengths
from batch_jobs.render.shard_file import Written
from batch_jobs.storage import drafts, items, shards
from batch_jobs.storage.drafts import Draft
from batch_jobs.storage.files import atomic_file
from batch_jobs.storage.jobs import Job
from batch_jobs.storage.shards import custom_id, key_of
from providers.connect import codec_for
from providers.contract import Limits

LINE_BYTES = 700
"""Around a row's request, also where it is alone in a bundle."""


def needs_asking(run: Run, job: Job) -> bool:
    """Whether the requests of a job are not just those of the plan: bundles, drafts, a judge."""
    if job.rules.judge is not None or job.rules.rows_per_request > 1:
        return True
    with run.project.ledger.read() as connection:
        return drafts.any_of(connection, job.task_id)


def make_asked(run: Run, job: Job, waiting: Sequence[int]) -> None:
    """Put open items into shards, a kind of request at a time.

    Raises:
        Overtaken: an item is another job's by now.
    """
    with Asker(run.project, job) as asker:
        questions = Questions(run, job, asker)
        while waiting:
            for kind, chosen in questions.by_kind(waiting).items():
                _Maker(run, job, kind, asker, questions).make(chosen)
            waiting = questions.moved()


@dataclass
class _Written:
    """A shard's file so far."""

    size: int = 0
    tokens: int = 0
    requests: int = 0
    items: list[int] = field(default_factory=list)
    calls: list[bytes] = field(default_factory=list)
    digest: hashlib._Hash = field(default_factory=hashlib.sha256)

    def has_room(self, limits: Limits, size: int, tokens: int) -> bool:
        """Whether another request fits in."""
        if self.requests >= limits.max_requests or self.size + size > limits.max_bytes:
            return False
        return limits.max_enqueued_tokens is None or self.tokens + tokens <= limits.max_enqueued_tokens


class _Maker:
    """Makes the shards of one kind of request."""

    def __init__(self, run: Run, job: Job, kind: AskKind, asker: Asker, questions: Questions) -> None:
        self.run, self.job, self.kind, self.asker, self.questions = run, job, kind, asker, questions
        self.side = side_of(job, kind)
        self.codec = codec_for(run.project.entry(self.side.provider).dialect, self.side.endpoint)
        with run.project.ledger.read() as connection:
            self.limits: Limits = shard_limits(run.project, connection, self.side)
            self.widened = items.truncated(connection, job.task_id) if job.round else frozenset[int]()

    def make(self, chosen: Sequence[int]) -> None:
        """Write and record as many shards as these items take, in order."""
        if self.kind is AskKind.BUNDLE:
            for part in self._cut(self.questions.unanswered(chosen)):
                bundles = bundles_of(part, self.job.rules.rows_per_request)
                self._write_all((self.asker.bundle(bundle) for bundle in bundles), None)
            return
        self._write_all(map(self._with_room, self.questions.asks(self.kind, chosen)), self.limits)

    def _with_room(self, ask: Ask) -> Ask:
        if ask.items[0] not in self.widened:
            return ask
        return ask._replace(body=self.codec.widen(ask.body, self.side.parameters.max_output_tokens * WIDEN_FACTOR))

    def _cut(self, chosen: Sequence[int]) -> Iterator[Sequence[int]]:
        """Cut items into shards by what their requests weigh alone, each in a bundle of its own.

        Each part is one shard, whatever its bundles come to: merging tells them by the shard's items.
        """
        lengths = array("q", read_lengths(self.run.project.workspace.plan(self.job.task_id)))
        sizes, rows = (lengths[item] + LINE_BYTES for item in chosen), self.job.rules.rows_per_request
        most = self.limits.max_requests * rows, self.limits.max_bytes, self.limits.max_enqueued_tokens
        start = 0
        for count in cut(sizes, *most):
            yield chosen[start : start + count]
            start += count

    def _write_all(self, asks: Iterator[Ask], limits: Limits | None) -> None:
        """Write requests into as many shards as they take; into one where there are no limits."""
        while (first := next(asks, None)) is not None:
            with self.run.project.ledger.read() as connection:
                number = len(shards.of_job(connection, self.job.task_id, self.job.round))
            written, left = self._write(number, chain([first], asks), limits)
            self._record(number, written)
            asks = chain(left, asks)

    def _write(self, number: int, asks: Iterator[Ask], limits: Limits | None) -> tuple[_Written, list[Ask]]:
        """Write one shard's file; returns what it holds, and the request that found no room."""
        key, written = key_of(self.job.task_id, self.job.round, number), _Written()
        with atomic_file(self.run.project.workspace.shard(self.job.task_id, self.job.round, number)) as handle:
            for ask in asks:
                line, tokens = self.codec.encode_line(custom_id(key, ask.items[0]), ask.body), tokens_of(len(ask.body))
                if limits is not None and written.requests and not written.has_room(limits, len(line), tokens):
                    return written, [ask]
                handle.write(line)
                written.digest.update(line)
                written.size += len(line)
                written.tokens += tokens
                written.requests += 1
                written.items += ask.items
                written.calls += ask.calls
        return written, []

    def _record(self, number: int, written: _Written) -> None:
        """Record a shard whose file is written, its items, and where their answers belong, in one commit."""
        chosen = sorted(written.items)
        file = Written(
            written.size,
            written.digest.hexdigest(),
            written.tokens,
            [self.asker.fingerprint(item) for item in chosen],
        )
        placed = self._placed(written) if self.job.rules.judge is not None else []
        record_shard(self.run, self.side, number, self.kind, chosen, written.requests, file, placed)

    def _placed(self, written: _Written) -> list[Draft]:
        """Drafts that say under which calls the answers of a shard will be kept."""
        with self.run.project.ledger.read() as connection:
            known = drafts.some(connection, self.job.task_id, written.items)
        calls = zip(written.items, written.calls, strict=True)
        return [known.get(item, Draft(item))._replace(call=call) for item, call in calls]
