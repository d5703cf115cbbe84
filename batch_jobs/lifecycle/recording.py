"""Records a shard whose file is written: the ledger speaks of it only then, in the one commit that claims its calls."""

from __future__ import annotations

from collections.abc import Sequence

from batch_jobs.lifecycle.run import Run
from batch_jobs.lifecycle.sharing import still_free
from batch_jobs.models import AskKind, EventName, ShardState
from batch_jobs.render.shard_file import Written
from batch_jobs.storage import drafts, events, items, shards
from batch_jobs.storage.drafts import Draft
from batch_jobs.storage.jobs import Job
from batch_jobs.storage.shards import Shard, key_of


def record_shard(
    run: Run,
    side: Job,
    number: int,
    kind: AskKind,
    chosen: Sequence[int],
    requests: int,
    file: Written,
    placed: Sequence[Draft] = (),
) -> None:
    """Record a shard of the job's round, and its items, in one commit.

    Args:
        run: of the job.
        side: the job, from the side of whom is asked.
        number: of the shard in its round.
        kind: what its requests ask for.
        chosen: its items, ascending.
        requests: lines of the file; fewer than items where several are asked for together.
        file: complete and durable.
        placed: drafts that say where the answers belong.

    Raises:
        Overtaken: an item of it is another job's by now.
    """
    shard = Shard(
        task_id=side.task_id,
        round=side.round,
        shard=number,
        shard_key=key_of(side.task_id, side.round, number),
        state=ShardState.RENDERED,
        requests=requests,
        bytes=file.size,
        sha256=file.sha256,
        account=side.account,
        model=side.model,
        prompt_sha256=side.prompt_sha256,
        schema_sha256=side.schema_sha256,
        rendered_at=run.project.clock(),
        first_item=chosen[0],
        last_item=chosen[-1],
        tokens=file.tokens,
        kind=kind,
    )
    with run.write() as connection:
        still_free(run, side, connection, file.fingerprints)
        items.assign(connection, side.task_id, chosen, side.round, number)
        shards.add(connection, shard)
        if placed:
            drafts.put(connection, side.task_id, placed)
        if number == 0:
            events.add(connection, side.task_id, EventName.ROUND_STARTED, {"round": side.round})
