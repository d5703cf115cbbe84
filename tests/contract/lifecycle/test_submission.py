"""Submission: one create per shard, and what ends without a clear answer is never simply sent again."""

from __future__ import annotations

from dataclasses import replace

import pytest

from batch_jobs.errors import (
    AuthRefused,
    ConnectionFailed,
    JobHeld,
    ProviderError,
    QuotaExhausted,
    RateLimited,
    RequestRejected,
    ServerFailed,
    StoreError,
    TimedOut,
    Unreachable,
    UnreadableReply,
)
from batch_jobs.lifecycle.advance import Came
from batch_jobs.lifecycle.control import cancel, resume
from batch_jobs.models import BatchState, EventName, Outcome, Phase, ShardState
from batch_jobs.storage import leases
from batch_jobs.storage.jobs import lease_name
from tests.contract.lifecycle.conftest import MakeWorld
from tests.contract.lifecycle.kit import (
    ITEMS,
    Clock,
    Crash,
    FakeBatch,
    FakeProvider,
    World,
    accept,
    accept_but,
    refuse,
    waits,
)

UNCLEAR: list[type[ProviderError]] = [ServerFailed, ConnectionFailed, TimedOut, UnreadableReply]
QUARANTINE = 900.0


def test_one_create_per_shard(make_world: MakeWorld) -> None:
    world = make_world(limits={"max_requests": 2})
    assert world.run() is Came.DONE
    assert len(world.provider.posts) == len(set(world.provider.posts)) == 3
    assert [shard.creates for shard in world.shards] == [1, 1, 1]
    assert world.outcomes == [Outcome.SUCCEEDED] * ITEMS
    world.check(calls_billed=ITEMS)


def test_equal_rows_are_sent_once(world: World) -> None:
    world.run()
    assert len(world.provider.sent_to("event-1")) == 1


def test_the_intent_is_durable_before_the_create(world: World) -> None:
    seen: list[ShardState] = []
    world.provider.before = lambda verb, _: seen.append(world.shards[0].state) if verb == "create" else None
    world.run()
    assert seen == [ShardState.SUBMITTING]


@pytest.mark.parametrize("error", [RateLimited, Unreachable])
def test_a_definite_refusal_is_tried_again_later(world: World, error: type[ProviderError]) -> None:
    world.provider.creates.append(refuse(error("slow down", retry_after_seconds=77)))
    advanced = world.advance()
    assert advanced.came is Came.WAIT
    assert advanced.seconds >= 77
    assert world.shards[0].state is ShardState.RENDERED
    assert world.run() is Came.DONE
    assert len(world.provider.posts) == 2
    assert len(world.named(EventName.SHARD_REFUSED)) == 1
    world.check(calls_billed=ITEMS)


@pytest.mark.parametrize("error", [QuotaExhausted, AuthRefused])
def test_an_account_problem_pauses_and_resume_goes_on(world: World, error: type[ProviderError]) -> None:
    world.provider.creates.append(refuse(error("see your account")))
    assert world.run() is Came.PAUSED
    assert world.job.message == "see your account"
    assert world.outcomes == [None] * ITEMS
    world.check(calls_billed=0)
    resume(world.project, world.task_id)
    assert world.run() is Came.DONE
    world.check(calls_billed=ITEMS)


def test_a_rejected_shard_ends_its_items_and_no_other(make_world: MakeWorld) -> None:
    world = make_world(limits={"max_requests": 4})
    world.provider.creates.append(refuse(RequestRejected("too many tokens in line 3", code="invalid")))
    assert world.run() is Came.DONE
    assert world.outcomes == [Outcome.ERRORED] * 4 + [Outcome.SUCCEEDED] * 2
    assert "too many tokens in line 3" in world.output()[0]["summarize_status"]
    assert len(world.provider.posts) == 2
    world.check(calls_billed=2)


@pytest.mark.parametrize("error", UNCLEAR)
def test_an_unknown_outcome_is_never_sent_again_within_the_quarantine(world: World, error: type[ProviderError]) -> None:
    world.provider.creates.append(refuse(error()))
    assert world.advance().came is Came.WAIT
    assert world.shards[0].state is ShardState.UNKNOWN
    begun = world.clock.now
    while world.clock.now < begun + QUARANTINE - 1:
        assert len(world.provider.posts) == 1
        world.clock.now += min(world.advance().seconds, begun + QUARANTINE - 1 - world.clock.now)
    assert len(world.provider.posts) == 1
    assert world.run() is Came.DONE
    assert len(world.provider.posts) == 2
    assert world.clock.now >= begun + QUARANTINE
    world.check(calls_billed=ITEMS)


def test_a_clock_that_is_set_forward_does_not_shorten_the_quarantine(world: World) -> None:
    uptime = Clock()
    world.project = replace(world.project, uptime=uptime)
    world.provider.creates.append(accept_but(TimedOut(), listed=False))
    world.advance()
    world.clock.now += 3600
    uptime.now += QUARANTINE - 1
    world.advance()
    assert world.provider.posts == [world.shards[0].shard_key]
    world.provider.batches["batch-1"].listed = True
    world.clock.now += 60
    uptime.now += 60
    assert world.run() is Came.DONE
    assert len(world.provider.posts) == 1
    world.check(calls_billed=ITEMS)


@pytest.mark.parametrize("seconds", [QUARANTINE, 0.3])  # which no sum of times holds exactly
def test_another_process_goes_by_the_clock(world: World, seconds: float) -> None:
    """It does not know for how long the one before it has waited, by its own uptime."""
    settings = world.project.settings
    submission = settings.submission.model_copy(update={"quarantine_seconds": seconds})
    world.provider.creates.append(refuse(Crash()))
    with pytest.raises(Crash):
        world.advance()
    world.sql(f"UPDATE provider_batches SET state = 'unknown', was_unknown = 1, unknown_at = {world.clock.now}")
    another = settings.model_copy(update={"submission": submission})
    world.project = replace(world.project, settings=another, uptime=lambda: 20_000.0)
    world.clock.now += seconds + 0.001
    world.advance()
    assert len(world.provider.posts) == 2


@pytest.mark.parametrize("error", UNCLEAR)
def test_an_accepted_create_is_found_by_its_key(world: World, error: type[ProviderError]) -> None:
    world.provider.creates.append(accept_but(error()))
    assert world.run() is Came.DONE
    assert len(world.provider.posts) == 1
    assert len(world.named(EventName.SHARD_FOUND)) == 1
    world.check(calls_billed=ITEMS)


def test_an_accepted_create_is_found_though_our_clock_was_set_back(world: World) -> None:
    """Between the intent and the create: by our clock the batch is hours older than the intent to make it."""

    def set_back(provider: FakeProvider, batch: FakeBatch) -> None:
        world.clock.now -= 6 * 3600
        batch.created_at = world.clock.now
        accept_but(TimedOut())(provider, batch)

    world.provider.creates.append(set_back)
    world.advance()
    world.clock.now += 7 * 3600  # nobody looks before our clock has passed the intent again
    assert world.run() is Came.DONE
    assert len(world.provider.posts) == 1
    assert len(world.named(EventName.SHARD_FOUND)) == 1
    world.check(calls_billed=ITEMS)


def test_one_that_is_listed_late_is_adopted_within_the_quarantine(world: World) -> None:
    world.provider.creates.append(accept_but(TimedOut(), listed=False))
    world.advance()
    for _ in range(3):
        world.clock.now += world.advance().seconds
    world.provider.batches["batch-1"].listed = True
    assert world.run() is Came.DONE
    assert len(world.provider.posts) == 1
    world.check(calls_billed=ITEMS)


def test_a_batch_of_another_shard_is_not_adopted(make_world: MakeWorld) -> None:
    """Where ids prove ownership only later, one that another shard has recorded is nobody else's."""
    world = make_world(limits={"max_requests": 3})
    world.provider.creates.extend([accept, refuse(TimedOut())])
    world.provider.end = waits
    world.advance()
    first, second = world.shards
    for batch in world.provider.batches.values():
        batch.key = second.shard_key
    world.clock.now += 30
    world.advance()
    assert [shard.state for shard in world.shards] == [ShardState.SUBMITTED, ShardState.UNKNOWN]
    assert first.batch_id == "batch-1"


def test_an_undecided_candidate_keeps_the_shard_from_being_sent_again(world: World) -> None:
    world.provider.creates.append(accept_but(TimedOut()))
    world.provider.owned = None
    world.advance()
    world.clock.now += 2 * QUARANTINE
    world.advance()
    assert world.shards[0].state is ShardState.UNKNOWN
    assert len(world.provider.posts) == 1
    world.provider.owned = True
    assert world.run() is Came.DONE
    world.check(calls_billed=ITEMS)


def test_an_undecided_candidate_is_not_asked_for_without_pause(world: World) -> None:
    """Anthropic proves a candidate only by its results, up to a day later: the listing is asked at a poll's pace."""
    world.provider.creates.append(accept_but(TimedOut()))
    world.provider.owned = None
    world.advance()
    world.clock.now += 2 * QUARANTINE
    assert world.advance().seconds >= world.project.settings.polling.min_seconds * 0.9


def test_a_late_double_is_cancelled(world: World) -> None:
    world.provider.creates.append(accept_but(TimedOut(), listed=False))
    world.provider.end = waits
    world.advance()
    world.clock.now += QUARANTINE + 1
    world.advance()
    assert len(world.provider.posts) == 2
    double = world.provider.batches["batch-1"]
    double.created_at, double.listed = world.clock.now + 1, True
    world.clock.now += 60
    world.advance()
    assert world.provider.cancelled == ["batch-1"]
    assert len(world.named(EventName.DOUBLE_CANCELLED)) == 1
    world.provider.end = world.provider.complete_batch
    assert world.run() is Came.DONE
    world.check(calls_billed=ITEMS)


def test_a_late_double_is_found_though_it_is_older_than_the_second_create(world: World) -> None:
    """The lost create keeps the provider's time of when it came in, long before the quarantine was over."""
    world.provider.creates.append(accept_but(TimedOut(), listed=False))
    world.provider.end = waits
    world.advance()
    world.clock.now += QUARANTINE + 1
    world.advance()
    world.provider.batches["batch-1"].listed = True
    world.clock.now += 60
    world.advance()
    assert world.provider.cancelled == ["batch-1"]


def test_a_double_that_is_cancelling_does_not_pause_the_job(world: World) -> None:
    """A provider refuses to cancel twice; the double's own ending is no problem of the job's."""
    world.provider.creates.append(accept_but(TimedOut(), listed=False))
    world.provider.end = waits
    world.advance()
    world.clock.now += QUARANTINE + 1
    world.advance()
    double = world.provider.batches["batch-1"]
    double.created_at, double.listed = world.clock.now + 1, True
    for _ in range(3):
        world.clock.now += 60
        world.advance()
    assert double.state is BatchState.CANCELLING
    assert world.job.phase is Phase.RUNNING
    assert world.job.message is None


def test_a_batch_that_can_not_be_proved_is_left_to_the_operator(world: World) -> None:
    """It has ended and holds nothing that names its sender: never sent again by itself, and ended by a cancel."""
    world.provider.creates.append(accept_but(TimedOut()))
    world.provider.owned = None
    world.advance()
    world.provider.batches["batch-1"].state = BatchState.COMPLETED
    for _ in range(3):
        world.clock.now += QUARANTINE
        assert world.advance().came is Came.WAIT
    assert world.shards[0].state is ShardState.UNKNOWN
    cancel(world.project, world.task_id)
    assert world.run() is Came.DONE
    assert len(world.provider.posts) == 1
    assert set(world.outcomes) == {Outcome.CANCELLED}


def test_a_crash_between_intent_and_answer_is_an_unknown_outcome(world: World) -> None:
    world.provider.creates.append(accept_but(Crash()))
    with pytest.raises(Crash):
        world.advance()
    assert world.shards[0].state is ShardState.SUBMITTING
    assert world.run() is Came.DONE
    assert len(world.provider.posts) == 1
    assert len(world.named(EventName.SHARD_UNKNOWN)) == 1
    world.check(calls_billed=ITEMS)


def test_a_crash_before_the_create_arrives_costs_a_quarantine_and_nothing_else(world: World) -> None:
    world.provider.creates.append(refuse(Crash()))
    with pytest.raises(Crash):
        world.advance()
    begun = world.clock.now
    assert world.run() is Came.DONE
    assert world.clock.now >= begun + QUARANTINE
    assert len(world.provider.posts) == 2
    world.check(calls_billed=ITEMS)


def test_a_crash_during_the_upload_sends_nothing_twice(world: World) -> None:
    def die(verb: str, _: str) -> None:
        if verb == "upload" and not world.provider.uploads:
            world.provider.uploads += 1
            raise Crash

    world.provider.before = die
    with pytest.raises(Crash):
        world.advance()
    assert world.shards[0].state is ShardState.RENDERED
    assert world.run() is Came.DONE
    assert len(world.provider.posts) == 1
    world.check(calls_billed=ITEMS)


def test_a_shard_file_that_was_changed_is_not_sent(world: World) -> None:
    world.provider.before = lambda verb, _: (_ for _ in ()).throw(Crash()) if verb == "upload" else None
    with pytest.raises(Crash):
        world.advance()
    path = world.project.workspace.shard(world.task_id, 0, 0)
    path.write_bytes(path.read_bytes().replace(b"event-0", b"event-9"))
    with pytest.raises(StoreError, match="was changed after it was rendered"):
        world.advance()
    assert world.provider.posts == []


def test_a_lost_lease_stops_before_the_money_is_spent(world: World) -> None:
    """The intent is written under the lease's token, so a holder that was replaced can't create."""

    def take_over(verb: str, _: str) -> None:
        if verb == "upload":
            world.sql("UPDATE leases SET expires_at = 0")
            assert leases.acquire(world.project.ledger.engine, lease_name(world.task_id), "other:1:x", 1.0)

    world.provider.before = take_over
    with pytest.raises(JobHeld):
        world.advance()
    assert world.provider.posts == []


def test_another_key_stops_the_job_before_anything_is_sent(world: World) -> None:
    world.sql("UPDATE jobs SET account = 'openai default address key:other'")
    with pytest.raises(Exception, match="was made with account"):
        world.advance()
    assert world.provider.posts == []
