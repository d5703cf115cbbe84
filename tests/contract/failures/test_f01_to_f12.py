"""Failures 1 to 12 of docs/failures.md: lost creates, wrong accounts, error files, expiry, validation, sizes."""

from __future__ import annotations

import pytest

from batch_jobs.errors import ConfigError, KeyMissing
from batch_jobs.lifecycle.advance import Came
from batch_jobs.lifecycle.control import resume
from batch_jobs.models import Dialect, EventName, JobOutcome, Outcome, Phase, Status
from providers.sandbox.behaviour import Fault, FaultKind, Route
from tests.contract.failures.between import Between, Document
from tests.contract.failures.conftest import Start
from tests.contract.failures.kit import ROWS, anthropic, concurrently, every_dialect, gemini, only, openai, speaks

ALL = list(range(ROWS))
WEIGHT = 120
"""More than a row's request weighs by our estimate, which counts what is around the text, too; less than two."""
ROOM_FOR_TWO = {"batch_seconds": 20.0, "max_enqueued_tokens": 60}
"""By the sandbox's count, which is that of its bill: 26 a row."""
IN_TURN = {"parallel_transfers": 1}
LOST = [FaultKind.REPLY_LOST, FaultKind.ACCEPT_LATE]


@pytest.mark.parametrize("how", LOST)
@every_dialect
def test_f01_accepted_but_no_clear_answer(start: Start, how: FaultKind) -> None:
    job = start(Fault(how, times=1, seconds=12))
    assert job.advance().came is Came.WAIT
    assert (job.view.unknown_outcomes, job.view.stuck) == (1, True)
    assert job.run() is Came.DONE
    assert len(job.events(EventName.SHARD_UNKNOWN)) == len(job.events(EventName.SHARD_FOUND)) == 1
    assert (job.creates(), job.requests("create")) == (1, 1)
    job.assert_all_answered_once()


@every_dialect
def test_f01_killed_before_the_batch_id_was_stored(start: Start) -> None:
    job = start(behaviour={"batch_seconds": 20})
    assert job.advance().came is Came.WAIT
    job.forget_the_batch_id()
    assert job.run() is Came.DONE
    assert "a process died" in job.events(EventName.SHARD_UNKNOWN)[0].data["why"]
    assert job.requests("create") == 1
    job.assert_all_answered_once()


@every_dialect
def test_f01_what_was_not_accepted_is_sent_again_only_after_the_quarantine(start: Start) -> None:
    job = start(Fault(FaultKind.CONNECTION_RESET, route=Route.CREATE, times=1), submission={"quarantine_seconds": 900})
    job.advance()
    job.wait(800)
    job.advance()
    assert job.requests("create") == 1
    job.wait(101)
    assert job.run() is Came.DONE
    assert job.requests("create") == 2
    job.assert_all_answered_once()


@speaks(openai)
def test_f01_accepted_only_after_the_quarantine(start: Start) -> None:
    late = Fault(FaultKind.ACCEPT_LATE, seconds=1000, times=1)
    job = start(late, behaviour={"batch_seconds": 1500}, submission={"quarantine_seconds": 900})
    assert job.run() is Came.DONE
    assert (job.creates(), len(job.events(EventName.DOUBLE_CANCELLED))) == (2, 1)
    job.assert_all_answered_once()


@concurrently
@every_dialect
def test_f02_another_key_than_the_jobs(start: Start) -> None:
    job = start()
    right = job.environ.pop("THE_KEY")
    with pytest.raises(KeyMissing, match="THE_KEY is empty"):
        job.advance()
    job.environ["THE_KEY"] = "another-key"
    with pytest.raises(ConfigError, match="Set the same key and address again, then: batch-jobs resume"):
        job.advance()
    assert (job.view.status, job.requests("call")) == (Status.PROCESSING, 0)
    job.environ["THE_KEY"] = right
    assert job.run() is Came.DONE
    job.assert_all_answered_once()


@every_dialect
def test_f02_another_key_than_that_of_the_batch_under_way(start: Start) -> None:
    job = start(behaviour={"batch_seconds": 20})
    assert job.advance().came is Came.WAIT
    asked = job.requests("check")
    right = job.environ.pop("THE_KEY")
    with pytest.raises(KeyMissing, match="THE_KEY is empty"):
        job.advance()
    job.environ["THE_KEY"] = "another-key"
    with pytest.raises(ConfigError, match="was made with account"):
        job.advance()
    assert (job.view.phase, job.requests("check")) == (Phase.RUNNING, asked)
    job.environ["THE_KEY"] = right
    assert job.run() is Came.DONE
    job.assert_all_answered_once()


@speaks(openai)
def test_f03_only_an_error_file(start: Start) -> None:
    job = start(Fault(FaultKind.ONLY_ERROR_FILE, status=400, code="the_code"))
    assert job.run() is Came.DONE
    assert job.view.outcome is JobOutcome.FAILED
    assert job.answered() == []
    assert all("provider error (the_code" in status for status in job.statuses())
    assert job.view.reasons == {"provider error": ROWS}
    assert (job.billed(), job.sent()) == ([0] * ROWS, [ALL])


@speaks(openai)
def test_f04_an_empty_error_file_id(start: Start) -> None:
    job = start(Fault(FaultKind.EMPTY_IDS))
    assert job.run() is Came.DONE
    assert job.requests("fetch") == 1
    job.assert_all_answered_once()


@speaks(openai)
def test_f05_failed_rows_stand_in_a_file_of_their_own(start: Start) -> None:
    job = start(Fault(FaultKind.ITEM_ERROR, match=only(2), status=400, code="the_code"))
    assert job.run() is Came.DONE
    job.assert_failed(2, "provider error", "the_code")
    assert job.events(EventName.SHARD_FETCHED)[0].data["files"] == ["output.jsonl", "errors.jsonl"]


@speaks(openai)
def test_f06_counts_lie_and_lines_have_status_zero(start: Start) -> None:
    job = start(Fault(FaultKind.ITEM_STATUS_ZERO, match=only(1), times=1), Fault(FaultKind.COUNTS_LIE))
    assert job.run() is Came.DONE
    assert job.sent() == [ALL, [1]]
    job.assert_all_answered_once()


@speaks(openai)
def test_f07_an_http_error_with_no_error_beside_it(start: Start) -> None:
    job = start(Fault(FaultKind.ITEM_ERROR, match=only(3), status=404))
    assert job.run() is Came.DONE
    job.assert_failed(3, "provider error", "The server had an error")
    assert job.sent() == [ALL]


@speaks(openai)
def test_f07_an_answer_under_an_error_status_is_none(start: Start, between: Between) -> None:
    def spoil(lines: list[Document]) -> list[Document]:
        _line_of(0, lines)["response"]["status_code"] = 400
        return lines

    between.results(spoil)
    job = start(address=between.url)
    assert job.run() is Came.DONE
    job.assert_failed(0, "provider error", "status_400")


@speaks(openai)
def test_f07_status_200_with_an_unreadable_body(start: Start, between: Between) -> None:
    def spoil(lines: list[Document]) -> list[Document]:
        if len(lines) == ROWS:
            _line_of(0, lines)["response"]["body"] = "<html>"
        return lines

    between.results(spoil)
    job = start(address=between.url)
    assert job.run() is Came.DONE
    assert job.sent() == [ALL, [0]]
    assert job.view.outcome is JobOutcome.COMPLETE
    assert job.answered() == ALL


def _line_of(row: int, lines: list[Document]) -> Document:
    return next(line for line in lines if line["custom_id"].endswith(f"-i{row}"))


@every_dialect
def test_f08_expired_half_done(start: Start, dialect: Dialect) -> None:
    job = start(Fault(FaultKind.BATCH_EXPIRES, share=0.5, times=1))
    assert job.run() is Came.DONE
    assert job.answered() == ALL
    # Gemini hands nothing out of an expired batch: what was done in it can't be had, and is asked for again
    lost = dialect is gemini
    assert job.sent() == [ALL, ALL if lost else [2, 3]]
    assert job.billed() == ([2, 2, 1, 1] if lost else [1] * ROWS)


@speaks(openai)
def test_f09_the_queue_is_full_for_a_while(start: Start) -> None:
    job = start(Fault(FaultKind.BATCH_FAILS, code="token_limit_exceeded", times=2))
    assert job.run() is Came.DONE
    assert (job.creates(), job.sent()) == (3, [ALL])
    assert (job.view.round, job.attempts()) == (0, [1] * ROWS)
    assert [event.data["code"] for event in job.events(EventName.SHARD_REFUSED)] == ["token_limit_exceeded"] * 2
    job.assert_all_answered_once()


@speaks(openai, gemini)
def test_f09_the_queue_stays_full(start: Start) -> None:
    job = start(
        Fault(FaultKind.BATCH_FAILS, code="token_limit_exceeded"), rounds={"equal_errors_min": 3, "max_hours": 5}
    )
    assert job.run() is Came.PAUSED
    assert "Enqueued token limit reached" in str(job.view.message)
    assert (job.outcomes(), job.billed(), job.attempts()) == ([None] * ROWS, [0] * ROWS, [1] * ROWS)
    assert (job.view.round, len(job.events(EventName.ROUND_STARTED))) == (0, 1)
    job.behave()
    resume(job.project, job.task_id)
    assert job.run() is Came.DONE
    job.assert_all_answered_once()


@every_dialect
def test_f09_a_limit_is_learned_and_kept(start: Start) -> None:
    """Two rows at once fit into the queue: the third and fourth wait for room, in the same round."""
    job = start(behaviour=ROOM_FOR_TWO, provider={"limits": {"max_requests": 1}}, submission=IN_TURN)
    assert job.run() is Came.DONE
    assert job.sent() == [[0], [1], [2], [3]]
    assert (job.view.round, job.attempts()) == (0, [1] * ROWS)
    assert job.requests("queue_full") >= 1
    job.assert_all_answered_once()


@speaks(openai)
def test_f09_a_batch_that_can_never_fit_is_cut_smaller(start: Start) -> None:
    job = start(behaviour=ROOM_FOR_TWO)
    assert job.run() is Came.DONE
    assert job.sent()[0] == ALL
    assert sorted(item for shard in job.sent()[1:] for item in shard) == ALL
    assert [event.data["told"] for event in job.events(EventName.LIMIT_LEARNED)] == [True]
    assert (job.requests("queue_full"), job.view.round, job.attempts()) == (1, 0, [1] * ROWS)
    job.assert_all_answered_once()


@every_dialect
def test_f09_within_a_known_limit_nothing_is_refused(start: Start) -> None:
    limits = {"max_requests": 1, "max_enqueued_tokens": 2 * WEIGHT}
    job = start(behaviour=ROOM_FOR_TWO, provider={"limits": limits})
    assert job.advance().came is Came.WAIT
    room = job.view.waits_for_room
    assert room is not None
    assert (room.batches, room.of, room.max_tokens) == (2, ROWS, 2 * WEIGHT)
    assert job.run() is Came.DONE
    assert (job.requests("queue_full"), job.creates()) == (0, ROWS)
    job.assert_all_answered_once()


@speaks(openai, gemini)
def test_f10_the_batch_fails_at_validation(start: Start) -> None:
    job = start(Fault(FaultKind.BATCH_FAILS, code="invalid_json_line", message="Line 2 is no JSON.", line=2))
    assert job.run() is Came.DONE
    assert (job.view.outcome, job.answered()) == (JobOutcome.FAILED, [])
    assert all("Line 2 is no JSON" in status for status in job.statuses())
    assert (job.billed(), job.sent()) == ([0] * ROWS, [ALL])


@every_dialect
def test_f11_more_requests_than_a_batch_may_hold(start: Start) -> None:
    job = start(behaviour={"max_batch_requests": 3}, provider={"limits": {"max_requests": 3}})
    assert job.run() is Came.DONE
    assert job.sent() == [[0, 1, 2], [3]]
    assert job.creates() == 2
    job.assert_all_answered_once()


@every_dialect
def test_f11_more_bytes_than_a_batch_may_hold(start: Start) -> None:
    job = start(behaviour={"max_batch_bytes": 1500}, provider={"limits": {"max_bytes": 1500}})
    assert job.run() is Came.DONE
    assert [item for shard in job.sent() for item in shard] == ALL
    assert job.creates() == len(job.sent()) > 1
    job.assert_all_answered_once()


@speaks(openai)
def test_f11_a_shard_with_too_many_tasks_is_cut_smaller(start: Start) -> None:
    job = start(behaviour={"max_batch_requests": ROWS - 1})
    assert job.run() is Came.DONE
    assert [item for shard in job.sent()[1:] for item in shard] == ALL
    assert (job.view.round, job.attempts()) == (0, [1] * ROWS)
    job.assert_all_answered_once()


@speaks(anthropic, gemini)
def test_f11_a_shard_that_the_provider_finds_too_large(start: Start) -> None:
    job = start(behaviour={"max_batch_requests": ROWS - 1})
    assert job.run() is Came.DONE
    assert job.outcomes() == [Outcome.ERRORED] * ROWS
    assert job.answered() == []
    assert job.billed() == [0] * ROWS


@every_dialect
def test_f12_equal_rows_never_share_an_id(start: Start) -> None:
    job = start(told=(0, 1, 1, 0))
    assert job.run() is Came.DONE
    assert job.sent() == [[0, 1]]
    assert job.answered() == ALL
    assert job.billed() == [1, 1, 0, 0]
