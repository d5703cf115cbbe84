"""The concurrent path: retries where they help, every paid attempt recorded, a stop leaves the rest open."""

from __future__ import annotations

import threading
from collections.abc import Callable
from itertools import pairwise

import pytest
from tenacity import RetryCallState, Retrying

from batch_jobs.errors import (
    AuthRefused,
    BatchJobsError,
    ConnectionFailed,
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
from batch_jobs.lifecycle import concurrent
from batch_jobs.lifecycle.advance import Came, advance
from batch_jobs.lifecycle.control import resume
from batch_jobs.lifecycle.filing import expect_folders
from batch_jobs.lifecycle.pool.retries import Waiting
from batch_jobs.lifecycle.project import Project
from batch_jobs.lifecycle.run import Progress
from batch_jobs.lifecycle.view import view
from batch_jobs.models import EventName, ItemResult, JobOutcome, Mode, Outcome, Phase
from batch_jobs.render.items import read_items
from batch_jobs.storage.jobs import Job
from tests.contract.lifecycle.conftest import MakeWorld
from tests.contract.lifecycle.kit import ITEMS, LIMIT, USAGE, Sent, World, bad, cut_off, good

Call = Callable[[Sent, int], ItemResult]
TRANSIENT = [RateLimited, ServerFailed, ConnectionFailed, TimedOut, Unreachable, UnreadableReply]


@pytest.fixture
def world(make_world: MakeWorld) -> World:
    return make_world(Mode.CONCURRENT)


def for_event(event: str, call: Call) -> Call:
    return lambda sent, number: call(sent, number) if sent.event == event else good(sent)


def raising(error: ProviderError, times: int = 1_000) -> Call:
    def call(sent: Sent, number: int) -> ItemResult:
        if number <= times:
            raise error
        return good(sent)

    return call


def test_every_item_is_answered_once(world: World) -> None:
    assert world.run() is Came.DONE
    assert world.outcomes == [Outcome.SUCCEEDED] * ITEMS
    assert set(world.provider.tried.values()) == {1}
    assert world.job.outcome is JobOutcome.PARTIAL
    assert world.provider.posts == []
    world.check(calls_billed=ITEMS)


@pytest.mark.parametrize("error", TRANSIENT)
def test_what_may_pass_is_tried_again(world: World, error: type[ProviderError]) -> None:
    world.provider.call = for_event("event-3", raising(error(), times=2))
    assert world.run() is Came.DONE
    assert world.provider.tried["event-3"] == 3
    assert world.outcomes == [Outcome.SUCCEEDED] * ITEMS
    world.check(calls_billed=ITEMS)


@pytest.mark.parametrize("attempts", [1, 2, 5])
def test_attempts_are_respected(make_world: MakeWorld, attempts: int) -> None:
    concurrent = {"max_workers": 1, "attempts": attempts, "min_wait_seconds": 0, "max_wait_seconds": 0}
    world = make_world(Mode.CONCURRENT, concurrent=concurrent)
    world.provider.call = for_event("event-3", raising(ServerFailed("overloaded", code="overloaded")))
    assert world.run() is Came.DONE
    assert world.provider.tried["event-3"] == attempts
    assert (world.records[3].outcome, world.records[3].code) == (Outcome.ERRORED, "overloaded")
    world.check(calls_billed=ITEMS - 1)


def test_a_rejected_request_is_that_rows_failure_at_once(world: World) -> None:
    world.provider.call = for_event("event-3", raising(RequestRejected("too long", code="too_long")))
    assert world.run() is Came.DONE
    assert world.provider.tried["event-3"] == 1
    assert world.records[3].outcome is Outcome.ERRORED
    assert "too long" in world.output()[3]["summarize_status"]
    world.check(calls_billed=ITEMS - 1)


def test_an_invalid_answer_is_tried_again_and_both_are_paid_for(world: World) -> None:
    world.provider.call = for_event("event-3", lambda sent, number: bad(sent) if number == 1 else good(sent))
    assert world.run() is Came.DONE
    assert world.outcomes == [Outcome.SUCCEEDED] * ITEMS
    world.check(calls_billed=ITEMS + 1)


def test_an_answer_that_stays_invalid_ends_so_after_the_attempts(world: World) -> None:
    world.provider.call = for_event("event-3", lambda sent, _: bad(sent))
    assert world.run() is Came.DONE
    assert world.records[3].outcome is Outcome.INVALID
    world.check(calls_billed=ITEMS - 1 + 3)


def test_a_truncated_answer_gets_four_times_the_room_once(world: World) -> None:
    limits: list[int] = []

    def call(sent: Sent, _: int) -> ItemResult:
        limits.append(sent.limit)
        return cut_off(sent)

    world.provider.call = for_event("event-3", call)
    assert world.run() is Came.DONE
    assert limits == [LIMIT, 4 * LIMIT]
    assert world.records[3].outcome is Outcome.TRUNCATED
    world.check(calls_billed=ITEMS + 1)


def test_a_refusal_is_final(world: World) -> None:
    refused = ItemResult("", Outcome.REFUSED, "", USAGE, code="refusal", detail="I'd rather not", billed=True)
    world.provider.call = for_event("event-3", lambda _sent, _number: refused)
    assert world.run() is Came.DONE
    assert world.provider.tried["event-3"] == 1
    assert world.records[3].outcome is Outcome.REFUSED
    world.check(calls_billed=ITEMS)


def test_a_result_that_says_not_now_is_tried_again(world: World) -> None:
    later = ItemResult("", Outcome.ERRORED, code="overloaded", transient=True)
    world.provider.call = for_event("event-3", lambda sent, number: later if number < 3 else good(sent))
    assert world.run() is Came.DONE
    assert world.outcomes == [Outcome.SUCCEEDED] * ITEMS
    world.check(calls_billed=ITEMS)


@pytest.mark.parametrize("error", [AuthRefused, QuotaExhausted])
def test_an_account_problem_pauses_with_the_rest_open(world: World, error: type[ProviderError]) -> None:
    world.provider.call = for_event("event-2", raising(error("see your account"), times=1))
    assert world.run() is Came.PAUSED
    assert world.job.message == "see your account"
    assert world.provider.tried["event-2"] == 1
    assert world.records[2].outcome is None
    assert world.records[5].outcome is None
    world.check(calls_billed=world.spent.calls)
    made = len(world.provider.executed)
    assert world.spent.calls == made
    resume(world.project, world.task_id)
    assert world.run() is Came.DONE
    assert world.outcomes == [Outcome.SUCCEEDED] * ITEMS
    world.check(calls_billed=ITEMS)


@pytest.mark.parametrize("first", [bad, cut_off])
def test_an_account_problem_after_a_paid_attempt_leaves_the_item_open(
    world: World, first: Callable[[Sent], ItemResult]
) -> None:
    """The attempt is paid for and recorded; whether the item can be answered is not decided by it."""

    def call(sent: Sent, number: int) -> ItemResult:
        if number == 2:
            raise QuotaExhausted("top it up")
        return first(sent) if number == 1 else good(sent)

    world.provider.call = for_event("event-2", call)
    assert world.run() is Came.PAUSED
    assert world.records[2].outcome is None
    resume(world.project, world.task_id)
    assert world.run() is Came.DONE
    assert world.outcomes == [Outcome.SUCCEEDED] * ITEMS
    world.check(calls_billed=ITEMS + 1)


def test_a_result_that_speaks_of_the_account_pauses_too(world: World) -> None:
    quota = ItemResult("", Outcome.ERRORED, code="insufficient_quota", detail="top it up")
    world.provider.call = for_event("event-2", lambda sent, number: quota if number == 1 else good(sent))
    assert world.run() is Came.PAUSED
    assert world.records[2].outcome is None
    resume(world.project, world.task_id)
    assert world.run() is Came.DONE
    assert world.outcomes == [Outcome.SUCCEEDED] * ITEMS


def folders_of(world: World, kind: str) -> set[str]:
    folder = world.project.workspace.store / world.job.data_case / kind
    return {path.name for path in folder.iterdir()} if folder.exists() else set()


def test_a_job_that_is_answered_soon_makes_no_folder_of_what_waits(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[object] = []
    monkeypatch.setattr(concurrent, "expect_folders", lambda *arguments: made.append(arguments))
    assert world.run() is Came.DONE
    assert made == []
    assert len(folders_of(world, "processed")) == ITEMS


def test_a_job_that_waits_for_its_account_shows_what_waits(world: World) -> None:
    world.provider.call = for_event("event-2", raising(QuotaExhausted("top it up"), times=1))
    assert world.run() is Came.PAUSED
    waiting, done = folders_of(world, "to_process"), folders_of(world, "processed")
    assert len(done) == world.outcomes.count(Outcome.SUCCEEDED)
    assert (len(waiting | done), waiting & done) == (ITEMS, set())
    resume(world.project, world.task_id)
    assert world.run() is Came.DONE
    assert (folders_of(world, "to_process"), len(folders_of(world, "processed"))) == (set(), ITEMS)


def test_what_has_failed_is_shown_among_what_is_still_to_do(world: World) -> None:
    world.provider.call = for_event("event-3", raising(RequestRejected("too long", code="too_long")))
    assert world.run() is Came.DONE
    assert (len(folders_of(world, "to_process")), len(folders_of(world, "processed"))) == (1, ITEMS - 1)


def test_a_job_that_takes_its_time_shows_what_waits_beside_its_calls(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the end: what is answered next is filed at once."""
    expected, shown = list[int](), threading.Event()

    def expecting(project: Project, job: Job, chosen: list[int]) -> int:
        made = expect_folders(project, job, chosen)
        expected.extend(chosen)
        shown.set()
        return made

    def call(sent: Sent, _: int) -> ItemResult:
        assert sent.event == "event-0" or shown.wait(30)
        return good(sent)

    monkeypatch.setattr(concurrent, "expect_folders", expecting)
    monkeypatch.setattr(concurrent, "EXPECT_AFTER_SECONDS", 0.0)
    monkeypatch.setattr(concurrent, "FILE_EVERY", 2)
    world.provider.call = call
    assert world.run() is Came.DONE
    assert expected[:2] == [ITEMS - 2, ITEMS - 1]
    assert (folders_of(world, "to_process"), len(folders_of(world, "processed"))) == (set(), ITEMS)


def stopping_at(world: World, event: str, number: int, then: Callable[[Sent], ItemResult]) -> Call:
    """Ctrl-C arrives while this very call is in flight."""

    def call(sent: Sent, tried: int) -> ItemResult:
        if tried == number:
            world.stop.set()
        return then(sent) if tried <= number else good(sent)

    return for_event(event, call)


def not_now(_: Sent) -> ItemResult:
    return ItemResult("", Outcome.ERRORED, code="overloaded", transient=True)


def hung_up(_: Sent) -> ItemResult:
    raise ConnectionFailed


def test_a_stop_keeps_what_was_in_flight_and_leaves_the_rest_open(world: World) -> None:
    world.provider.call = stopping_at(world, "event-2", 1, good)
    assert world.run() is Came.STOPPED
    assert world.outcomes[:3] == [Outcome.SUCCEEDED] * 3
    assert world.outcomes[3:] == [None] * 3
    assert world.job.phase is Phase.RUNNING
    world.check(calls_billed=3)
    world.stop.clear()
    assert world.run() is Came.DONE
    world.check(calls_billed=ITEMS)


@pytest.mark.parametrize("then", [bad, cut_off, not_now, hung_up])
@pytest.mark.parametrize("number", [1, 2])
def test_a_stop_between_two_attempts_leaves_the_item_open(
    world: World, then: Callable[[Sent], ItemResult], number: int
) -> None:
    """Interrupted before its attempts were used up, an item is not failed: it is answered after the restart."""
    if then is cut_off and number == 2:
        return  # the wider attempt was cut off as well: that is its end
    world.provider.call = stopping_at(world, "event-2", number, then)
    assert world.run() is Came.STOPPED
    assert world.records[2].outcome is None
    world.stop.clear()
    assert world.run() is Came.DONE
    assert world.outcomes == [Outcome.SUCCEEDED] * ITEMS
    billed = sum(result.billed for result in world.provider.executed)
    world.check(calls_billed=billed)


def test_a_stop_does_not_wait_out_a_retry_after(make_world: MakeWorld) -> None:
    """Everybody waits as long as was asked for, and a stop ends that wait at once."""
    concurrent = {"max_workers": 2, "attempts": 3, "min_wait_seconds": 0, "max_wait_seconds": 0}
    world = make_world(Mode.CONCURRENT, concurrent=concurrent)

    def call(sent: Sent, _: int) -> ItemResult:
        if sent.event == "event-3":
            raise RateLimited("later", retry_after_seconds=25)
        return good(sent)

    def stop_when_it_waits(progress: Progress) -> None:
        if "cooling down until" in progress.detail:
            world.stop.set()

    world.provider.call = call
    assert advance(world.project, world.task_id, stop_when_it_waits, world.stop).came is Came.STOPPED
    assert world.provider.tried["event-3"] == 1
    assert world.records[3].outcome is None
    world.check(calls_billed=world.spent.calls)


def test_a_long_retry_after_gives_the_thread_back_and_nobody_calls_before(world: World) -> None:
    """The job comes again when the time is over; what was refused lost none of its attempts."""
    begun: list[float] = []

    def call(sent: Sent, number: int) -> ItemResult:
        begun.append(world.clock.now)
        if sent.event == "event-1" and number <= 5:
            raise RateLimited("later", retry_after_seconds=3600)
        return good(sent)

    world.provider.call = call
    first = world.advance()
    assert first.came is Came.WAIT
    assert 3590 < first.seconds <= 3600
    assert world.job.phase is Phase.RUNNING
    assert world.run() is Came.DONE
    assert world.outcomes == [Outcome.SUCCEEDED] * ITEMS
    assert world.provider.tried["event-1"] == 6
    refused = [at for at, later in pairwise(begun) if later - at >= 3590]
    assert len(refused) == 5
    world.check(calls_billed=ITEMS)


def waited(error: Exception, min_seconds: float, max_seconds: float) -> float:
    state = RetryCallState(Retrying(), None, (), {})
    state.set_exception((type(error), error, None))
    return Waiting(min_seconds, max_seconds)(state)


def test_waits_are_jittered_within_their_bounds() -> None:
    assert all(4 <= waited(ServerFailed(), 4, 10) <= 10 for _ in range(100))
    assert waited(ServerFailed(), 0, 0) == 0


def test_a_longer_retry_after_is_honoured_and_a_shorter_one_is_not() -> None:
    assert waited(RateLimited(retry_after_seconds=42), 4, 10) == 42
    assert waited(RateLimited(retry_after_seconds=1), 4, 10) >= 4
    assert waited(ValueError(), 0, 0) == 0


def test_answers_are_in_the_cache_before_the_ledger_counts_them(world: World) -> None:
    world.sql("CREATE TRIGGER full BEFORE INSERT ON calls BEGIN SELECT RAISE(ABORT, 'database or disk is full'); END")
    with pytest.raises(StoreError, match="disk is full"):
        world.run()
    prints = [item.fingerprint for item in read_items(world.project.workspace.plan(world.task_id))]
    assert world.project.cache.get(prints)
    assert world.outcomes == [None] * ITEMS
    assert world.spent.calls == 0


@pytest.mark.parametrize("which", ["sent", "received"])
def test_an_audit_file_that_can_not_be_written_is_the_stores_error(world: World, which: str) -> None:
    """Not a bug with a traceback: the operator is told, before anything is paid for."""
    workspace = world.project.workspace
    path = workspace.calls_sent(world.task_id) if which == "sent" else workspace.calls_received(world.task_id)
    path.mkdir(parents=True)
    with pytest.raises(BatchJobsError):
        world.run()
    assert world.provider.executed == []


def test_nothing_is_sent_twice_when_many_threads_work(make_world: MakeWorld) -> None:
    concurrent = {"max_workers": 8, "attempts": 3, "min_wait_seconds": 0, "max_wait_seconds": 0}
    world = make_world(Mode.CONCURRENT, concurrent=concurrent)
    world.provider.call = lambda sent, number: bad(sent) if number == 1 else good(sent)
    assert world.run() is Came.DONE
    assert set(world.provider.tried.values()) == {2}
    assert world.outcomes == [Outcome.SUCCEEDED] * ITEMS
    world.check(calls_billed=2 * ITEMS)


def test_the_job_says_how_it_went_in_order(world: World) -> None:
    world.run()
    with world.project.ledger.read() as connection:
        from batch_jobs.storage import events

        names = [event.name for event in events.of_job(connection, world.task_id)]
    assert names == [
        EventName.JOB_RECEIVED,
        EventName.JOB_PLANNED,
        EventName.JOB_STARTED,
        EventName.JOB_WRITING,
        EventName.JOB_DONE,
    ]


def test_what_was_refused_loses_no_attempt(make_world: MakeWorld) -> None:
    concurrent = {"max_workers": 1, "attempts": 1, "min_wait_seconds": 0, "max_wait_seconds": 0}
    world = make_world(Mode.CONCURRENT, concurrent=concurrent)
    world.provider.call = for_event("event-3", raising(RateLimited(), times=9))
    assert world.run() is Came.DONE
    assert world.provider.tried["event-3"] == 10
    assert world.outcomes == [Outcome.SUCCEEDED] * ITEMS


def test_refusals_are_bounded_by_time(make_world: MakeWorld) -> None:
    concurrent = {"max_workers": 1, "attempts": 1, "max_seconds": 0.05, "min_wait_seconds": 0, "max_wait_seconds": 0}
    world = make_world(Mode.CONCURRENT, concurrent=concurrent)
    world.provider.call = for_event("event-3", raising(RateLimited("slower", code="rate_limit_exceeded")))
    assert world.run() is Came.DONE
    assert (world.records[3].outcome, world.records[3].code) == (Outcome.ERRORED, "rate_limit_exceeded")


def test_an_outage_makes_the_job_wait_and_costs_its_items_nothing_more(make_world: MakeWorld) -> None:
    """Two items fail in a row, the breaker opens; one call at a time goes out to see, until the provider is back."""
    concurrent = {"max_workers": 2, "attempts": 3, "min_wait_seconds": 0.05, "max_wait_seconds": 0.1}
    world = make_world(Mode.CONCURRENT, concurrent={**concurrent, "breaker_failures": 2, "breaker_seconds": 60})
    down, tries = [True], []

    def call(sent: Sent, _: int) -> ItemResult:
        tries.append(sent.event)
        if down[0]:
            raise ServerFailed("overloaded", status=503, code="overloaded")
        return good(sent)

    world.provider.call = call
    waits = []
    for _ in range(5):
        advanced = world.advance()
        assert advanced.came is Came.WAIT
        waits.append(advanced.seconds)
        world.clock.now += advanced.seconds
    assert waits == pytest.approx([60, 120, 240, 300, 300], abs=5)
    made = len(tries)
    assert made <= 2 * 2 + 4  # the attempts that opened it, and one each time to see
    seen = view(world.project, world.task_id)
    assert seen.pool is not None and seen.pool["breaker"] == "open"
    assert world.outcomes == [None] * ITEMS
    down[0] = False
    assert world.run() is Came.DONE
    assert world.outcomes == [Outcome.SUCCEEDED] * ITEMS
    world.check(calls_billed=ITEMS)


def test_one_items_own_trouble_opens_no_breaker(make_world: MakeWorld) -> None:
    concurrent = {"max_workers": 1, "attempts": 20, "min_wait_seconds": 0, "max_wait_seconds": 0}
    world = make_world(Mode.CONCURRENT, concurrent={**concurrent, "breaker_failures": 2, "breaker_seconds": 60})
    world.provider.call = for_event("event-5", raising(ServerFailed("overloaded")))
    assert world.run() is Came.DONE
    assert world.provider.tried["event-5"] == 20
    assert world.outcomes.count(Outcome.SUCCEEDED) == ITEMS - 1


def test_never_more_paid_answers_than_workers_wait_to_be_durable(make_world: MakeWorld) -> None:
    concurrent = {"max_workers": 3, "attempts": 2, "min_wait_seconds": 0, "max_wait_seconds": 0}
    world = make_world(Mode.CONCURRENT, concurrent=concurrent)
    most: list[int] = []

    def call(sent: Sent, number: int) -> ItemResult:
        most.append(sum(world.provider.tried.values()) - world.spent.calls)
        return bad(sent) if number == 1 else good(sent)

    world.provider.call = call
    assert world.run() is Came.DONE
    assert max(most) <= 3
    world.check(calls_billed=2 * ITEMS)


def test_how_the_calls_went_is_in_the_status(world: World) -> None:
    world.provider.call = for_event("event-3", raising(RateLimited(), times=2))
    assert world.run() is Came.DONE
    found = view(world.project, world.task_id).as_json()["pool"]
    assert (found["attempts"], found["refused_429"], found["failed_calls"]) == (ITEMS + 2, 2, 0)
    assert found["items"] == {"waiting": 0, "in_flight": 0, "retrying": 0, "succeeded": ITEMS}
    assert found["breaker"] == "closed"


@pytest.mark.parametrize("text", ["", "[]", "{"])
def test_figures_that_can_not_be_read_are_none(world: World, text: str) -> None:
    assert world.run() is Came.DONE
    world.project.workspace.pool(world.task_id).write_text(text)
    assert view(world.project, world.task_id).pool is None
