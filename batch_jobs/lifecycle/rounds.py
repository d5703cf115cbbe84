"""Rounds: which open items go into which shard, as files that are complete before the ledger speaks of them.

What another job of the store has got answered meanwhile is adopted; what another has under way is waited for.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from contextlib import closing

from batch_jobs import system
from batch_jobs.intake.snapshot import GROUP_ROWS
from batch_jobs.lifecycle.admission import shard_limits
from batch_jobs.lifecycle.asked import make_asked, needs_asking
from batch_jobs.lifecycle.policy import WIDEN_FACTOR
from batch_jobs.lifecycle.recording import record_shard
from batch_jobs.lifecycle.run import Run
from batch_jobs.lifecycle.sharing import Overtaken, Sorted, adopt, sort_out, tell_waits
from batch_jobs.models import AskKind
from batch_jobs.render.bodies import cut
from batch_jobs.render.items import read_lengths
from batch_jobs.render.shard_file import ShardOrder, write_shard
from batch_jobs.storage import items, shards
from batch_jobs.storage.jobs import Job
from batch_jobs.storage.shards import custom_id, key_of
from providers.connect import codec_for
from providers.contract import Limits


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
    """Put items into shards."""
    if waiting and needs_asking(run, job):
        make_asked(run, job, waiting)
    else:
        _make_planned(run, job, waiting)


def _make_planned(run: Run, job: Job, waiting: Sequence[int]) -> None:
    """Write the files from the plan, several at once where there are many rows; then record each, in order."""
    if not waiting:
        return
    project = run.project
    with project.ledger.read() as connection:
        first = len(shards.of_job(connection, job.task_id, job.round))
        limits = shard_limits(project, connection, job)
        widened = items.truncated(connection, job.task_id) if job.round else frozenset[int]()
    parts = enumerate(_cut(run, job, limits, waiting), first)
    orders = [_order(run, job, number, part, widened) for number, part in parts]
    here = len(waiting) <= GROUP_ROWS
    with closing(project.workers.run(write_shard, ((order,) for order in orders), here=here)) as written:
        for number, (order, file) in enumerate(zip(orders, written, strict=True), first):
            record_shard(run, job, number, AskKind.ANSWER, order.items, len(order.items), file)
    if not here:
        system.give_memory_back()


def _cut(run: Run, job: Job, limits: Limits, waiting: Sequence[int]) -> Iterator[Sequence[int]]:
    """Cut items into shards."""
    codec = codec_for(run.project.entry(job.provider).dialect, job.endpoint)
    overhead = len(codec.encode_line(custom_id(key_of(job.task_id, job.round, 9999), waiting[-1]), b""))
    lengths = array("q", read_lengths(run.project.workspace.plan(job.task_id)))
    sizes = (lengths[item] + overhead for item in waiting)
    most = limits.max_requests, limits.max_bytes, limits.max_enqueued_tokens
    start = 0
    for count in cut(sizes, *most, overhead_bytes=overhead):
        yield array("q", waiting[start : start + count])
        start += count


def _order(run: Run, job: Job, number: int, chosen: Sequence[int], widened: frozenset[int]) -> ShardOrder:
    workspace = run.project.workspace
    return ShardOrder(
        plan=workspace.plan(job.task_id),
        target=workspace.shard(job.task_id, job.round, number),
        key=key_of(job.task_id, job.round, number),
        dialect=run.project.entry(job.provider).dialect,
        endpoint=job.endpoint,
        items=chosen,
        widened=widened.intersection(chosen) if widened else widened,
        output_tokens=job.parameters.max_output_tokens * WIDEN_FACTOR,
    )
