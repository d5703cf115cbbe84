"""Failures 33 to 38 of docs/failures.md: single requests, uploads, storms, clocks, two workers, hidden errors."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from batch_jobs.cli.ending import exit_code
from batch_jobs.errors import EXIT_NOT_DONE, EXIT_ROWS_FAILED, BatchJobsError, JobHeld, StoreError
from batch_jobs.lifecycle.advance import Advanced, Came, advance
from batch_jobs.lifecycle.schedule import Poller
from batch_jobs.models import EventName, JobOutcome, Outcome, Phase, Status
from batch_jobs.storage import leases
from batch_jobs.storage.jobs import lease_name
from providers.sandbox.behaviour import Fault, FaultKind, Route
from tests.contract.failures.between import Between, Document, passing_on
from tests.contract.failures.conftest import Start
from tests.contract.failures.kit import (
    ROWS,
    anthropic,
    both_modes,
    every_dialect,
    gemini,
    only,
    open_project,
    openai,
    speaks,
)
from tests.contract.sandbox.kit import Server

ALL = list(range(ROWS))


@speaks(anthropic)
def test_f33_each_request_ends_in_its_own_way(start: Start) -> None:
    job = start(
        Fault(FaultKind.ITEM_ERROR, match=only(0), status=500, times=1),
        Fault(FaultKind.ITEM_EXPIRED, match=only(1), times=1),
        Fault(FaultKind.ITEM_STATUS_ZERO, match=only(2), times=1),
        Fault(FaultKind.ITEM_REFUSED, match=only(3)),
    )
    assert job.run() is Came.DONE
    assert job.sent() == [ALL, [0, 1, 2]]
    job.assert_failed(3, "refused by the model")


@speaks(anthropic)
def test_f33_an_errors_type_and_message_are_kept(start: Start) -> None:
    job = start(Fault(FaultKind.ITEM_ERROR, match=only(3), status=413))
    assert job.run() is Came.DONE
    assert job.sent() == [ALL]
    job.assert_failed(3, "request_too_large", "The server had an error while processing")


@speaks(openai, gemini)
def test_f34_the_provider_got_a_part_of_the_upload(start: Start, between: Between) -> None:
    looks = 0

    def short(document: Document) -> None:
        nonlocal looks
        name = "bytes" if document.get("purpose") == "batch" else "sizeBytes"
        if document.get("purpose") == "batch" or document.get("state") == "ACTIVE":
            looks += 1
            document[name] = type(document[name])(int(document[name]) - (10 if looks <= 2 else 0))

    between.documents(short)
    job = start(address=between.url)
    assert job.advance().came is Came.WAIT
    assert "The provider got" in job.events(EventName.PROVIDER_FAILED)[0].data["why"]
    assert job.creates() == 0
    assert job.run() is Came.DONE
    assert job.requests("create") == 1
    job.assert_all_answered_once()


@every_dialect
def test_f34_the_file_is_not_the_one_that_was_rendered(start: Start) -> None:
    job = start(Fault(FaultKind.RATE_LIMITED, times=1))
    assert job.advance().came is Came.WAIT
    path = job.project.workspace.shard(job.task_id, 0, 0)
    whole = path.read_bytes()
    path.write_bytes(whole[:-20])
    job.wait(60)  # longer than a refused shard waits
    with pytest.raises(StoreError, match="was changed after it was rendered"):
        job.advance()
    assert job.creates() == 0
    path.write_bytes(whole)
    assert job.run() is Came.DONE
    job.assert_all_answered_once()


@every_dialect
def test_f35_a_storm_while_a_batch_is_polled(start: Start) -> None:
    storm = (FaultKind.SERVER_ERROR, FaultKind.CONNECTION_RESET, FaultKind.SERVER_ERROR)
    job = start(*(Fault(kind, route=Route.CHECK, times=1, code=str(number)) for number, kind in enumerate(storm)))
    for failed, _ in enumerate(storm, 1):
        advanced = job.advance()
        assert advanced.came is Came.WAIT and advanced.seconds > 0
        assert (len(job.events(EventName.PROVIDER_FAILED)), job.view.phase) == (failed, Phase.RUNNING)
        assert job.requests("check") == failed
    assert job.run() is Came.DONE
    assert job.requests("create") == 1
    job.assert_all_answered_once()


@every_dialect
def test_f35_no_answer_to_a_poll(start: Start) -> None:
    job = start(Fault(FaultKind.HANG, route=Route.CHECK, times=1, seconds=30), provider={"timeout_seconds": 1})
    assert job.advance().came is Came.WAIT
    assert (len(job.events(EventName.PROVIDER_FAILED)), job.view.phase) == (1, Phase.RUNNING)
    assert job.run() is Came.DONE
    job.assert_all_answered_once()


@every_dialect
def test_f35_the_provider_can_not_be_reached(start: Start, sandbox: Server) -> None:
    with passing_on(sandbox.url) as between:
        job = start(address=between.url, behaviour={"batch_seconds": 60})
        assert job.advance().came is Came.WAIT
    assert job.advance().came is Came.WAIT
    assert "could not be reached" in job.events(EventName.PROVIDER_FAILED)[0].data["why"]
    assert (job.view.phase, job.outcomes()) == (Phase.RUNNING, [None] * ROWS)


@pytest.mark.parametrize("hours", [-3, 3])
def test_f36_the_clock_is_set_while_a_batch_is_under_way(start: Start, hours: int) -> None:
    job = start(behaviour={"batch_seconds": 20})
    assert job.advance().came is Came.WAIT
    job.clock.ahead += hours * 3600
    advanced = job.advance()
    assert advanced.came is Came.WAIT and 0 < advanced.seconds < 100
    assert job.run() is Came.DONE
    job.assert_all_answered_once()


@pytest.mark.parametrize("minutes", [-70, -10, 10, 70])
def test_f36_our_clock_is_not_the_providers_when_a_create_is_lost(start: Start, minutes: int) -> None:
    job = start(Fault(FaultKind.REPLY_LOST, times=1))
    job.clock.ahead += minutes * 60
    job.advance()
    job.wait(1000)
    assert job.run() is Came.DONE
    assert job.requests("create") == 1
    job.assert_all_answered_once()


def test_f36_a_run_that_a_suspend_has_delayed_is_made_up(start: Start) -> None:
    job = start()
    done = threading.Event()
    ended: list[Advanced | BatchJobsError] = []

    def tell(_: str, how: Advanced | BatchJobsError) -> None:
        ended.append(how)
        done.set()

    poller = Poller(job.project, ended=tell)
    try:
        poller.watch(job.task_id, seconds=-7200)
        assert done.wait(10)
    finally:
        poller.close()
    assert ended == [Advanced(Came.DONE)]
    job.assert_all_answered_once()


def test_f37_a_second_worker_is_told_who_works(start: Start) -> None:
    job = start()
    with leases.holding(job.project.ledger.engine, lease_name(job.task_id)):
        with pytest.raises(JobHeld, match="another process is working on this job") as held:
            job.advance()
        assert held.value.exit_code == EXIT_NOT_DONE
        assert job.creates() == 0
    assert job.run() is Came.DONE
    job.assert_all_answered_once()


@both_modes
def test_f37_many_workers_at_once(start: Start) -> None:
    job = start(Fault(FaultKind.SLOW_REPLY, route=Route.CREATE, seconds=0.1), concurrent={"max_workers": 2})
    projects = [open_project(job.config, job.environ, job.clock) for _ in range(3)]
    together = threading.Barrier(len(projects))

    def work(number: int) -> Came | None:
        together.wait(10)
        try:
            return advance(projects[number], job.task_id).came
        except JobHeld:
            return None

    with ThreadPoolExecutor(len(projects)) as pool:
        came = list(pool.map(work, range(len(projects))))
    for project in projects:
        project.close()
    assert set(came) <= {Came.DONE, None} and Came.DONE in came
    job.assert_all_answered_once()


@both_modes
@every_dialect
def test_f38_done_does_not_hide_that_rows_failed(start: Start) -> None:
    job = start(Fault(FaultKind.ITEM_ERROR, match=only(1), status=400))
    assert job.run() is Came.DONE
    seen = job.view
    assert (seen.status, seen.outcome, exit_code(seen)) == (Status.DONE, JobOutcome.PARTIAL, EXIT_ROWS_FAILED)
    assert (seen.succeeded, seen.failed, seen.reasons) == (ROWS - 1, 1, {"provider error": 1})
    job.assert_failed(1, "provider error")
    assert job.outcomes() == [Outcome.SUCCEEDED, Outcome.ERRORED, Outcome.SUCCEEDED, Outcome.SUCCEEDED]
