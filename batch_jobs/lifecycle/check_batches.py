"""What was sent and what came back: shards, their files and ids, raw results, the concurrent path's records."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from sqlalchemy import func, select

from batch_jobs.lifecycle.check_report import RESTORE_LEDGER, Kind, Look
from batch_jobs.models import AskKind, EventName, Mode, Phase, ShardState
from batch_jobs.storage import calls, schema, shards
from batch_jobs.storage.files import sha256_of
from batch_jobs.storage.shards import Shard, item_of

CHUNK = 5_000
WITH_BATCH = frozenset({ShardState.SUBMITTED, ShardState.ENDED, ShardState.FETCHED})
SENDING = frozenset({Phase.RUNNING, Phase.PAUSED, Phase.CANCELLING})


def check_shards(look: Look) -> None:
    """Every shard: its state, its file, the ids in it, its raw results."""
    fetched = _files_fetched(look)
    for shard in shards.of_job(look.connection, look.job.task_id):
        look.findings.checked["shards"] += 1
        problem = _wrong_state(look, shard)
        if problem:
            look.add(Kind.SHARD, f"{look.ledger()}, shard {shard.shard_key}", problem, RESTORE_LEDGER)
        _check_file(look, shard)
        if shard.state is ShardState.FETCHED or shard.shard_key in fetched:  # one that was rejected has no results
            _check_results(look, shard, fetched.get(shard.shard_key, []))


def check_calls(look: Look) -> None:
    """The concurrent path's records of what was sent and received, once a call was paid."""
    job, workspace = look.job, look.project.workspace
    if job.mode is Mode.CONCURRENT and calls.spent(look.connection, job.task_id).calls:
        look.there(Kind.SHARD, workspace.calls_sent(job.task_id))
        look.there(Kind.RESULTS, workspace.calls_received(job.task_id))


def _wrong_state(look: Look, shard: Shard) -> str | None:
    """What its job's phase does not allow of a shard, or what its state lacks."""
    job, merged = look.job, shard.state is ShardState.MERGED
    if job.mode is not Mode.BATCH or shard.round > job.round:
        return f"there can be no such shard in round {job.round} of a {job.mode} job"
    if job.phase not in SENDING and not merged:
        return f"is {shard.state}, and its job is {job.phase}"
    if job.phase in {Phase.RECEIVED, Phase.PLANNED}:
        return f"there can be no shard yet: its job is {job.phase}"
    if shard.round < job.round and not merged:
        return f"is {shard.state}, and its job is in round {job.round} already"
    if shard.state in WITH_BATCH and not shard.batch_id:
        return f"is {shard.state} without a provider's batch id"
    return None


def _check_file(look: Look, shard: Shard) -> None:
    path = look.project.workspace.shard(shard.task_id, shard.round, shard.shard)
    if not look.there(Kind.SHARD, path):
        return
    with look.reading(Kind.SHARD, path):
        if sha256_of(path) != shard.sha256:
            look.add(Kind.SHARD, path, "was changed after it was rendered: its sha256 is not the recorded one")
            return
        if shard.split:  # never sent: its items are in other shards of the round
            return
        lines, own = _count_ids(look, shard, path)
        if lines != shard.requests:
            look.add(Kind.SHARD, path, f"holds {lines:,} requests, and the ledger says {shard.requests:,}")
        single = shard.kind is not AskKind.BUNDLE  # else the ids are those of one row of each request
        if single and (recorded := _items_of(look, shard)) != own:
            problem = f"{recorded:,} items of the ledger are in this shard, and {own:,} of them are in its file"
            look.add(Kind.SHARD, path, problem, RESTORE_LEDGER)


def _count_ids(look: Look, shard: Shard, path: Path) -> tuple[int, int]:
    """Lines of the file, and how many of their items the ledger still has in this shard; strange ids are findings."""
    lines = own = 0
    ids = _ids(path)
    while chunk := list(islice(ids, CHUNK)):
        lines += len(chunk)
        numbers = {text: item_of(text, shard.shard_key) for text in chunk}
        places = _places(look, [number for number in numbers.values() if number is not None])
        for text, number in numbers.items():
            place = places.get(number) if number is not None else None
            own += place == (shard.round, shard.shard)
            if place is None or (place[0] <= shard.round and place != (shard.round, shard.shard)):
                problem = f"holds the id {text[:100]}, and the ledger has no such item in this shard"
                look.add(Kind.SHARD, f"{path}, item {number}", problem, RESTORE_LEDGER)
    return lines, own


def _ids(path: Path) -> Iterator[str]:
    """The id of each line: in every dialect the first value of the object, as `Codec.encode_line` writes it."""
    with path.open("rb") as handle:
        for line in handle:
            yield line.split(b'"', 4)[3].decode()


def _places(look: Look, numbers: list[int]) -> dict[int, tuple[int, int]]:
    """Round and shard of items, as the ledger has them now."""
    table = schema.items
    query = select(table.c.item, table.c.round, table.c.shard).where(table.c.task_id == look.job.task_id)
    rows = look.connection.execute(query.where(table.c.item.in_(numbers), table.c.round.is_not(None)))
    return {row.item: (row.round, row.shard) for row in rows}


def _items_of(look: Look, shard: Shard) -> int:
    table = schema.items
    same = table.c.task_id == shard.task_id, table.c.round == shard.round, table.c.shard == shard.shard
    return int(look.connection.execute(select(func.count()).where(*same)).scalar() or 0)


def _files_fetched(look: Look) -> dict[str, list[str]]:
    """Shard key -> names of the raw result files that were downloaded."""
    table = schema.events
    query = select(table.c.data).where(table.c.task_id == look.job.task_id, table.c.name == EventName.SHARD_FETCHED)
    return {data["shard_key"]: list(data["files"]) for data in look.connection.execute(query).scalars()}


def _check_results(look: Look, shard: Shard, names: list[str]) -> None:
    folder = look.project.workspace.raw_results(shard.task_id, shard.round, shard.shard)
    if not look.there(Kind.RESULTS, folder):
        return
    for path in (folder / name for name in names):
        if look.there(Kind.RESULTS, path):
            with look.reading(Kind.RESULTS, path):
                if problem := _not_whole(path, (shard.results or {}).get(path.name)):
                    look.add(Kind.RESULTS, path, problem)


def _not_whole(path: Path, fetched: int | None) -> str | None:
    """What shows that a file is not all that was fetched: its bytes, where these were recorded, or its end."""
    size = path.stat().st_size
    if fetched not in {None, size}:
        return f"holds {size:,} bytes, and {fetched:,} were fetched"
    with path.open("rb") as handle:
        handle.seek(max(size - 1, 0))
        return None if handle.read() in {b"", b"\n"} else "is cut off: its last line does not end"
