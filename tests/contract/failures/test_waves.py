"""Submission at scale against the sandbox: waves through a limited queue, shared by jobs and by processes."""

from __future__ import annotations

from itertools import chain

import pytest

from batch_jobs.lifecycle.advance import Came, advance
from batch_jobs.lifecycle.control import approve
from batch_jobs.lifecycle.receive import Order, receive
from batch_jobs.lifecycle.view import view
from batch_jobs.models import Dialect, EventName, Mode, Phase
from batch_jobs.storage import jobs
from tests.contract.failures.conftest import Start
from tests.contract.failures.kit import Job, every_dialect, openai
from tests.contract.sandbox.kit import Server, row_text
from tests.contract.storage.kit import together

EIGHT = tuple(range(8))
ROOM_FOR_THREE = {"batch_seconds": 20.0, "max_enqueued_tokens": 90}
"""By the sandbox's count: 26 tokens a row."""
WEIGHT = 120
"""A little more than a row weighs by our estimate."""
ADVANCE = """
import sys
from pathlib import Path
from batch_jobs.lifecycle.advance import advance
from tests.contract.failures.kit import Clock, open_project
config, key, ahead, task_id = sys.argv[1:]
project = open_project(Path(config), {"THE_KEY": key}, Clock(float(ahead)))
print("ready", flush=True)
sys.stdin.readline()
print(advance(project, task_id).came)
project.close()
"""


def peak(sandbox: Server, dialect: Dialect, batch_ids: set[str]) -> int:
    """The most tokens that were under way at once, of the batches that were let in."""
    accepted = [b for b in sandbox.get("creates")["creates"] if b["batch_id"] in batch_ids and not b["problems"]]
    assert {batch["dialect"] for batch in accepted} == {dialect}
    changes = chain.from_iterable(((b["created_at"], b["tokens"]), (b["ends_at"], -b["tokens"])) for b in accepted)
    under_way = most = 0
    for _, tokens in sorted(changes):
        under_way += tokens
        most = max(most, under_way)
    return most


def refused_in_spite_of_a_known_limit(job: Job) -> list[str]:
    """Shards that were sent after a limit was learned, and found no room all the same."""
    learned, sent_since, found = False, set[str](), list[str]()
    for event in job.events():
        learned = learned or event.name is EventName.LIMIT_LEARNED
        if event.name is EventName.SHARD_SUBMITTING and learned:
            sent_since.add(event.data["shard_key"])
        elif event.name is EventName.SHARD_REFUSED and event.data["shard_key"] in sent_since:
            found.append(event.data["shard_key"])
    return found


@pytest.mark.parametrize("workers", [1, 4])
@every_dialect
def test_eight_shards_go_through_room_for_three(start: Start, dialect: Dialect, workers: int) -> None:
    """The limit is met once, while nothing is known of it; from then on it is kept, and no row pays for it."""
    one_by_one = {"limits": {"max_requests": 1}}
    submission = {"parallel_transfers": workers}
    job = start(told=EIGHT, behaviour=ROOM_FOR_THREE, provider=one_by_one, submission=submission)
    assert job.run() is Came.DONE
    assert job.answered() == list(EIGHT)
    assert (job.view.round, len(job.events(EventName.ROUND_STARTED))) == (0, 1)
    assert job.billed() == [1] * 4
    assert 0 < peak(job.sandbox, dialect, job.batch_ids()) <= ROOM_FOR_THREE["max_enqueued_tokens"]
    unseen = 5 if dialect is openai else workers  # OpenAI tells only after the create, when all eight are sent
    assert 1 <= job.requests("queue_full") <= unseen
    assert not refused_in_spite_of_a_known_limit(job)


@every_dialect
def test_a_known_limit_is_never_exceeded_and_waves_are_planned(start: Start, dialect: Dialect) -> None:
    limits = {"max_requests": 1, "max_enqueued_tokens": 3 * WEIGHT}
    job = start(told=EIGHT, behaviour=ROOM_FOR_THREE, provider={"limits": limits})
    assert job.advance().came is Came.WAIT
    room = job.view.waits_for_room
    assert room is not None
    assert (room.batches, room.of, room.max_tokens) == (5, 8, 3 * WEIGHT)
    assert job.view.as_json()["waits_for_room"]["batches"] == 5
    assert job.run() is Came.DONE
    assert job.answered() == list(EIGHT)
    assert (job.requests("queue_full"), job.creates(), job.requests("create")) == (0, 8, 8)
    assert not job.events(EventName.SHARD_REFUSED)
    assert peak(job.sandbox, dialect, job.batch_ids()) <= 90


def second_job(job: Job, told: range) -> str:
    """Another job in the same store, for the same account, with rows of its own."""
    upload = job.config.parent / "second.csv"
    upload.write_text("number,event,what\n" + "".join(f'{n},{e},"{row_text(e)}"\n' for n, e in enumerate(told)))
    task_id = receive(job.project, Order(upload, upload.name, "summarize", "loss")).task_id
    assert advance(job.project, task_id).came is Came.CONFIRM
    with job.project.ledger.write() as connection:
        jobs.change(connection, task_id, mode=Mode.BATCH)
    approve(job.project, task_id)
    return task_id


def test_two_jobs_in_two_processes_share_one_limit(start: Start) -> None:
    limits = {"max_requests": 1, "max_enqueued_tokens": 3 * WEIGHT}
    job = start(behaviour=ROOM_FOR_THREE, provider={"limits": limits})
    both = job.task_id, second_job(job, range(4, 8))
    arguments = [[str(job.config), job.sandbox.key, str(job.clock.ahead), task_id] for task_id in both]
    assert together(ADVANCE, arguments) == [Came.WAIT, Came.WAIT]
    assert (job.creates(), job.requests("create"), job.requests("queue_full")) == (3, 3, 0)
    for _ in range(60):
        waits = [advance(job.project, task_id) for task_id in both]
        if all(advanced.came is Came.DONE for advanced in waits):
            break
        job.wait(max(advanced.seconds for advanced in waits))
    assert [view(job.project, task_id).phase for task_id in both] == [Phase.DONE] * 2
    assert [view(job.project, task_id).succeeded for task_id in both] == [4, 4]
    assert (job.creates(), job.requests("queue_full")) == (8, 0)
    assert peak(job.sandbox, openai, job.batch_ids()) <= 90
    assert job.billed() == [1] * 4


@every_dialect
def test_creates_keep_to_the_rate(start: Start) -> None:
    job = start(provider={"limits": {"max_requests": 1, "creates_per_minute": 1}})
    began = job.clock()
    assert job.advance().came is Came.WAIT
    assert job.creates() == 1
    assert job.run() is Came.DONE
    assert job.creates() == 4
    assert job.clock() - began >= 3 * 60
    job.assert_all_answered_once()
