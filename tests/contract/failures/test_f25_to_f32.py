"""Failures 25 to 32 of docs/failures.md: long and odd endings, files that pile up, cancelling, retention."""

from __future__ import annotations

import pytest

from batch_jobs.lifecycle.advance import Came
from batch_jobs.lifecycle.control import cancel, resume
from batch_jobs.models import Dialect, EventName, JobOutcome, Phase, Status
from providers.sandbox.behaviour import Fault, FaultKind, Route
from tests.contract.failures.between import Between, Document
from tests.contract.failures.conftest import Start
from tests.contract.failures.kit import (
    ROWS,
    anthropic,
    every_dialect,
    gemini,
    only,
    openai,
    speaks,
)

ALL = list(range(ROWS))


@speaks(openai)
def test_f25_all_done_but_finalizing_for_long(start: Start, between: Between) -> None:
    looks = 0

    def finalizing(document: Document) -> None:
        nonlocal looks
        if document.get("object") == "batch" and document["request_counts"]["completed"] == ROWS:
            looks += 1
            document["status"] = "finalizing" if looks <= 2 else document["status"]

    between.documents(finalizing)
    job = start(address=between.url)
    assert job.advance().came is Came.WAIT
    seen = job.view
    assert (seen.provider_state, seen.batch_done, seen.batch_total) == ("finalizing", ROWS, ROWS)
    assert seen.status is Status.PROCESSING
    assert job.run() is Came.DONE
    job.assert_all_answered_once()


@pytest.mark.parametrize(("route", "status"), [(Route.CHECK, 503), (Route.FETCH, 504)])
@speaks(gemini)
def test_f26_succeeded_but_not_to_be_had(start: Start, route: Route, status: int) -> None:
    job = start(Fault(FaultKind.SERVER_ERROR, route=route, status=status, times=3))
    assert job.advance().came is Came.WAIT
    assert job.view.status is Status.PROCESSING
    assert job.run() is Came.DONE
    assert (len(job.events(EventName.PROVIDER_FAILED)), job.requests("create")) == (3, 1)
    job.assert_all_answered_once()


@speaks(gemini)
def test_f27_files_do_not_pile_up(start: Start) -> None:
    job = start()
    assert job.run() is Came.DONE
    assert job.files() == []


@speaks(gemini)
def test_f27_an_output_file_that_can_not_be_deleted(start: Start) -> None:
    job = start(Fault(FaultKind.LONG_FILE_ID))
    assert job.run() is Came.DONE
    assert "40 characters" in job.events(EventName.SHARD_DISCARDED)[0].data["why"]
    assert job.files() == ["batch_output"]
    job.assert_all_answered_once()


@speaks(gemini)
def test_f27_the_storage_is_full(start: Start) -> None:
    full = "You have exceeded your file storage quota."
    job = start(Fault(FaultKind.SERVER_ERROR, route=Route.UPLOAD, status=429, message=full, times=1))
    assert job.advance().came is Came.WAIT
    assert full in job.events(EventName.PROVIDER_FAILED)[0].data["why"]
    assert job.run() is Came.DONE
    job.assert_all_answered_once()


@speaks(gemini)
def test_f28_succeeded_while_every_row_failed(start: Start) -> None:
    job = start(Fault(FaultKind.ONLY_ERROR_FILE, status=400))
    assert job.run() is Came.DONE
    assert job.events(EventName.SHARD_ENDED)[0].data["state"] == "BATCH_STATE_SUCCEEDED"
    assert (job.view.outcome, job.answered()) == (JobOutcome.FAILED, [])
    assert all("provider error (INVALID_ARGUMENT" in status for status in job.statuses())


@pytest.mark.filterwarnings("ignore:.*is not a valid JobState")  # so says Google's SDK
@speaks(gemini)
def test_f29_a_state_that_nobody_documented_is_waited_out(start: Start) -> None:
    job = start(Fault(FaultKind.UNKNOWN_STATE, seconds=20))
    assert job.advance().came is Came.WAIT
    assert (job.view.provider_state, job.view.phase) == ("BATCH_STATE_REVIEWING_SIM", Phase.RUNNING)
    assert job.run() is Came.DONE
    job.assert_all_answered_once()


@speaks(gemini)
def test_f29_states_that_are_no_end(start: Start, between: Between) -> None:
    word = ""

    def in_state(document: Document) -> None:
        if word and "metadata" in document:
            document["metadata"]["state"] = word

    between.documents(in_state)
    job = start(address=between.url)
    for word in ("JOB_STATE_QUEUED", "JOB_STATE_PAUSED", "BATCH_STATE_UPDATING", "BATCH_STATE_CANCELLING"):
        assert job.advance().came is Came.WAIT
        assert (job.view.provider_state, job.view.phase) == (word, Phase.RUNNING)
    word = ""
    assert job.run() is Came.DONE
    job.assert_all_answered_once()


@speaks(gemini)
def test_f29_partially_succeeded_is_taken_in(start: Start, between: Between) -> None:
    def partially(document: Document) -> None:
        if document.get("metadata", {}).get("state") == "BATCH_STATE_SUCCEEDED":
            document["metadata"]["state"] = "BATCH_STATE_PARTIALLY_SUCCEEDED"

    between.documents(partially)
    job = start(Fault(FaultKind.ITEM_MISSING, match=only(1), times=1), address=between.url)
    assert job.run() is Came.DONE
    assert job.sent() == [ALL, [1]]
    job.assert_all_answered_once()


@speaks(gemini)
def test_f29_results_stand_in_the_response_alone(start: Start, between: Between) -> None:
    def elsewhere(document: Document) -> None:
        if "response" in document:
            del document["metadata"]["output"]

    between.documents(elsewhere)
    job = start(address=between.url)
    assert job.run() is Came.DONE
    job.assert_all_answered_once()


@speaks(gemini)
def test_f29_results_of_a_file_job_come_inline(start: Start, between: Between) -> None:
    asked = 0

    def inline(document: Document) -> None:
        nonlocal asked
        if "response" in document and "responsesFile" in document["response"]:
            asked += 1
            found = job.lines_of(document["response"]["responsesFile"])
            responses = [{"metadata": {"key": line.pop("key")}, **line} for line in found]
            document["metadata"]["output"] = {"inlinedResponses": {"inlinedResponses": responses}}

    between.documents(inline)
    job = start(address=between.url)
    assert job.run() is Came.DONE
    assert job.requests("fetch") == asked  # all of them were the test's own
    job.assert_all_answered_once()


@speaks(openai, gemini)
def test_f30_the_uploaded_file_shows_late(start: Start) -> None:
    job = start(Fault(FaultKind.FILE_NOT_READY, seconds=0.1))
    assert job.run() is Came.DONE
    assert (job.requests("upload"), job.requests("create")) == (1 if job.dialect is openai else 2, 1)
    assert not job.events(EventName.PROVIDER_FAILED)
    job.assert_all_answered_once()


@every_dialect
def test_f31_cancelled_half_done(start: Start, dialect: Dialect) -> None:
    job = start(behaviour={"batch_seconds": 100})
    assert job.advance().came is Came.WAIT
    job.wait(60)
    cancel(job.project, job.task_id)
    assert job.run() is Came.DONE
    assert job.view.outcome is JobOutcome.CANCELLED
    assert job.billed() == [1, 1, 0, 0]
    # Gemini hands nothing out of a cancelled batch, though what was done is paid
    assert job.answered() == ([] if dialect is gemini else [0, 1])
    assert job.view.calls == len(job.answered())
    assert {status.partition(" (")[0] for status in job.statuses()} <= {"ok", "failed: cancelled"}


@every_dialect
def test_f31_cancelled_too_late(start: Start) -> None:
    job = start(behaviour={"batch_seconds": 20})
    assert job.advance().came is Came.WAIT
    job.wait(20)
    cancel(job.project, job.task_id)
    assert job.run() is Came.DONE
    assert (job.view.outcome, job.view.calls) == (JobOutcome.CANCELLED, ROWS)
    assert job.view.cost_usd > 0
    assert job.answered() == ALL


@every_dialect
def test_f31_cancelled_by_somebody_else(start: Start, dialect: Dialect) -> None:
    job = start(Fault(FaultKind.BATCH_CANCELLED, share=0.5, times=1))
    assert job.run() is Came.DONE
    assert (job.view.outcome, job.answered()) == (JobOutcome.COMPLETE, ALL)
    assert job.sent() == [ALL, ALL if dialect is gemini else [2, 3]]


@every_dialect
def test_f32_results_that_the_provider_no_longer_has(start: Start) -> None:
    job = start(Fault(FaultKind.SERVER_ERROR, route=Route.FETCH, status=404))
    assert job.run() is Came.PAUSED
    assert "(batch " in str(job.view.message)
    assert (job.creates(), job.outcomes()) == (1, [None] * ROWS)
    job.behave()
    resume(job.project, job.task_id)
    assert job.run() is Came.DONE
    assert job.creates() == 1
    assert sorted(job.received()) == ALL  # kept here, whatever becomes of them there
    job.assert_all_answered_once()


@speaks(anthropic)
def test_f32_results_that_were_archived(start: Start, between: Between) -> None:
    def archived(document: Document) -> None:
        if document.get("type") == "message_batch" and document["processing_status"] == "ended":
            document.update(archived_at="2026-11-21T00:00:00Z", results_url=None)

    between.documents(archived)
    job = start(address=between.url)
    assert job.run() is Came.PAUSED
    assert "has archived the results" in str(job.view.message)
    assert (job.creates(), job.requests("fetch")) == (1, 0)
