"""Discard: a provider's files of a batch are deleted once its answers are durable here; best effort, and optional.

They fill the account's storage (uploads then fail) and hold the users' rows. A failure costs nothing but a line in
the job's events: what could not be deleted stays, and providers delete most of it themselves in time.
"""

from __future__ import annotations

from batch_jobs.errors import ProviderError
from batch_jobs.lifecycle.run import Run
from batch_jobs.lifecycle.sides import side_of
from batch_jobs.models import EventName
from batch_jobs.storage import events, shards
from batch_jobs.storage.jobs import Job
from batch_jobs.storage.shards import Shard


def discard_merged(run: Run, job: Job) -> None:
    """Delete the files of the round's batches that have ended, each batch once; the round is merged by now."""
    with run.project.ledger.read() as connection:
        of_round = shards.of_job(connection, job.task_id, job.round)
    for shard in of_round:
        batch_id = shard.batch_id if shard.ended_at else _refused(shard)
        side = side_of(job, shard.kind)
        if batch_id and shard.discarded_at is None and run.project.entry(side.provider).delete_after_merge:
            _discard(run, side, shard, batch_id)


def _refused(shard: Shard) -> str | None:
    """The last batch that was made of a shard before it was split: its input lies there for nothing."""
    return shard.refused_ids[-1] if shard.split and shard.refused_ids else None


def _discard(run: Run, job: Job, shard: Shard, batch_id: str) -> None:
    data: dict[str, object] = {"shard_key": shard.shard_key, "batch_id": batch_id}
    try:
        run.project.provider(job).discard(batch_id, shard.file_id)
    except ProviderError as error:
        data["why"] = error.message
    with run.write() as connection:
        shards.change(connection, shard, discarded_at=run.project.clock())
        events.add(connection, job.task_id, EventName.SHARD_DISCARDED, data)
