"""Rounds: which open items go into which shard, as files that are complete before the ledger speaks of them.

What another job of the store has got answered meanwhile is adopted; what another has under way is waited for.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import closing

from batch_jobs.lifecycle.admission import shard_limits
from batch_jobs.lifecycle.policy import WIDEN_FACTOR
from batch_jobs.lifecycle.run import Run
from batch_jobs.lifecycle.sharing import Overtaken, Sorted, adopt, sort_out, still_free, tell_waits
from batch_jobs.models import EventName, Outcome, ShardState
from batch_jobs.render.bodies import BodyReader, cut, tokens_of
from batch_jobs.render.items import PlannedItem, read_items
from batch_jobs.storage import events, items, shards
from batch_jobs.storage.files import atomic_file, sha256_of
from batch_jobs.storage.items import ItemRecord
from batch_jobs.storage.jobs import Job
from batch_jobs.storage.shards import Shard, custom_id, key_of
from providers.connect import codec_for
from providers.contract import Codec


def open_round(run: Run, job: Job) -> Sorted:
    """Put every open item that is in no shard of the job's round into one. May be run again after a crash.

    Returns:
        What was found: the items that went into shards now, and those that wait for another job.
    """
    while True:
        with run.project.ledger.read() as connection:
            found = sort_out(run, job, connection, items.unassigned(connection, job.task_id, job.round))
        adopt(run, job, found.answered)
        try:
            _make_shards(run, job, found.free)
        except Overtaken:
            continue  # another job took, or answered, one of these items since; look again
        tell_waits(run, job, found.held)
        return found


def _make_shards(run: Run, job: Job, waiting: Sequence[int]) -> None:
    if not waiting:
        return
    project, made = run.project, 0
    with project.ledger.read() as connection:
        next_shard = len(shards.of_job(connection, job.task_id, job.round))
        limits = shard_limits(project, connection, job)
    codec = codec_for(run.project.entry(job.provider).dialect, job.endpoint)
    overhead = len(codec.encode_line(custom_id(key_of(job.task_id, job.round, 9999), waiting[-1]), b""))
    sizes = (planned.length + overhead for planned in planned_items(run, job, waiting))
    with closing(planned_items(run, job, waiting)) as source, BodyReader(project.workspace.plan(job.task_id)) as reader:
        most = limits.max_requests, limits.max_bytes, limits.max_enqueued_tokens
        for count in cut(sizes, *most, overhead_bytes=overhead):
            chosen = [next(source) for _ in range(count)]
            _make_shard(run, job, next_shard + made, chosen, reader, codec)
            made += 1


def planned_items(run: Run, job: Job, chosen: Sequence[int]) -> Generator[PlannedItem, None, None]:
    """The plan's lines for some items (ascending), streamed."""
    wanted = iter(chosen)
    current = next(wanted, None)
    for planned in read_items(run.project.workspace.plan(job.task_id)):
        if current is None:
            return
        if planned.item == current:
            yield planned
            current = next(wanted, None)


def body_of(reader: BodyReader, codec: Codec, job: Job, planned: PlannedItem, last: Outcome | None) -> bytes:
    """An item's body for its next attempt: as rendered, or with a larger output limit after a truncation."""
    body = reader.read(planned)
    if last is Outcome.TRUNCATED:
        return codec.widen(body, job.parameters.max_output_tokens * WIDEN_FACTOR)
    return body


def _make_shard(run: Run, job: Job, number: int, chosen: list[PlannedItem], reader: BodyReader, codec: Codec) -> None:
    """Write one shard's file, then record it and its items in one commit.

    Raises:
        Overtaken: an item of it is another job's by now.
    """
    workspace, key = run.project.workspace, key_of(job.task_id, job.round, number)
    path = workspace.shard(job.task_id, job.round, number)
    numbers = [planned.item for planned in chosen]
    with run.project.ledger.read() as connection:
        records: dict[int, ItemRecord] = items.some(connection, job.task_id, numbers) if job.round else {}
    tokens = 0
    with atomic_file(path) as handle:
        for planned in chosen:
            last = records[planned.item].last_outcome if planned.item in records else None
            body = body_of(reader, codec, job, planned, last)
            tokens += tokens_of(len(body))
            handle.write(codec.encode_line(custom_id(key, planned.item), body))
    shard = Shard(
        task_id=job.task_id,
        round=job.round,
        shard=number,
        shard_key=key,
        state=ShardState.RENDERED,
        requests=len(chosen),
        bytes=path.stat().st_size,
        sha256=sha256_of(path),
        account=job.account,
        model=job.model,
        prompt_sha256=job.prompt_sha256,
        schema_sha256=job.schema_sha256,
        rendered_at=run.project.clock(),
        first_item=numbers[0],
        last_item=numbers[-1],
        tokens=tokens,
    )
    with run.write() as connection:
        still_free(run, job, connection, [planned.fingerprint for planned in chosen])
        items.assign(connection, job.task_id, numbers, job.round, number)
        shards.add(connection, shard)
        if number == 0:
            events.add(connection, job.task_id, EventName.ROUND_STARTED, {"round": job.round})
