"""Shards of requests that are made one by one: for several rows, about a draft, or again with what was wrong.

Most shards are written straight from the plan (`batch_jobs.lifecycle.rounds`); these need the item's draft, too. What
was answered before, for whatever job, is taken from the call cache instead of being sent.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain

from batch_jobs.lifecycle.admission import shard_limits
from batch_jobs.lifecycle.asking import Ask, Asker, kind_of
from batch_jobs.lifecycle.merger import Merger
from batch_jobs.lifecycle.policy import WIDEN_FACTOR
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

CHUNK = 1_000
LINE_BYTES = 700
"""Around a row's request, also where it is alone in a bundle."""


def needs_asking(run: Run, job: Job) -> bool:
    """Whether the requests of a job are not just those of the plan: bundles, drafts, a judge."""
    if job.rules.judge is not None or job.rules.rows_per_request > 1:
        return True
    with run.project.ledger.read() as connection:
        return drafts.any_of(connection, job.task_id)


@dataclass(frozen=True, slots=True)
class Waiting:
    """Open items by what is asked of them next, ascending, and how far each is."""

    by_kind: dict[AskKind, list[int]]
    drafts: dict[int, Draft]


def make_asked(run: Run, job: Job, waiting: Sequence[int]) -> None:
    """Put open items into shards, a kind of request at a time.

    Raises:
        Overtaken: an item is another job's by now.
    """
    with Asker(run.project, job) as asker:
        found = go_on(run, job, asker, waiting)
        for kind, chosen in found.by_kind.items():
            _Maker(run, job, kind, asker, found.drafts).make(chosen)


def go_on(run: Run, job: Job, asker: Asker, waiting: Sequence[int]) -> Waiting:
    """Sort open items by what is asked of them next; what was answered before takes them a step further at once."""
    while True:
        with run.project.ledger.read() as connection:
            known = drafts.some(connection, job.task_id, waiting)
        by_kind = _sorted(run, job, waiting, known)
        if job.rules.judge is None or not _take_known(run, job, asker, by_kind, known):
            return Waiting(by_kind, known)
        with run.project.ledger.read() as connection:
            still = frozenset(items.open_items(connection, job.task_id))
        waiting = [item for item in waiting if item in still]


def _sorted(run: Run, job: Job, waiting: Sequence[int], known: Mapping[int, Draft]) -> dict[AskKind, list[int]]:
    fresh = frozenset[int]()
    if job.rules.rows_per_request > 1:
        with run.project.ledger.read() as connection:
            fresh = items.never_sent(connection, job.task_id)
    by_kind: dict[AskKind, list[int]] = {}
    for item in waiting:
        by_kind.setdefault(kind_of(job, known.get(item), fresh=item in fresh), []).append(item)
    return by_kind


def _take_known(
    run: Run, job: Job, asker: Asker, by_kind: Mapping[AskKind, Sequence[int]], known: Mapping[int, Draft]
) -> bool:
    """Go on with the items whose next request was answered before; returns whether there were any."""
    merger = Merger(run, job, last_try=False, last_ask=False)
    found = False
    for kind, chosen in by_kind.items():
        for start in range(0, len(chosen), CHUNK):
            part = chosen[start : start + CHUNK]
            calls = {item: asker.call(kind, item, known.get(item)) for item in part}
            there = dict(zip(part, run.project.cache.known(calls.values()), strict=True))
            answered = {item: calls[item] for item in part if there[item]}
            if answered:
                merger.take_known(kind, answered)
                found = True
    return found


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

    def __init__(self, run: Run, job: Job, kind: AskKind, asker: Asker, known: Mapping[int, Draft]) -> None:
        self.run, self.job, self.kind, self.asker, self.known = run, job, kind, asker, known
        self.side = side_of(job, kind)
        self.codec = codec_for(run.project.entry(self.side.provider).dialect, self.side.endpoint)
        with run.project.ledger.read() as connection:
            self.limits: Limits = shard_limits(run.project, connection, self.side)
            self.widened = items.truncated(connection, job.task_id) if job.round else frozenset[int]()

    def make(self, chosen: Sequence[int]) -> None:
        """Write and record as many shards as these items take, in order."""
        if self.kind is AskKind.BUNDLE:
            for part in self._cut(chosen):
                bundles = bundles_of(part, self.job.rules.rows_per_request)
                self._write_all((self.asker.bundle(bundle) for bundle in bundles), None)
            return
        self._write_all((self._single(item) for item in chosen), self.limits)

    def _single(self, item: int) -> Ask:
        draft = self.known.get(item)
        if self.kind is AskKind.JUDGE:
            assert draft is not None
            ask = self.asker.judge(item, draft)
        else:
            ask = self.asker.answer(item, draft)
        if item not in self.widened:
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
        pairs = zip(written.items, written.calls, strict=True)
        judged = self.job.rules.judge is not None
        placed = [self.known.get(item, Draft(item))._replace(call=call) for item, call in pairs] if judged else []
        record_shard(self.run, self.side, number, self.kind, chosen, written.requests, file, placed)
