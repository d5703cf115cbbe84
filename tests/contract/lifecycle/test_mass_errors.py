"""Errors that hit a job as a whole: it pauses, nothing is given up, and `resume` sends what was hit again."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from batch_jobs.errors import QuotaExhausted
from batch_jobs.lifecycle.advance import Came
from batch_jobs.lifecycle.control import cancel, resume
from batch_jobs.lifecycle.view import view
from batch_jobs.models import ItemResult, Mode, Outcome, Phase
from tests.contract.lifecycle.conftest import MakeWorld
from tests.contract.lifecycle.kit import ITEMS, Sent, World, failed, good, ok

RULE = {"max": 3, "equal_errors_min": 4, "equal_errors_share": 0.5}
LOW_CREDIT = "Your credit balance is too low to access the API. (request req-{})"


def low_credit(sent: Sent) -> bytes:
    """A line's error as a provider words it: with an id of its own in each."""
    return failed(sent, 400, "invalid_request_error").replace(b"it is", LOW_CREDIT.format(sent.event).encode())


def rejected(sent: Sent) -> ItemResult:
    detail = LOW_CREDIT.format(sent.event)
    return ItemResult("", Outcome.ERRORED, code="invalid_request_error", detail=detail)


def test_equal_errors_of_a_batch_pause_the_job_and_resume_sends_them_again(make_world: MakeWorld) -> None:
    world = make_world(rounds=RULE)
    world.provider.reply = lambda sent: [ok(sent) if sent.event == "event-0" else low_credit(sent)]
    assert world.run() is Came.PAUSED
    assert "5 items ended in the same error" in str(world.job.message)
    assert "credit balance is too low" in str(world.job.message)
    assert world.outcomes.count(None) == 5
    assert len(world.provider.posts) == 1
    world.provider.reply = lambda sent: [ok(sent)]
    resume(world.project, world.task_id)
    assert world.run() is Came.DONE
    assert world.outcomes == [Outcome.SUCCEEDED] * ITEMS
    assert [len(batch.requests) for batch in world.provider.batches.values()] == [ITEMS, 5]
    world.check(calls_billed=ITEMS)


@pytest.mark.parametrize(
    "rule", [{"equal_errors_min": 6}, {"equal_errors_share": 0.9}], ids=["too few in number", "too few in share"]
)
def test_a_few_equal_errors_are_the_items_own(make_world: MakeWorld, rule: dict[str, Any]) -> None:
    world = make_world(rounds={**RULE, **rule})
    world.provider.reply = lambda sent: [ok(sent) if sent.event == "event-0" else low_credit(sent)]
    assert world.run() is Came.DONE
    assert world.outcomes.count(Outcome.ERRORED) == 5
    world.check(calls_billed=1)


def test_an_overload_that_lasts_all_rounds_pauses_too(make_world: MakeWorld) -> None:
    world = make_world(rounds=RULE)
    world.provider.reply = lambda sent: [failed(sent)]
    assert world.run() is Came.PAUSED
    assert len(world.provider.posts) == 3
    assert world.outcomes == [None] * ITEMS
    world.provider.reply = lambda sent: [ok(sent)]
    resume(world.project, world.task_id)
    assert world.run() is Came.DONE
    world.check(calls_billed=ITEMS)


def test_refusals_are_answers_and_pause_nothing(make_world: MakeWorld) -> None:
    world = make_world(Mode.CONCURRENT, rounds=RULE)
    world.provider.call = lambda *_: ItemResult("", Outcome.REFUSED, code="content_filter", billed=True)
    assert world.run() is Came.DONE
    assert world.outcomes == [Outcome.REFUSED] * ITEMS


def test_a_paused_job_can_be_ended_with_what_there_is(make_world: MakeWorld) -> None:
    world = make_world(rounds=RULE)
    world.provider.reply = lambda sent: [ok(sent) if sent.event == "event-0" else low_credit(sent)]
    world.run()
    cancel(world.project, world.task_id)
    assert world.run() is Came.DONE
    assert world.outcomes.count(Outcome.SUCCEEDED) == 1
    assert world.outcomes.count(Outcome.ERRORED) == 5  # each keeps its own error as the reason
    world.check(calls_billed=1)


def test_equal_errors_of_single_calls_stop_the_calls(make_world: MakeWorld) -> None:
    world = make_world(Mode.CONCURRENT, rounds={**RULE, "equal_errors_min": 2})
    world.provider.call = lambda sent, _: rejected(sent)
    assert world.run() is Came.PAUSED
    assert len(world.provider.executed) <= 4  # two, and what was in flight or queued
    assert world.outcomes == [None] * ITEMS
    world.provider.call = lambda sent, _: good(sent)
    resume(world.project, world.task_id)
    assert world.run() is Came.DONE
    assert world.outcomes == [Outcome.SUCCEEDED] * ITEMS
    assert view(world.project, world.task_id).calls == ITEMS


@pytest.mark.parametrize("again", [False, True], ids=["at first", "after a resume without a top-up"])
def test_an_empty_account_costs_one_call(make_world: MakeWorld, again: bool) -> None:
    """Not one a worker: the first call goes alone, also after each `resume`."""
    world = make_world(Mode.CONCURRENT, concurrent={"max_workers": 4, "attempts": 3, "min_wait_seconds": 0})

    def empty(*_: object) -> ItemResult:
        raise QuotaExhausted("top up")

    world.provider.call = empty
    assert world.run() is Came.PAUSED
    if again:
        resume(world.project, world.task_id)
        assert world.run() is Came.PAUSED
    assert sum(world.provider.tried.values()) == 1 + again
    assert world.outcomes == [None] * ITEMS
    world.provider.call = lambda sent, _: good(sent)
    resume(world.project, world.task_id)
    assert world.run() is Came.DONE
    world.check(calls_billed=ITEMS)


def test_an_account_that_runs_empty_stops_calls_that_wait_for_another_attempt(make_world: MakeWorld) -> None:
    """Of two calls in flight one finds the account empty; the other was to be tried again, and is not."""
    world = make_world(Mode.CONCURRENT, concurrent={"max_workers": 2, "attempts": 9, "min_wait_seconds": 0})
    emptied = threading.Event()

    def call(sent: Sent, number: int) -> ItemResult:
        if sent.event == "event-0":
            return good(sent)
        if sent.event == "event-1":
            emptied.set()
            raise QuotaExhausted("top up")
        assert emptied.wait(20)
        return ItemResult("", Outcome.ERRORED, code="overloaded_error", transient=True)

    world.provider.call = call
    assert world.run() is Came.PAUSED
    assert all(world.provider.tried[event] <= 3 for event in ("event-2", "event-3"))
    assert world.outcomes.count(None) == ITEMS - 1


def test_no_round_is_begun_after_the_time_is_up(make_world: MakeWorld) -> None:
    world = make_world(rounds={**RULE, "max": 20, "equal_errors_min": 100, "max_hours": 30})
    world.provider.reply = lambda sent: [failed(sent)]
    world.provider.before = lambda verb, _: setattr(world.clock, "now", world.clock.now + (verb == "fetch") * 20 * 3600)
    assert world.run() is Came.DONE
    assert len(world.provider.posts) == 2  # after 20 hours again, after 40 no more
    assert world.outcomes == [Outcome.ERRORED] * ITEMS


def test_a_resume_gives_new_time(make_world: MakeWorld) -> None:
    world = make_world(rounds={**RULE, "max_hours": 30})
    world.provider.reply = lambda sent: [low_credit(sent)]
    assert world.run() is Came.PAUSED
    world.clock.now += 100 * 3600
    world.provider.reply = lambda sent: [failed(sent) if len(world.provider.posts) == 2 else ok(sent)]
    resume(world.project, world.task_id)
    assert world.run() is Came.DONE
    assert world.job.phase is Phase.DONE
    assert world.outcomes == [Outcome.SUCCEEDED] * ITEMS


def test_nothing_is_paused_by_errors_from_before_a_resume(make_world: MakeWorld) -> None:
    world = make_world(rounds={**RULE, "equal_errors_min": 5})
    world.provider.reply = lambda sent: [low_credit(sent)]
    assert world.run() is Came.PAUSED
    world.provider.reply = lambda sent: [low_credit(sent) if sent.event == "event-3" else ok(sent)]
    resume(world.project, world.task_id)
    assert world.run() is Came.DONE
    assert world.outcomes.count(Outcome.ERRORED) == 1


def mixed(world: World) -> None:
    world.provider.reply = lambda sent: [low_credit(sent)]


def test_a_crash_between_merge_and_pause_loses_nothing(make_world: MakeWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """The errors are counted in the ledger, not in the memory of the process that merged them."""
    world = make_world(rounds=RULE)
    mixed(world)
    with monkeypatch.context() as patch:
        patch.setattr("batch_jobs.lifecycle.passes.pause_on_mass_error", _die)
        with pytest.raises(KeyboardInterrupt):
            world.run()
    assert world.run() is Came.PAUSED
    assert world.outcomes == [None] * ITEMS


def _die(*_: object) -> bool:
    raise KeyboardInterrupt
