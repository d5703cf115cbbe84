"""A full queue: the shard waits as it is, its refused batches are nobody's, Retry-After is the whole account's."""

from __future__ import annotations

import pytest

from batch_jobs.errors import RateLimited, ServerFailed, TimedOut
from batch_jobs.lifecycle.advance import Came
from batch_jobs.lifecycle.control import cancel
from batch_jobs.lifecycle.view import view
from batch_jobs.models import BatchProblem, BatchState, EventName, JobOutcome, Outcome, ShardState
from batch_jobs.storage import enqueued
from tests.contract.lifecycle.conftest import MakeWorld
from tests.contract.lifecycle.kit import ITEMS, FakeBatch, World, accept_but, refuse, waits

FULL = BatchProblem("token_limit_exceeded", "Enqueued token limit reached. Limit: 9,000,000 enqueued tokens.")


def end_without_room(world: World, times: int = 1) -> None:
    """The first batches fail at their validation; the others are answered."""
    left = [times]

    def end(batch: FakeBatch) -> None:
        if not left[0]:
            world.provider.complete_batch(batch)
            return
        left[0] -= 1
        batch.state, batch.problems = BatchState.FAILED, (FULL,)

    world.provider.end = end


def test_a_batch_without_room_waits_and_uses_up_nothing(world: World) -> None:
    end_without_room(world, 2)
    assert world.run() is Came.DONE
    assert [(shard.round, shard.creates, shard.refusals) for shard in world.shards] == [(0, 3, 2)]
    assert [record.attempts for record in world.records.values()] == [1] * ITEMS
    assert world.provider.uploads == 1, "the upload is still there, and is used again"
    assert world.shards[0].refused_ids == ["batch-1", "batch-2"]
    world.check(calls_billed=ITEMS)


@pytest.mark.parametrize("error", [TimedOut, ServerFailed])
def test_a_refused_batch_is_never_taken_for_the_one_that_is_looked_for(
    world: World, error: type[TimedOut | ServerFailed]
) -> None:
    """It carries the same key. Taken for the lost one, the lost one would run and be paid beside a third."""
    end_without_room(world)
    while not world.named(EventName.SHARD_REFUSED):
        world.clock.now += world.advance().seconds
    world.provider.creates.append(accept_but(error()))
    assert world.run() is Came.DONE
    assert [event.data["batch_id"] for event in world.named(EventName.SHARD_FOUND)] == ["batch-2"]
    assert len(world.provider.posts) == 2
    assert not world.named(EventName.DOUBLE_CANCELLED)
    world.check(calls_billed=ITEMS)


def test_a_shard_that_waits_for_room_is_dropped_by_a_cancel(world: World) -> None:
    end_without_room(world, 99)
    while not world.named(EventName.SHARD_REFUSED):
        world.clock.now += world.advance().seconds
    cancel(world.project, world.task_id)
    assert world.run() is Came.DONE
    assert world.job.outcome is JobOutcome.CANCELLED
    assert world.outcomes == [Outcome.CANCELLED] * ITEMS
    world.check(calls_billed=0)


def test_retry_after_is_waited_out_for_the_account(make_world: MakeWorld) -> None:
    world = make_world(limits={"max_requests": 2})
    world.provider.creates.append(refuse(RateLimited("slow down", retry_after_seconds=77)))
    assert world.advance().seconds >= 70
    assert len(world.provider.posts) == 1, "the other shards were not tried within the pause"
    world.clock.now += 60
    world.advance()
    assert len(world.provider.posts) == 1
    world.clock.now += 18
    assert world.run() is Came.DONE
    assert len(world.provider.posts) == 4
    world.check(calls_billed=ITEMS)


def test_the_batches_of_an_account_are_counted_over_all_models(make_world: MakeWorld) -> None:
    world = make_world(limits={"max_requests": 2, "max_in_flight_batches": 2})
    world.provider.end = waits
    world.advance()
    assert [shard.state for shard in world.shards] == [ShardState.SUBMITTED] * 2 + [ShardState.RENDERED]
    seen = view(world.project, world.task_id).waits_for_room
    assert seen is not None
    assert (seen.batches, seen.of, seen.max_tokens) == (1, 3, None)
    world.sql("UPDATE provider_batches SET model = 'another' WHERE shard < 2")
    world.advance()
    assert world.shards[2].state is ShardState.RENDERED
    world.sql("UPDATE provider_batches SET model = 'model-1' WHERE shard < 2")
    world.provider.end = world.provider.complete_batch
    assert world.run() is Came.DONE
    world.check(calls_billed=ITEMS)


def test_an_unknown_outcome_keeps_its_room(make_world: MakeWorld) -> None:
    """It may be in the queue: its room is nobody else's until that is settled."""
    world = make_world(limits={"max_requests": 2, "max_in_flight_batches": 1})
    world.provider.creates.append(accept_but(TimedOut(), listed=False))
    world.advance()
    assert [shard.state for shard in world.shards] == [ShardState.UNKNOWN] + [ShardState.RENDERED] * 2
    assert world.run() is Came.DONE
    world.check()


def test_a_learned_limit_is_kept_in_the_ledger_with_its_time(world: World) -> None:
    problem = BatchProblem("token_limit_exceeded", "Limit: 100 enqueued tokens")
    world.provider.end = lambda batch: _fail_large_ones(world, batch, problem)
    assert world.run() is Came.DONE
    with world.project.ledger.read() as connection:
        learned = enqueued.learned(connection, "openai", world.job.account, "model-1")
    assert learned is not None
    assert (learned.tokens, learned.shard_tokens, learned.told) == (100, 100, True)
    assert world.shards[0].split
    assert all(shard.requests == 1 for shard in world.shards[1:])
    assert view(world.project, world.task_id).batch_total == ITEMS
    world.check(calls_billed=ITEMS)


def _fail_large_ones(world: World, batch: FakeBatch, problem: BatchProblem) -> None:
    if len(batch.requests) == 1:
        world.provider.complete_batch(batch)
    else:
        batch.state, batch.problems = BatchState.FAILED, (problem,)
