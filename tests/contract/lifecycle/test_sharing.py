"""Two jobs of one store: what is under way for one is not sent for the other, which waits, adopts or takes over."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest

from batch_jobs.errors import QuotaExhausted
from batch_jobs.lifecycle.advance import Came, advance
from batch_jobs.lifecycle.control import approve, cancel, resume
from batch_jobs.lifecycle.receive import Order, receive
from batch_jobs.lifecycle.view import view
from batch_jobs.models import BatchState, EventName, ItemResult, Mode, Outcome, Phase
from batch_jobs.storage import items, jobs, leases
from batch_jobs.storage.jobs import lease_name
from tests.contract.lifecycle.conftest import MakeWorld
from tests.contract.lifecycle.kit import EVENTS, ITEMS, Crash, Sent, World, failed, good, refuse, waits

MORE = [*EVENTS, "event-6", "event-7"]
"""The same rows, and two of its own: the later upload."""
Later = Callable[..., World]


@pytest.fixture
def later(tmp_path: Path) -> Later:
    """Adds a second job to a world's store: its rows, and two more."""

    def make(world: World, mode: Mode = Mode.BATCH) -> World:
        upload = tmp_path / "later.csv"
        upload.write_text("number,what\n" + "".join(f"{number},{event}\n" for number, event in enumerate(MORE)))
        task_id = receive(world.project, Order(upload, upload.name, "summarize", "loss")).task_id
        assert advance(world.project, task_id).came is Came.CONFIRM
        with world.project.ledger.write() as connection:
            jobs.change(connection, task_id, mode=mode)
        approve(world.project, task_id)
        return dataclasses.replace(world, task_id=task_id)

    return make


def test_items_under_way_for_another_job_are_waited_for_and_their_answers_adopted(world: World, later: Later) -> None:
    world.provider.end = waits
    assert world.advance().came is Came.WAIT
    second = later(world)
    advanced = second.advance()
    assert advanced.came is Came.WAIT
    assert advanced.waits_for == (world.task_id,)
    assert [len(batch.requests) for batch in world.provider.batches.values()] == [ITEMS, 2]
    assert view(second.project, second.task_id).waits_for == {world.task_id: ITEMS}
    assert view(world.project, world.task_id).waits_for == {}
    assert [event.data for event in second.named(EventName.ITEMS_WAITING)] == [{"for": world.task_id, "items": ITEMS}]
    world.provider.end = world.provider.complete_batch
    assert world.run() is Came.DONE
    assert second.run() is Came.DONE
    assert sum(len(batch.requests) for batch in world.provider.batches.values()) == ITEMS + 2
    assert [event.data["items"] for event in second.named(EventName.ITEMS_ADOPTED)] == [ITEMS]
    seen = view(second.project, second.task_id)
    assert seen.waits_for == {}
    assert (seen.items, seen.sent, seen.from_cache, seen.failed) == (ITEMS + 2, 2, ITEMS, 1)
    assert second.spent.calls == 2
    assert {row["what"]: row["summary"] for row in second.output()}["event-6"] == "about event-6"


@pytest.mark.parametrize("held", ["rendered", "unknown"])
def test_what_is_not_accepted_for_certain_is_under_way_too(world: World, later: Later, held: str) -> None:
    """A shard that may or may not have been accepted is nobody else's to send."""
    world.provider.creates.append(refuse(QuotaExhausted("no money") if held == "rendered" else Crash()))
    if held == "rendered":
        assert world.run() is Came.PAUSED
    else:
        with pytest.raises(Crash):  # dies in the create, whose outcome nobody knows
            world.advance()
    second = later(world)
    assert second.advance().waits_for == (world.task_id,)
    assert len(second.shards) == 1
    assert second.shards[0].requests == 2


def test_a_cancelled_jobs_items_are_taken_over(world: World, later: Later) -> None:
    world.provider.end = waits
    world.advance()
    second = later(world)
    second.advance()
    cancel(world.project, world.task_id)
    assert world.run() is Came.DONE
    world.provider.end = world.provider.complete_batch
    assert second.run() is Came.DONE
    assert sorted(len(batch.requests) for batch in world.provider.batches.values()) == [2, ITEMS, ITEMS]
    assert view(second.project, second.task_id).failed == 1  # the row without a prompt
    assert not second.named(EventName.ITEMS_ADOPTED)


def test_items_that_the_other_job_loses_are_taken_over(world: World, later: Later) -> None:
    world.provider.end = waits
    world.advance()
    second = later(world)
    second.advance()
    world.provider.end = world.provider.complete_batch
    world.provider.reply = lambda sent: [failed(sent, 400, "invalid_request")]
    assert world.run() is Came.DONE
    assert set(world.outcomes) == {Outcome.ERRORED}
    world.provider.reply = type(world.provider)(world.clock).reply
    assert second.run() is Came.DONE
    assert view(second.project, second.task_id).failed == 1


def test_between_two_rounds_an_item_is_free(world: World, later: Later) -> None:
    """What waits for its next round is not in flight: the other job may send it, and this one adopts the answer."""
    world.provider.reply = lambda sent: [failed(sent)]
    world.provider.before = lambda verb, _: world.stop.set() if verb == "fetch" else None
    while world.shards == [] or world.shards[0].merged_at is None:
        world.stop.clear()
        world.advance()
    world.provider.before = lambda *_: None
    world.stop.clear()
    world.provider.reply = type(world.provider)(world.clock).reply
    second = later(world)
    assert second.run() is Came.DONE
    assert view(second.project, second.task_id).sent == ITEMS + 2
    assert world.run() is Came.DONE
    assert world.outcomes == [Outcome.SUCCEEDED] * ITEMS
    assert [event.data["items"] for event in world.named(EventName.ITEMS_ADOPTED)] == [ITEMS]
    assert view(world.project, world.task_id).sent == ITEMS  # they were sent once, and failed


def test_of_two_jobs_that_start_at_once_only_one_sends(world: World, later: Later) -> None:
    """The other job claims and answers everything between this one's look and its claim."""
    second = later(world)
    taken: list[Came] = []
    look = world.project.cache.known

    def overtaken(fingerprints: list[bytes]) -> list[bool]:
        known = list(look(fingerprints))
        if not taken:
            taken.append(Came.WAIT)
            taken[0] = second.run()
        return known

    world.project.cache.known = overtaken  # type: ignore[method-assign,assignment]
    assert world.run() is Came.DONE
    assert taken == [Came.DONE]
    assert sum(len(batch.requests) for batch in world.provider.batches.values()) == ITEMS + 2
    assert world.spent.calls == 0


def test_single_calls_are_claimed_too(make_world: MakeWorld, later: Later) -> None:
    world = make_world(Mode.CONCURRENT, concurrent={"max_workers": 2})  # of the account: one call within another
    second = later(world, Mode.CONCURRENT)
    seen: list[tuple[str, ...]] = []

    def call(sent: Sent, _: int) -> ItemResult:
        if not seen:
            seen.append(())
            seen[0] = second.advance().waits_for
        return good(sent)

    world.provider.call = call
    assert world.run() is Came.DONE
    assert seen == [(world.task_id,)]
    assert second.run() is Came.DONE
    assert len(world.provider.executed) == ITEMS + 2
    assert second.spent.calls == 2


def test_a_dead_jobs_single_calls_hold_nobody_up(make_world: MakeWorld, later: Later) -> None:
    """Its process was killed: nothing of it is in flight any more. When it comes back, it adopts."""
    world = make_world(Mode.CONCURRENT)
    second = later(world, Mode.CONCURRENT)
    with leases.holding(world.project.ledger.engine, lease_name(world.task_id)):
        with world.project.ledger.write() as connection:
            job = jobs.get(connection, world.task_id)
            jobs.move(connection, job, Phase.RUNNING, started_at=world.clock())
        world.sql("UPDATE items SET round = 0, shard = -1 WHERE task_id = '" + world.task_id + "'")
        assert second.advance().waits_for == (world.task_id,)
    assert second.run() is Came.DONE
    assert len(world.provider.executed) == ITEMS + 2
    assert world.run() is Came.DONE
    assert len(world.provider.executed) == ITEMS + 2
    assert world.spent.calls == 0


def test_a_paused_jobs_batch_still_belongs_to_it_and_resume_brings_the_answers(world: World, later: Later) -> None:
    world.provider.end = waits
    world.advance()
    with world.project.ledger.write() as connection:
        jobs.move(connection, jobs.get(connection, world.task_id), Phase.PAUSED, message="why")
    second = later(world)
    assert second.advance().waits_for == (world.task_id,)
    for batch in world.provider.batches.values():
        assert batch.state is BatchState.IN_PROGRESS
    world.provider.end = world.provider.complete_batch
    for _ in range(3):
        assert second.advance().came is Came.WAIT
    resume(world.project, world.task_id)
    assert world.run() is Came.DONE
    assert second.run() is Came.DONE
    with world.project.ledger.read() as connection:
        assert items.counts(connection, second.task_id)["known"] == ITEMS
