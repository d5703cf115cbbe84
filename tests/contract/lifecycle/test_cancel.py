"""Cancel: what was finished is fetched and paid for, what was not sent never is, and it always comes to an end."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest

from batch_jobs.errors import RateLimited, ServerFailed, TimedOut, WrongMoment
from batch_jobs.lifecycle.advance import Came, advance
from batch_jobs.lifecycle.control import cancel, discard, resume
from batch_jobs.lifecycle.receive import Order, receive
from batch_jobs.lifecycle.run import Progress
from batch_jobs.lifecycle.view import view
from batch_jobs.models import BatchState, JobOutcome, Mode, Outcome, Phase
from tests.contract.lifecycle.conftest import MakeWorld
from tests.contract.lifecycle.kit import (
    ITEMS,
    FakeBatch,
    World,
    accept,
    accept_but,
    good,
    open_fake,
    refuse,
    waits,
    write_project,
)


def test_a_planned_job(make_world: MakeWorld) -> None:
    world = make_world(approved=False)
    assert world.advance().came is Came.CONFIRM
    cancel(world.project, world.task_id)
    assert world.run() is Came.DONE
    assert world.job.outcome is JobOutcome.CANCELLED
    assert world.outcomes == [Outcome.CANCELLED] * ITEMS
    assert world.provider.posts == []
    world.check(calls_billed=0)


def test_a_job_that_is_about_to_begin(world: World) -> None:
    """The user's word comes while the folders are made: that is what the job goes on with, and no error."""

    def cancel_it(progress: Progress) -> None:
        if progress.step == "preparing":
            cancel(world.project, world.task_id)

    assert advance(world.project, world.task_id, cancel_it).came is Came.DONE
    assert world.job.outcome is JobOutcome.CANCELLED
    assert world.provider.posts == []
    world.check(calls_billed=0)


def test_a_job_that_is_being_planned(tmp_path: Path) -> None:
    project, provider, _ = open_fake(write_project(tmp_path))
    upload = tmp_path / "events.csv"
    upload.write_text("number,what\n0,event-0\n")
    task_id = receive(project, Order(upload, upload.name, "summarize", "loss", autostart=True)).task_id

    def cancel_it(progress: Progress) -> None:
        if progress.step == "rendering":
            cancel(project, task_id)

    with closing(project):
        assert advance(project, task_id, cancel_it).came is Came.DONE
        seen = view(project, task_id)
    assert seen.outcome is JobOutcome.CANCELLED
    assert provider.posts == []


def test_a_job_that_is_with_the_provider(make_world: MakeWorld) -> None:
    """What had been finished before the provider stopped is in the file."""
    world = make_world(limits={"max_requests": 3})

    def finish_first(batch: FakeBatch) -> None:
        if batch.batch_id == "batch-1":
            world.provider.complete_batch(batch)

    world.provider.end = finish_first
    world.advance()
    world.clock.now += 30
    world.advance()
    cancel(world.project, world.task_id)
    assert world.run() is Came.DONE
    assert world.provider.cancelled == ["batch-2"]
    assert world.outcomes == [Outcome.SUCCEEDED] * 3 + [Outcome.CANCELLED] * 3
    world.check(calls_billed=3)


def test_results_of_a_cancelled_batch_are_kept_and_nothing_is_sent_again(world: World) -> None:
    world.provider.end = waits
    world.advance()
    cancel(world.project, world.task_id)
    batch = world.provider.batches["batch-1"]
    batch.lines = [line for sent in batch.requests[:2] for line in world.provider.reply(sent)]
    assert world.run() is Came.DONE
    assert world.outcomes == [Outcome.SUCCEEDED] * 2 + [Outcome.CANCELLED] * 4
    assert len(world.provider.posts) == 1
    world.check(calls_billed=2)


def test_a_shard_that_was_never_accepted_is_dropped(world: World) -> None:
    world.provider.creates.append(refuse(RateLimited()))
    world.advance()
    cancel(world.project, world.task_id)
    assert world.run() is Came.DONE
    assert len(world.provider.posts) == 1
    assert world.outcomes == [Outcome.CANCELLED] * ITEMS
    world.check(calls_billed=0)


def test_an_unknown_outcome_is_settled_first(world: World) -> None:
    world.provider.creates.append(accept_but(TimedOut(), listed=False))
    world.provider.end = waits
    world.advance()
    cancel(world.project, world.task_id)
    world.clock.now += world.advance().seconds
    assert world.job.phase is Phase.CANCELLING
    world.provider.batches["batch-1"].listed = True
    assert world.run() is Came.DONE
    assert world.provider.cancelled == ["batch-1"]
    assert len(world.provider.posts) == 1
    world.check(calls_billed=0)


def test_an_unknown_outcome_that_was_nothing_is_not_sent_after_the_quarantine(world: World) -> None:
    world.provider.creates.append(refuse(TimedOut()))
    world.advance()
    cancel(world.project, world.task_id)
    assert world.run() is Came.DONE
    assert len(world.provider.posts) == 1
    world.check(calls_billed=0)


def test_a_paused_job(world: World) -> None:
    world.sql("UPDATE jobs SET phase = 'paused'")
    cancel(world.project, world.task_id)
    assert world.run() is Came.DONE
    assert world.provider.posts == []


def test_asking_twice_is_asking_once(world: World) -> None:
    world.provider.end = waits
    world.advance()
    cancel(world.project, world.task_id)
    assert cancel(world.project, world.task_id).phase is Phase.CANCELLING
    world.run()
    with pytest.raises(WrongMoment):
        cancel(world.project, world.task_id)
    with pytest.raises(WrongMoment):
        resume(world.project, world.task_id)


def test_while_shards_are_being_sent_the_rest_is_not_sent(make_world: MakeWorld) -> None:
    """Somebody cancels in another process between the first create and the second."""
    world = make_world(limits={"max_requests": 2})

    def cancelled_meanwhile(_: object, batch: FakeBatch) -> None:
        accept(world.provider, batch)
        cancel(world.project, world.task_id)

    world.provider.creates.append(cancelled_meanwhile)
    world.provider.end = waits
    assert world.run() is Came.DONE
    assert len(world.provider.posts) == 1
    assert world.outcomes == [Outcome.CANCELLED] * ITEMS
    world.check(calls_billed=0)


@pytest.mark.parametrize("verb", ["check", "fetch"])
def test_while_the_last_results_come_in(world: World, verb: str) -> None:
    """The word comes during the pass that would have ended the job: it still comes to an end, without an error."""

    def before(called: str, _: str) -> None:
        if called == verb and world.job.phase is Phase.RUNNING:
            cancel(world.project, world.task_id)

    world.provider.before = before
    assert world.run() is Came.DONE
    assert world.job.outcome is JobOutcome.CANCELLED
    assert world.outcomes == [Outcome.SUCCEEDED] * ITEMS
    world.check(calls_billed=ITEMS)


def test_a_provider_that_can_not_cancel_now_does_not_keep_the_others_running(make_world: MakeWorld) -> None:
    world = make_world(limits={"max_requests": 2})
    world.provider.end = waits
    world.advance()
    cancel(world.project, world.task_id)
    broken = 2

    def before(verb: str, what: str) -> None:
        nonlocal broken
        if verb == "cancel" and what == "batch-1" and broken:
            broken -= 1
            raise ServerFailed("overloaded")

    world.provider.before = before
    assert world.run() is Came.DONE
    assert sorted(world.provider.cancelled) == ["batch-1", "batch-2", "batch-3"]
    world.check(calls_billed=0)


def test_a_batch_that_ended_meanwhile_is_no_error(world: World) -> None:
    world.provider.end = waits
    world.advance()
    cancel(world.project, world.task_id)
    world.provider.complete_batch(world.provider.batches["batch-1"])
    assert world.run() is Came.DONE
    assert world.provider.batches["batch-1"].state is BatchState.COMPLETED
    assert world.outcomes == [Outcome.SUCCEEDED] * ITEMS
    world.check(calls_billed=ITEMS)


def test_a_concurrent_job_stops_after_what_is_in_flight(make_world: MakeWorld) -> None:
    world = make_world(Mode.CONCURRENT)

    def call(sent: object, number: int) -> object:
        if world.job.phase is Phase.RUNNING:
            cancel(world.project, world.task_id)
        return good(sent)  # type: ignore[arg-type]

    world.provider.call = call  # type: ignore[assignment]
    assert world.run() is Came.DONE
    assert world.job.outcome is JobOutcome.CANCELLED
    made = len(world.provider.executed)
    assert 1 <= made < ITEMS
    world.check(calls_billed=made)


def test_a_job_that_sent_nothing_can_be_forgotten(make_world: MakeWorld) -> None:
    world = make_world(approved=False)
    discard(world.project, world.task_id)
    assert not world.project.workspace.input(world.task_id).exists()
    assert not world.project.workspace.output(world.task_id).exists()


def test_a_job_that_has_begun_can_not_be_forgotten(world: World) -> None:
    world.provider.end = waits
    world.advance()
    with pytest.raises(WrongMoment):
        discard(world.project, world.task_id)
    assert world.project.workspace.input(world.task_id).exists()
