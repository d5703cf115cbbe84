"""Planted bugs: mistakes that batch clients make in the field, each put into the product's place by one function.

The product has no switch for any of them; a test plants one with `monkeypatch`, and the simulator has to notice.
"""

from __future__ import annotations

import os
import re
import uuid
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import orjson
import pytest

from batch_jobs import system
from batch_jobs.errors import ConnectionFailed, ProviderError, RequestRejected, ServerFailed, TimedOut, UnreadableReply
from batch_jobs.lifecycle import checking, collect, control, merge, passes, settle, submit
from batch_jobs.lifecycle.checking import Range
from batch_jobs.lifecycle.merger import Merger
from batch_jobs.lifecycle.policy import MassRule, Next, after_attempt
from batch_jobs.lifecycle.project import Project
from batch_jobs.lifecycle.run import Run
from batch_jobs.models import BatchState, BatchView, ItemResult, Outcome, ShardState
from batch_jobs.storage import calls, claims, items, leases, shards
from batch_jobs.storage.call_cache import Answer, CallCache
from batch_jobs.storage.items import Ending
from batch_jobs.storage.jobs import Job
from batch_jobs.storage.shards import Shard
from providers.contract import ShardFile
from tests.simulation.bugs_of_steps import planted
from tests.simulation.faults import Fault
from tests.simulation.violations import Kind
from tests.simulation.wire import Wire

Patch = pytest.MonkeyPatch
CRASHES = (Fault.CRASH_AT_VERB, Fault.CRASH_AT_COMMIT, Fault.CRASH_AT_CACHE, Fault.CRASH_ON_THE_WAY)


@dataclass(frozen=True)
class Bug:
    """A mistake, what has to go wrong besides for it to matter, and how it shows.

    Attributes:
        faults: the classes that are on.
        shows: any of these.
        seeds: it has to be noticed within so many.
    """

    name: str
    plant: Callable[[Patch], None]
    faults: Collection[Fault]
    shows: Collection[Kind]
    seeds: int = 12


def id_is_recorded_late(patch: Patch) -> None:
    """The create is posted first, and then written down."""

    def create_first(run: Run, job: Job, shard: Shard) -> Shard:
        provider, file = run.project.provider(job), submit.shard_file(run, shard)
        view = provider.create_batch(file, provider.upload(file))
        now = run.project.clock()
        with run.write() as connection:
            shard = shards.move(connection, shard, ShardState.SUBMITTING, submitting_at=now)
            values = {"batch_id": view.batch_id, "batch_state": view.state, "submitted_at": now}
            return shards.move(connection, shard, ShardState.SUBMITTED, **values)

    patch.setattr(passes, "submit_shard", create_first)


def reconcile_is_off(patch: Patch) -> None:
    """An unknown outcome is sent again without a look at what the provider has."""
    patch.setattr(submit, "_candidates", lambda *_: [])


def quarantine_is_off(patch: Patch) -> None:
    """One look at the provider's list, and then it is sent again."""
    patch.setattr(submit, "_waited_out", lambda *_: True)


def sdk_retries_are_on(patch: Patch) -> None:
    """The client posts a create again by itself when no clear answer came."""
    create = Wire.create_batch

    def stubborn(wire: Wire, shard: ShardFile, file_id: str | None) -> BatchView:
        try:
            return create(wire, shard, file_id)
        except (ConnectionFailed, TimedOut, ServerFailed, UnreadableReply):
            return create(wire, shard, file_id)

    patch.setattr(Wire, "create_batch", stubborn)


def matched_by_position(patch: Patch) -> None:
    """The first line is the first item's."""
    in_shard, lines_of = items.waiting_in_shard, checking.lines_of
    asked: list[int] = []

    def remembered(*arguments: Any) -> Any:
        waiting, others = in_shard(*arguments)
        asked[:] = sorted([*waiting, *others])
        return waiting, others

    def by_position(part: Range) -> Iterator[bytes]:
        for item, line in zip(asked, lines_of(part), strict=False):
            try:
                record = orjson.loads(line)
            except ValueError:
                continue
            key = str(record["custom_id"]).rpartition("-i")[0]
            yield orjson.dumps({**record, "custom_id": shards.custom_id(key, item)})

    patch.setattr(items, "waiting_in_shard", remembered)
    patch.setattr(checking, "lines_of", by_position)


def unknown_ids_are_guessed(patch: Patch) -> None:
    """Only the number at the end of an id is looked at."""

    def item_of(custom_id: str, _: str) -> int | None:
        found = re.search(r"(\d)$", custom_id)
        return int(found.group()) if found else None

    patch.setattr(checking, "item_of", item_of)


def double_ids_are_accepted(patch: Patch) -> None:
    """Of two results for one item, both are merged."""
    ids = merge._ids

    def tolerant(*arguments: Any) -> Any:
        return replace(ids(*arguments), doubled=set())

    patch.setattr(merge, "_ids", tolerant)


def error_file_is_ignored(patch: Patch) -> None:
    """Only the output file is read."""
    ranges_of = checking.ranges_of
    patch.setattr(merge, "ranges_of", lambda files: ranges_of([f for f in files if f.name != "errors.jsonl"]))


def expired_output_is_dropped(patch: Patch) -> None:
    """A batch that expired has no results, has it?"""
    fetch = collect.fetch_shard

    def nothing(run: Run, job: Job, shard: Shard) -> Shard:
        if shard.batch_state is not BatchState.EXPIRED:
            return fetch(run, job, shard)
        with run.write() as connection:
            return shards.move(connection, shard, ShardState.FETCHED)

    patch.setitem(passes._SHARD_STEPS, ShardState.ENDED, nothing)


def counted_before_cached(patch: Patch) -> None:
    """The ledger first, then the cache; what a process that died had left to put there is gone with it."""
    put, later = CallCache.put, list[tuple[Any, Sequence[Answer]]]()

    def caching(count: Callable[..., Any]) -> Callable[..., Any]:
        def backwards(merger: Merger, *arguments: Any) -> Any:
            counted = count(merger, *arguments)
            while later:
                cache, answers = later.pop(0)
                if not cache.process.dead:
                    cache.process.at("before the cache, too late", Fault.CRASH_AT_CACHE)
                    put(cache, answers)
            return counted

        return backwards

    patch.setattr(CallCache, "put", lambda cache, answers: later.append((cache, answers)))
    for name in ("count", "merge_now"):
        patch.setattr(Merger, name, caching(getattr(Merger, name)))


def fencing_is_off(patch: Patch) -> None:
    """A worker that lost its lease writes on."""
    patch.setattr(leases, "verify", lambda *_: None)


def files_are_not_synced(patch: Patch) -> None:
    """What was written will be on the disk, some time."""
    patch.setattr(os, "fsync", lambda _: None)


def folders_are_not_synced(patch: Patch) -> None:
    """What was renamed has its new name on the disk, some time."""
    patch.setattr(system, "sync_folder", lambda _: None)


def costs_are_added_again(patch: Patch) -> None:
    """A call has a new number each time it is merged."""
    add_all = calls.add_all

    def renumbered(connection: Any, records: Iterable[Any]) -> None:
        add_all(connection, [(task_id, uuid.uuid4().hex, *rest) for task_id, _, *rest in records])

    patch.setattr(calls, "add_all", renumbered)


def doubles_are_left_alone(patch: Patch) -> None:
    """Nobody looks for a second batch of a shard."""
    patch.setattr(collect, "cancel_doubles", lambda *_: None)


def any_account_will_do(patch: Patch) -> None:
    """A job is resumed with whatever key is set now."""
    account = Project.account

    def of_the_job(project: Project, provider: str, *, simulated: bool) -> str:
        return account(replace(project, environ={"THE_KEY": "key"}), provider, simulated=simulated)

    patch.setattr(Project, "account", of_the_job)


def everything_is_retried(patch: Patch) -> None:
    """What failed for good is sent again, too."""

    def again(result: ItemResult, before: Outcome | None, **how: bool) -> Next:
        chosen = after_attempt(result, before, last_round=how["last_round"], cancelling=how["cancelling"])
        return Next.AGAIN if result.outcome is not Outcome.SUCCEEDED and not how["last_round"] else chosen

    patch.setattr(settle, "after_attempt", again)


def a_poll_error_fails_the_batch(patch: Patch) -> None:
    """One 500 while polling, and the batch is given up."""

    def give_up(run: Run, job: Job, shard: Shard, error: ProviderError) -> None:
        merge.reject_shard(run, job, shard, RequestRejected(error.message))

    patch.setattr(passes, "_provider_failed", give_up)


def unknown_states_are_final(patch: Patch) -> None:
    """A word that nobody knows means that the batch has failed."""
    check = Wire.check

    def strict(wire: Wire, batch_id: str) -> BatchView:
        view = check(wire, batch_id)
        known = view.provider_state in {state.value for state in BatchState}
        return view if known else replace(view, state=BatchState.CANCELLED)

    patch.setattr(Wire, "check", strict)


def jobs_do_not_share(patch: Patch) -> None:
    """What another job of the store has under way, or has got answered, is sent once more."""
    patch.setattr(claims, "held_by_others", lambda *_: {})


def files_are_deleted_too_early(patch: Patch) -> None:
    """The provider's files go as soon as the batch has ended."""
    fetch = collect.fetch_shard

    def clean(run: Run, job: Job, shard: Shard) -> Shard:
        run.project.provider(job).discard(shard.batch_id or "", shard.file_id)
        return fetch(run, job, shard)

    patch.setitem(passes._SHARD_STEPS, ShardState.ENDED, clean)


def any_error_is_a_mass_error(patch: Patch) -> None:
    """One item fails, the job pauses, and the item is sent again."""
    patch.setattr(control, "mass_rule", lambda _: MassRule(min_items=1, share=0.01))


def rejected_items_end_in_another_commit(patch: Patch) -> None:
    """A crash between the two leaves a shard that is still to be sent, of items that have ended."""

    def reject(run: Run, job: Job, shard: Shard, error: ProviderError) -> None:
        with run.project.ledger.read() as connection:
            records = items.of_shard(connection, shard)
        endings = [Ending(item, Outcome.ERRORED, Outcome.ERRORED, "rejected") for item in records]
        with run.write() as connection:
            items.end(connection, job.task_id, endings, round_no=shard.round)
        with run.write() as connection:
            shards.move(connection, shard, ShardState.MERGED, merged_at=run.project.clock())

    patch.setattr(passes, "reject_shard", reject)


def _bugs() -> Iterator[Bug]:
    """The table; a bug's number is its place in it."""
    paid, again, unknown = Kind.PAID_TWICE, Kind.SENT_AGAIN, Kind.NOT_IN_LEDGER
    lost, mixed, outcome = Kind.LOST_ANSWER, Kind.MIXED_ROWS, Kind.OUTCOME
    create, late = (Fault.CRASH_AT_VERB, Fault.CREATE_REPLY_LOST), (Fault.CREATE_ACCEPTED_TOO_LATE, Fault.SLOW_BATCH)
    power, rejected = (*CRASHES, Fault.POWER_LOSS), (Fault.UPLOAD_REJECTED, Fault.CRASH_AT_COMMIT)
    yield Bug("the id is recorded late", id_is_recorded_late, create, (unknown, paid))
    yield Bug("reconcile is off", reconcile_is_off, (Fault.CREATE_REPLY_LOST,), (paid,))
    yield Bug("the quarantine is off", quarantine_is_off, (Fault.CREATE_ACCEPTED_LATE,), (paid,))
    yield Bug("matched by position", matched_by_position, (Fault.SHUFFLED,), (mixed,))
    yield Bug("the error file is ignored", error_file_is_ignored, (Fault.ITEM_400,), (again, outcome))
    yield Bug("SDK retries are on", sdk_retries_are_on, (Fault.CREATE_ACCEPTED_THEN_500,), (paid,))
    yield Bug("counted before cached", counted_before_cached, CRASHES, (Kind.NOT_IN_CACHE,), 30)
    yield Bug("fencing is off", fencing_is_off, (Fault.TAKEOVER,), (Kind.FENCING,))
    yield Bug("files are not synced", files_are_not_synced, power, (Kind.TROUBLE, Kind.STORE, lost))
    yield Bug("double ids are accepted", double_ids_are_accepted, (Fault.ROW_DOUBLED,), (mixed, outcome))
    yield Bug("expired output is dropped", expired_output_is_dropped, (Fault.EXPIRES,), (paid,))
    yield Bug("costs are added again", costs_are_added_again, CRASHES, (Kind.COST,), 30)
    yield Bug("doubles are left alone", doubles_are_left_alone, late, (Kind.DOUBLE_LEFT,), 30)
    yield Bug("unknown ids are guessed", unknown_ids_are_guessed, (Fault.UNKNOWN_ID, Fault.ROW_MISSING), (mixed, paid))
    yield Bug("any account will do", any_account_will_do, (Fault.OTHER_KEY,), (Kind.ACCOUNT,))
    yield Bug("folders are not synced", folders_are_not_synced, power, (Kind.TROUBLE, Kind.STORE, lost))
    yield Bug("everything is retried", everything_is_retried, (Fault.ITEM_400, Fault.REFUSAL), (again, outcome))
    yield Bug("a poll error fails the batch", a_poll_error_fails_the_batch, (Fault.CHECK_500,), (lost, paid))
    yield Bug("unknown states are final", unknown_states_are_final, (Fault.UNKNOWN_STATE,), (paid, lost))
    yield Bug("jobs do not share", jobs_do_not_share, (Fault.TWO_JOBS, Fault.SLOW_BATCH), (paid,))
    yield Bug("files are deleted too early", files_are_deleted_too_early, (Fault.SHUFFLED,), (paid, lost))
    yield Bug("any error is a mass error", any_error_is_a_mass_error, (Fault.ITEM_400,), (outcome,))
    both = (lost, Kind.NOT_IN_CACHE)
    yield Bug("rejected in two commits", rejected_items_end_in_another_commit, rejected, both, 40)


BUGS = (*_bugs(), *(Bug(*bug) for bug in planted()))
