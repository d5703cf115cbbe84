"""The provider's files of a batch are deleted once its answers are durable; never before, and never at any cost."""

from __future__ import annotations

import pytest

from batch_jobs.errors import ProviderError, RequestRejected, ServerFailed
from batch_jobs.lifecycle.advance import Came
from batch_jobs.models import EventName, Outcome, ShardState
from tests.contract.lifecycle.conftest import MakeWorld
from tests.contract.lifecycle.kit import ITEMS, Crash, World, failed, ok


def test_each_batch_is_discarded_once_after_its_merge(make_world: MakeWorld) -> None:
    world = make_world(limits={"max_requests": 2})
    states: list[set[ShardState]] = []
    world.provider.before = lambda verb, _: (
        states.append({s.state for s in world.shards}) if verb == "discard" else None
    )
    world.provider.reply = lambda sent: [failed(sent) if len(world.provider.posts) <= 3 else ok(sent)]
    assert world.run() is Came.DONE
    assert world.provider.discarded == list(world.provider.batches) and len(world.provider.batches) == 6
    assert states == [{ShardState.MERGED}] * 6
    assert len(world.named(EventName.SHARD_DISCARDED)) == 6
    world.check(calls_billed=ITEMS)


def test_what_is_kept_on_request_is_kept(make_world: MakeWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BATCH_JOBS__PROVIDERS__OPENAI__DELETE_AFTER_MERGE", "false")
    world = make_world()
    assert world.run() is Came.DONE
    assert world.provider.discarded == []


@pytest.mark.parametrize("error", [ServerFailed("down"), RequestRejected("file id is too long", status=400)])
def test_a_deletion_that_fails_is_an_event_and_nothing_else(world: World, error: ProviderError) -> None:
    def refuse(verb: str, _: str) -> None:
        if verb == "discard":
            raise error

    world.provider.before = refuse
    assert world.run() is Came.DONE
    assert [event.data.get("why") for event in world.named(EventName.SHARD_DISCARDED)] == [error.message]
    assert world.outcomes == [Outcome.SUCCEEDED] * ITEMS


def test_killed_while_deleting_the_job_goes_on(world: World) -> None:
    tried: list[str] = []

    def die_once(verb: str, what: str) -> None:
        if verb == "discard":
            tried.append(what)
            if len(tried) == 1:
                raise Crash

    world.provider.before = die_once
    with pytest.raises(Crash):
        world.run()
    assert world.run() is Came.DONE
    assert tried == ["batch-1", "batch-1"]
    world.check(calls_billed=ITEMS)
