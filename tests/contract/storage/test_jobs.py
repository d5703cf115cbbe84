"""Jobs: every field comes back, phases move only as the table says, and of two movers one wins."""

from __future__ import annotations

from dataclasses import fields, replace
from itertools import product
from pathlib import Path

import pytest

from batch_jobs.errors import JobNotFound, WrongMoment
from batch_jobs.models import PHASE_MOVES, EventName, Mode, Parameters, Phase, Status
from batch_jobs.storage import events, items, jobs, shards
from batch_jobs.storage.jobs import Job
from batch_jobs.storage.ledger import Ledger
from tests.contract.storage.kit import OTHER_ID, TASK_ID, a_shard, full_job


def test_every_field_comes_back(ledger: Ledger) -> None:
    with ledger.write() as connection:
        jobs.add(connection, full_job())
    with ledger.read() as connection:
        found = jobs.get(connection, TASK_ID)
    for field in fields(Job):
        assert getattr(found, field.name) == getattr(full_job(), field.name), field.name
        assert type(getattr(found, field.name)) is type(getattr(full_job(), field.name)), field.name


def test_empty_fields_come_back_empty(ledger: Ledger) -> None:
    optional = {
        field.name: None for field in fields(Job) if field.name.endswith(("_sha256", "_at", "_path", "endpoint"))
    }
    del optional["file_sha256"], optional["created_at"], optional["updated_at"]
    bare = full_job(**optional, outcome=None, message=None, plan=None, delivered={}, parameters=Parameters())
    with ledger.write() as connection:
        jobs.add(connection, bare)
    with ledger.read() as connection:
        assert jobs.get(connection, TASK_ID) == bare


def test_a_new_job_is_an_event(ledger: Ledger) -> None:
    with ledger.write() as connection:
        jobs.add(connection, full_job())
        assert [event.name for event in events.of_job(connection, TASK_ID)] == [EventName.JOB_RECEIVED]


@pytest.mark.parametrize(("before", "after"), list(product(Phase, Phase)))
def test_phases_move_only_as_the_table_says(ledger: Ledger, before: Phase, after: Phase) -> None:
    job = full_job(phase=before)
    with ledger.write() as connection:
        jobs.add(connection, job)
        if after in PHASE_MOVES[before]:
            jobs.move(connection, job, after, message="moved")
            found = jobs.get(connection, TASK_ID)
            assert (found.phase, found.message) == (after, "moved")
        else:
            with pytest.raises(WrongMoment, match=f"{before} can't become {after}"):
                jobs.move(connection, job, after)
            assert jobs.get(connection, TASK_ID).phase is before


def test_of_two_that_saw_the_same_phase_one_moves_the_job(ledger: Ledger, ledger_path: Path) -> None:
    with ledger.write() as connection:
        jobs.add(connection, full_job(phase=Phase.RUNNING))
    other = Ledger.open(ledger_path)
    with ledger.read() as one, other.read() as two:
        seen, also_seen = jobs.get(one, TASK_ID), jobs.get(two, TASK_ID)
    with other.write() as connection:
        jobs.move(connection, also_seen, Phase.CANCELLING)
    with pytest.raises(WrongMoment, match="is not running any more"), ledger.write() as connection:
        jobs.move(connection, seen, Phase.WRITING)
    with ledger.read() as connection:
        assert jobs.get(connection, TASK_ID).phase is Phase.CANCELLING
    other.close()


def test_change_leaves_the_phase_alone(ledger: Ledger) -> None:
    with ledger.write() as connection:
        jobs.add(connection, full_job())
        jobs.change(connection, TASK_ID, mode=Mode.BATCH, delivered={"/a": "b"}, round=7)
        found = jobs.get(connection, TASK_ID)
    assert found.updated_at > full_job().updated_at
    assert replace(found, updated_at=0) == replace(
        full_job(), mode=Mode.BATCH, delivered={"/a": "b"}, round=7, updated_at=0
    )
    with pytest.raises(AssertionError), ledger.write() as connection:
        jobs.change(connection, TASK_ID, phase=Phase.DONE)


def test_what_is_not_there_is_not_found(ledger: Ledger) -> None:
    with ledger.read() as connection, pytest.raises(JobNotFound, match=f"no job {OTHER_ID}"):
        jobs.get(connection, OTHER_ID)
    with ledger.read() as connection, pytest.raises(JobNotFound, match="32 characters"):
        jobs.get(connection, "../../etc/passwd")


@pytest.mark.parametrize("prefix", ["", "0", "01234", "012345%", "%%%%%%", "______", "0123456\n", "'; --xx", "ABCDEF"])
def test_no_short_or_strange_prefix_finds_a_job(ledger: Ledger, prefix: str) -> None:
    with ledger.write() as connection:
        jobs.add(connection, full_job())
        assert jobs.with_prefix(connection, prefix) == []
        assert jobs.with_prefix(connection, TASK_ID[:6]) == [TASK_ID]
        assert jobs.with_prefix(connection, TASK_ID) == [TASK_ID]


def test_newest_first_and_open_ones(ledger: Ledger) -> None:
    with ledger.write() as connection:
        for number, phase in enumerate(Phase):
            job = full_job(task_id=f"{number:032x}", created_at=float(number), phase=phase)
            jobs.add(connection, job)
        every = [job.created_at for job in jobs.newest(connection, 100)]
        assert every == sorted(every, reverse=True)
        assert len(jobs.newest(connection, 3)) == 3
        assert [job.phase for job in jobs.newest(connection, 100) if job.phase is Phase.DONE] == [Phase.DONE]
        assert Phase.DONE not in {job.phase for job in jobs.newest(connection, 100, unfinished_only=True)}
        assert jobs.delivered_to(connection) == set(full_job().delivered)
        assert jobs.alike(connection, file_sha256="a" * 64, simulated=0) == []
        assert [job.created_at for job in jobs.alike(connection, file_sha256="a" * 64, simulated=1)] == every


@pytest.mark.parametrize(
    ("phase", "status"),
    [
        (Phase.RECEIVED, Status.PENDING),
        (Phase.PLANNED, Status.PENDING),
        (Phase.RUNNING, Status.PROCESSING),
        (Phase.PAUSED, Status.PROCESSING),
        (Phase.CANCELLING, Status.PROCESSING),
        (Phase.WRITING, Status.PROCESSING),
        (Phase.DONE, Status.DONE),
    ],
)
def test_what_a_user_is_told(phase: Phase, status: Status) -> None:
    assert full_job(phase=phase).status is status


def test_a_removed_job_leaves_nothing_but_its_neighbour(ledger: Ledger) -> None:
    with ledger.write() as connection:
        for task_id in (TASK_ID, OTHER_ID):
            jobs.add(connection, full_job(task_id=task_id))
            items.add_all(connection, task_id, [(0, b"x", False)])
            shards.add(connection, replace(a_shard(), task_id=task_id))
        jobs.remove(connection, TASK_ID)
        assert [job.task_id for job in jobs.newest(connection, 10)] == [OTHER_ID]
        assert items.counts(connection, TASK_ID) == {}
        assert shards.of_job(connection, TASK_ID) == []
        assert events.of_job(connection, TASK_ID) == []
        assert items.counts(connection, OTHER_ID)["open"] == 1
