"""Submission: the only place where money is spent without an answer, so every step of it is durable first.

rendered -> submitting (the intent, taken only with room in the queue) -> exactly one create POST -> submitted (the
id). What ends in anything but a clear answer is an unknown outcome: look for the batch by its key, wait out the
quarantine, look again, and only then send it again.
"""

from __future__ import annotations

import contextlib
from datetime import UTC, datetime

from batch_jobs.errors import ProviderError, RateLimited, RequestRejected, StoreError
from batch_jobs.lifecycle.admission import NotNow, back_to_rendered, find_room
from batch_jobs.lifecycle.run import Run
from batch_jobs.lifecycle.throttle import Verb
from batch_jobs.models import BatchState, BatchView, EventName, Phase, ShardState
from batch_jobs.storage import events, jobs, shards
from batch_jobs.storage.files import sha256_of
from batch_jobs.storage.jobs import Job
from batch_jobs.storage.shards import Shard
from providers.codes import QUEUE_CODES
from providers.contract import Provider, ShardFile

CLOCK_SET_BACK_SECONDS = 86_400.0
"""How far our clock may have been set back since a create was sent, where the provider did not say its own time before.

A machine that slept between asking for the time and asking the provider looks the same.
"""
UPLOAD_LASTS_SECONDS = 40 * 3600.0
"""How long an upload is used; Gemini keeps one for 48 hours."""


def shard_file(run: Run, shard: Shard) -> ShardFile:
    """The shard as its provider gets it."""
    path = run.project.workspace.shard(shard.task_id, shard.round, shard.shard)
    return ShardFile(path, shard.shard_key, shard.requests, shard.bytes, shard.model)


def submit_shard(run: Run, job: Job, shard: Shard) -> Shard:
    """Submit a rendered shard.

    Returns:
        The shard: submitted; unknown when the create gave no clear answer; merged when it was split.

    Raises:
        NotNow: no room in the queue, or too many requests; the shard is rendered as before.
        ProviderError: definitely not accepted; the shard is rendered as before.
        StoreError: the shard's file is not what was rendered.
    """
    with run.project.ledger.read() as connection:
        find_room(run, connection, job, shard)  # before anything is uploaded for nothing
    provider, file = run.project.provider(job), shard_file(run, shard)
    if sha256_of(file.path) != shard.sha256:
        raise StoreError(f"{file.path}: was changed after it was rendered; put it back, or cancel the job")
    shard = _uploaded(run, job, shard, provider, file)
    _throttled(run, job, Verb.CREATE)
    sent_after = shard.sent_after if shard.was_unknown else _their_time(run, job, provider)
    with run.write() as connection:
        if jobs.get(connection, job.task_id).phase is not job.phase:
            return shard  # paused or cancelled meanwhile: not sent
        find_room(run, connection, job, shard)  # nobody else can take it until this is committed
        # a lost create may turn up with the time of when it was sent, so that time is kept
        since = shard.submitting_at if shard.was_unknown else run.project.clock()
        values = {
            "submitting_at": since,
            "sent_after": sent_after,
            "account": job.account,
            "creates": shard.creates + 1,
        }
        shard = shards.move(connection, shard, ShardState.SUBMITTING, **values)
        events.add(connection, job.task_id, EventName.SHARD_SUBMITTING, {"shard_key": shard.shard_key})
    return _create(run, job, shard, provider, file)


def _uploaded(run: Run, job: Job, shard: Shard, provider: Provider, file: ShardFile) -> Shard:
    """The shard with an upload that the provider still has; one that waited for room too long is uploaded anew."""
    now = run.project.clock()
    if shard.file_id is not None and now - (shard.uploaded_at or now) < UPLOAD_LASTS_SECONDS:
        return shard
    _throttled(run, job, Verb.UPLOAD)
    try:
        file_id = provider.upload(file)
    except RateLimited as error:
        _hold(run, job, error)
        raise
    with run.write() as connection:
        return shards.change(connection, shard, file_id=file_id, uploaded_at=now)


def _throttled(run: Run, job: Job, verb: Verb) -> None:
    """Ask for one request of the account's rate.

    Raises:
        NotNow: it is used up for now.
    """
    limits = run.project.limits(job.provider, job.model)
    seconds = run.project.throttle(job).take(verb, limits, run.project.clock())
    if seconds > 0:
        raise NotNow(seconds)


def _hold(run: Run, job: Job, error: RateLimited) -> None:
    """Retry-After is the account's, not the shard's."""
    if error.retry_after_seconds:
        run.project.throttle(job).hold(error.retry_after_seconds, run.project.clock())


def _create(run: Run, job: Job, shard: Shard, provider: Provider, file: ShardFile) -> Shard:
    try:
        view = provider.create_batch(file, shard.file_id)
    except ProviderError as error:
        if not error.definite:
            return mark_unknown(run, job, shard, str(error))
        if isinstance(error, RateLimited):
            return _full(run, job, shard, error)
        with run.write() as connection:
            shards.move(connection, shard, ShardState.RENDERED, file_id=None)
            data = {"shard_key": shard.shard_key, "code": error.code, "why": error.message}
            events.add(connection, job.task_id, EventName.SHARD_REFUSED, data)
        raise
    return _record(run, job, shard, view, EventName.SHARD_SUBMITTED)


def _full(run: Run, job: Job, shard: Shard, error: RateLimited) -> Shard:
    """The create was refused for now: by a full queue, or by a rate where it says for how long and is not repeated.

    Raises:
        RateLimited: the shard is rendered as before.
    """
    _hold(run, job, error)
    of_the_queue = error.code in QUEUE_CODES or error.retry_after_seconds is None or shard.refusals > 0
    shard = back_to_rendered(run, job, shard, error.code or "", error.message, lesson=of_the_queue)
    if shard.state is ShardState.RENDERED:
        raise error
    return shard


def mark_unknown(run: Run, job: Job, shard: Shard, why: str) -> Shard:
    """A create may or may not have been accepted: say so, durably, and start the quarantine."""
    with run.write() as connection:
        shard = shards.move(connection, shard, ShardState.UNKNOWN, unknown_at=run.project.clock(), was_unknown=1)
        events.add(connection, job.task_id, EventName.SHARD_UNKNOWN, {"shard_key": shard.shard_key, "why": why})
    run.project.unknown_since[shard.shard_key] = run.project.uptime()
    return shard


def reconcile(run: Run, job: Job, shard: Shard) -> Shard:
    """Settle an unknown outcome: adopt the batch if the provider has it; after the quarantine, send again.

    An Anthropic batch that has ended without a readable line can be neither proved nor disproved: the job then stays as
    it is, for all to see, and its operator may cancel it.

    Returns:
        The shard: submitted (found), rendered (certainly not there, or given up by a cancel), or still unknown.
    """
    provider = run.project.provider(job)
    waited_out = _waited_out(run, shard)  # as of now: what is accepted while we ask is not looked for
    candidates = _candidates(run, provider, shard)
    undecided = False
    for view in reversed(candidates):  # oldest first: a double is the later one
        owns = provider.owns(view, shard_file(run, shard))
        if owns:
            return _record(run, job, shard, view, EventName.SHARD_FOUND)
        undecided = undecided or (owns is None and not (job.phase is Phase.CANCELLING and view.state.terminal))
    if undecided or not waited_out:
        return shard
    with run.write() as connection:
        return shards.move(connection, shard, ShardState.RENDERED)


def _waited_out(run: Run, shard: Shard) -> bool:
    """Whether the quarantine is over: by the clock, and in the process where it began by its uptime as well.

    A clock may be set forward; the uptime may stand still while the machine sleeps.
    """
    assert shard.unknown_at is not None
    seconds = run.project.settings.submission.quarantine_seconds
    began = run.project.unknown_since.get(shard.shard_key)  # None: in another process
    by_uptime = began is None or run.project.uptime() - began >= seconds
    return by_uptime and run.project.clock() - shard.unknown_at >= seconds


def cancel_doubles(run: Run, job: Job, shard: Shard) -> None:
    """Look for a second batch of a shard whose create was once unknown, and cancel it.

    A double of a dialect that carries no key can only be proved once it has ended; it is then reported.
    """
    provider = run.project.provider(job)
    for view in _candidates(run, provider, shard):
        if view.batch_id == shard.batch_id or not provider.owns(view, shard_file(run, shard)):
            continue
        if not view.state.terminal and view.state is not BatchState.CANCELLING:
            with contextlib.suppress(RequestRejected):  # it has ended meanwhile
                provider.cancel(view.batch_id)
        data = {"shard_key": shard.shard_key, "batch_id": view.batch_id, "state": view.state}
        with run.write() as connection:
            known = events.named(connection, job.task_id, EventName.DOUBLE_CANCELLED)
            if all(event.data["batch_id"] != view.batch_id for event in known):
                events.add(connection, job.task_id, EventName.DOUBLE_CANCELLED, data)


def _candidates(run: Run, provider: Provider, shard: Shard) -> list[BatchView]:
    """Batches that may be this shard's, newest first, without those that are known to be another shard's."""
    assert shard.submitting_at is not None
    if shard.sent_after is not None:
        found = provider.find_batches(shard_file(run, shard), _utc(shard.sent_after))
    else:
        now = run.project.clock()
        since = min(shard.submitting_at, now) - CLOCK_SET_BACK_SECONDS
        found = provider.find_batches(shard_file(run, shard), _utc(since), _utc(now))
    with run.project.ledger.read() as connection:
        taken = shards.taken_batch_ids(connection, shard)
    return [view for view in found if view.batch_id not in taken]


def _their_time(run: Run, job: Job, provider: Provider) -> float | None:
    """The provider's own clock, before a create: ours may be set by hours before anybody looks for what it made."""
    try:
        now = provider.now()
    except RateLimited as error:
        _hold(run, job, error)
        raise
    except ProviderError as error:
        if error.operator:
            raise
        return None
    return now.timestamp() if now is not None else None


def _utc(at: float) -> datetime:
    return datetime.fromtimestamp(at, UTC)


def _record(run: Run, job: Job, shard: Shard, view: BatchView, name: EventName) -> Shard:
    with run.write() as connection:
        shard = shards.move(
            connection,
            shard,
            ShardState.SUBMITTED,
            batch_id=view.batch_id,
            batch_state=view.state,
            provider_state=view.provider_state,
            submitted_at=run.project.clock(),
        )
        events.add(connection, job.task_id, name, {"shard_key": shard.shard_key, "batch_id": view.batch_id})
    return shard
