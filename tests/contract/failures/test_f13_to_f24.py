"""Failures 13 to 24 of docs/failures.md: ids, missing and broken results, odd answers, money, retries, waiting."""

from __future__ import annotations

import time

import pytest

from batch_jobs.lifecycle.advance import Came
from batch_jobs.lifecycle.control import resume
from batch_jobs.models import EventName, JobOutcome, Phase, Status
from providers.sandbox.behaviour import Fault, FaultKind, Route
from tests.contract.failures.between import Between, Document
from tests.contract.failures.conftest import Start
from tests.contract.failures.kit import (
    LIMIT,
    ROWS,
    both_modes,
    concurrently,
    every_dialect,
    gemini,
    only,
    openai,
    speaks,
)
from tests.contract.sandbox.kit import tells_on

ALL = list(range(ROWS))
ATTEMPTS = 3


@every_dialect
def test_f13_results_come_in_another_order(start: Start) -> None:
    job = start(Fault(FaultKind.DISORDER))
    assert job.run() is Came.DONE
    assert job.received() == ALL[::-1]
    job.assert_all_answered_once()


@concurrently
@every_dialect
def test_f13_the_first_call_is_answered_last(start: Start) -> None:
    job = start(Fault(FaultKind.SLOW_REPLY, route=Route.CALL, match=only(0), seconds=0.1))
    assert job.run() is Came.DONE
    job.assert_all_answered_once()


@every_dialect
def test_f14_an_answer_belongs_to_the_id_it_came_under(start: Start, between: Between) -> None:
    """What a provider puts under another row's id is not found out; where it stands in the file says nothing."""

    def swap(lines: list[Document]) -> list[Document]:
        name = "key" if "key" in lines[0] else "custom_id"
        for line in lines:
            stem, _, item = line[name].rpartition("-i")
            line[name] = f"{stem}-i{ROWS - 1 - int(item)}"
        return lines

    between.results(swap)
    job = start(address=between.url)
    assert job.run() is Came.DONE
    assert job.statuses() == ["ok"] * ROWS
    assert all(tells_on(row["summary"], ROWS - 1 - number) for number, row in enumerate(job.rows()))


@every_dialect
def test_f14_an_answer_under_an_id_that_was_never_sent(start: Start) -> None:
    job = start(Fault(FaultKind.ITEM_UNKNOWN_ID, match=only(2), code="replace", times=1))
    assert job.run() is Came.DONE
    assert [event.data["custom_id"][:7] for event in job.events(EventName.RESULT_UNKNOWN_ID)] == ["unsent-"]
    assert job.sent() == [ALL, [2]]
    assert job.answered() == ALL


@every_dialect
def test_f15_a_row_is_missing_once(start: Start) -> None:
    job = start(Fault(FaultKind.ITEM_MISSING, match=only(2), times=1))
    assert job.run() is Came.DONE
    assert job.sent() == [ALL, [2]]
    job.assert_all_answered_once()


@speaks(openai)
def test_f15_a_row_is_missing_every_time(start: Start) -> None:
    job = start(Fault(FaultKind.ITEM_MISSING, match=only(2)), rounds={"max": 3})
    assert job.run() is Came.DONE
    assert job.sent() == [ALL, [2], [2]]
    job.assert_failed(2, "missing from the provider's results")


@every_dialect
def test_f15_every_row_is_missing(start: Start) -> None:
    """The provider has executed all and hands nothing out: the second round is paid, and nothing can prevent that."""
    job = start(Fault(FaultKind.NO_FILES, times=1))
    assert job.run() is Came.DONE
    assert job.sent() == [ALL, ALL]
    assert job.answered() == ALL


@pytest.mark.parametrize("code", [None, "no_newline"], ids=["cut", "no_newline"])
@every_dialect
def test_f16_the_download_is_cut_short(start: Start, code: str | None) -> None:
    job = start(Fault(FaultKind.DOWNLOAD_TRUNCATED, code=code, times=1))
    assert job.advance().came is Came.WAIT
    assert job.view.answered_items == 0
    assert "can be repeated" in job.events(EventName.PROVIDER_FAILED)[0].data["why"]
    assert job.run() is Came.DONE
    assert (job.requests("create"), job.requests("fetch")) == (1, 2)
    job.assert_all_answered_once()


@every_dialect
def test_f16_the_download_stalls(start: Start) -> None:
    job = start(Fault(FaultKind.DOWNLOAD_STALLED, times=1, seconds=30), provider={"timeout_seconds": 1})
    assert job.advance().came is Came.WAIT
    assert (job.view.answered_items, len(job.events(EventName.PROVIDER_FAILED))) == (0, 1)
    assert job.run() is Came.DONE
    assert (job.requests("create"), job.requests("fetch")) == (1, 2)
    job.assert_all_answered_once()


@every_dialect
def test_f17_a_line_that_can_not_be_read_between_the_others(start: Start) -> None:
    job = start(Fault(FaultKind.BAD_LINE, match=only(1)))
    assert job.run() is Came.DONE
    assert len(job.events(EventName.RESULT_UNREADABLE)) == 1
    assert job.sent() == [ALL]
    job.assert_all_answered_once()


@every_dialect
def test_f17_a_rows_own_line_can_not_be_read(start: Start) -> None:
    job = start(Fault(FaultKind.BAD_LINE, match=only(1), code="replace", times=1))
    assert job.run() is Came.DONE
    assert len(job.events(EventName.RESULT_UNREADABLE)) == 1
    assert job.sent() == [ALL, [1]]
    assert job.answered() == ALL


@every_dialect
def test_f18_cut_off_answers_get_a_larger_limit(start: Start) -> None:
    job = start(Fault(FaultKind.ITEM_TRUNCATED, match=str(LIMIT)))
    assert job.run() is Came.DONE
    assert job.view.outcome is JobOutcome.COMPLETE
    assert job.answered() == ALL
    assert job.billed() == [2] * ROWS


@both_modes
@every_dialect
def test_f18_an_answer_that_is_always_cut_off_is_paid_for_twice_at_most(start: Start) -> None:
    job = start(Fault(FaultKind.ITEM_TRUNCATED, match=only(3)))
    assert job.run() is Came.DONE
    job.assert_failed(3, "answer cut off at the output limit")
    assert job.billed() == [1, 1, 1, 2]


@both_modes
@every_dialect
def test_f19_a_refusal_is_not_asked_again(start: Start) -> None:
    job = start(Fault(FaultKind.ITEM_REFUSED, match=only(0)))
    assert job.run() is Came.DONE
    job.assert_failed(0, "refused by the model")
    assert job.billed() == [1] * ROWS


@both_modes
@every_dialect
def test_f20_an_answer_that_is_no_json(start: Start) -> None:
    job = start(Fault(FaultKind.ITEM_INVALID_JSON, match=only(2)))
    assert job.run() is Came.DONE
    job.assert_failed(2, "invalid answer")
    assert (job.billed(), job.repairs()) == ([1] * ROWS, 2)


@every_dialect
def test_f20_an_answer_of_another_shape_and_then_a_good_one(start: Start) -> None:
    job = start(Fault(FaultKind.ITEM_INVALID_JSON, match=only(2), code="schema", times=1))
    assert job.run() is Came.DONE
    assert job.answered() == ALL
    assert (job.billed(), job.repairs()) == ([1] * ROWS, 1)


@both_modes
@every_dialect
def test_f21_the_quota_is_used_up(start: Start) -> None:
    job = start(Fault(FaultKind.QUOTA_EXHAUSTED))
    assert job.run() is Came.PAUSED
    assert "money or quota is used up" in str(job.view.message)
    assert (job.view.status, job.creates(), job.billed()) == (Status.PROCESSING, 0, [0] * ROWS)
    job.behave()
    assert job.advance().came is Came.PAUSED  # nothing goes on by itself
    resume(job.project, job.task_id)
    assert job.run() is Came.DONE
    job.assert_all_answered_once()


@both_modes
@every_dialect
def test_f21_a_rate_limit_in_the_words_of_a_quota(start: Start, between: Between) -> None:
    def reword(document: Document) -> None:
        if "error" in document:
            error = document["error"].get("error", document["error"])
            error["message"] = "INSUFFICIENT QUOTA, please check your plan and billing details."

    between.documents(reword)
    limited = (Fault(FaultKind.RATE_LIMITED, route=route, times=1) for route in (Route.CREATE, Route.CALL))
    job = start(*limited, address=between.url)
    assert job.run() is Came.DONE
    assert not job.events(EventName.JOB_PAUSED)
    job.assert_all_answered_once()


@both_modes
@every_dialect
def test_f22_credit_runs_out_and_all_rows_end_alike(start: Start) -> None:
    low = Fault(FaultKind.ITEM_ERROR, status=400, message="Your credit balance is too low.")
    job = start(low, rounds={"equal_errors_min": 3, "equal_errors_share": 0.5})
    assert job.run() is Came.PAUSED
    assert "credit balance is too low" in str(job.view.message)
    assert (job.outcomes(), job.billed()) == ([None] * ROWS, [0] * ROWS)
    job.behave()
    resume(job.project, job.task_id)
    assert job.run() is Came.DONE
    job.assert_all_answered_once()


@concurrently
@every_dialect
def test_f23_a_failing_call_is_made_as_often_as_configured(start: Start) -> None:
    job = start(Fault(FaultKind.SERVER_ERROR, route=Route.CALL, match=only(1)), concurrent={"attempts": ATTEMPTS})
    assert job.run() is Came.DONE
    assert job.requests("call") == ROWS - 1 + ATTEMPTS
    job.assert_failed(1, "provider error")


@every_dialect
def test_f23_a_create_that_fails_is_made_once(start: Start) -> None:
    job = start(Fault(FaultKind.SERVER_ERROR, route=Route.CREATE))
    for _ in range(2):
        assert job.advance().came is Came.WAIT
        assert job.requests("create") == 1


@every_dialect
def test_f23_retry_after_is_waited_for(start: Start) -> None:
    job = start(Fault(FaultKind.RATE_LIMITED, route=Route.CREATE, seconds=30))
    advanced = job.advance()
    assert advanced.came is Came.WAIT and advanced.seconds >= 30


@concurrently
@speaks(openai, gemini)
def test_f23_a_call_waits_for_retry_after(start: Start) -> None:
    job = start(Fault(FaultKind.RATE_LIMITED, route=Route.CALL, match=only(0), times=1, seconds=0.2))
    began = time.monotonic()
    assert job.run() is Came.DONE
    assert time.monotonic() - began >= 0.2
    job.assert_all_answered_once()


@every_dialect
def test_f24_pending_for_days(start: Start) -> None:
    hours_96 = 96 * 3600
    job = start(behaviour={"batch_seconds": 30 * 24 * 3600})
    assert job.advance().came is Came.WAIT
    assert not job.view.stuck
    job.wait(hours_96)
    assert job.advance().came is Came.WAIT
    seen = job.view
    assert seen.stuck and seen.phase is Phase.RUNNING and seen.provider_state
    assert seen.seconds >= hours_96
    assert (job.requests("create"), job.sent()) == (1, [ALL])
