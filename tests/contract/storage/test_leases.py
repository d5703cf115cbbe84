"""Leases: one holder across processes, replaced when it is dead or late, and fenced out ever after."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from batch_jobs.errors import JobHeld
from batch_jobs.models import EventName
from batch_jobs.storage import events, leases
from batch_jobs.storage.leases import TTL_SECONDS, Lease
from batch_jobs.storage.ledger import Ledger
from tests.contract.storage.kit import TASK_ID, python, together

NAME = "job:x"
NOW = 1_000.0
FAR_FUTURE = 9e9

HOLD = """
import sys
from pathlib import Path
from batch_jobs.storage import leases
from batch_jobs.storage.ledger import Ledger
ledger = Ledger.open(Path(sys.argv[1]))
lease = leases.acquire(ledger.engine, sys.argv[2], leases.holder_name(), float(sys.argv[3]))
print(lease.token, flush=True)
sys.stdin.readline()
"""
RACE = """
import sys
from pathlib import Path
from batch_jobs.storage import leases
from batch_jobs.storage.ledger import Ledger
ledger = Ledger.open(Path(sys.argv[1]))
print("ready", flush=True)
sys.stdin.readline()
lease = leases.acquire(ledger.engine, sys.argv[2], leases.holder_name(), float(sys.argv[3]))
print(lease.token if lease else "held", flush=True)
sys.stdin.readline()
"""


def taken(ledger: Ledger, holder: str, now: float) -> Lease:
    lease = leases.acquire(ledger.engine, NAME, holder, now)
    assert lease is not None
    return lease


def alive(nonce: str) -> str:
    return f"{socket.gethostname()}:{os.getpid()}:{nonce}"


def test_one_at_a_time(ledger: Ledger) -> None:
    first = taken(ledger, alive("a"), NOW)
    assert first.token == 1
    assert leases.acquire(ledger.engine, NAME, alive("b"), NOW) is None
    assert leases.acquire(ledger.engine, NAME, alive("b"), NOW + TTL_SECONDS - 0.001) is None
    assert leases.current_holder(ledger.engine, NAME, NOW) == alive("a")


def test_two_names_are_two_leases(ledger: Ledger) -> None:
    taken(ledger, alive("a"), NOW)
    assert leases.acquire(ledger.engine, "job:y", alive("b"), NOW) is not None


def test_an_expired_one_is_replaced_and_the_token_grows(ledger: Ledger) -> None:
    tokens = [taken(ledger, f"elsewhere:{number}:x", NOW + number * TTL_SECONDS).token for number in range(4)]
    assert tokens == [1, 2, 3, 4]


def test_a_token_grows_also_over_releases(ledger: Ledger) -> None:
    tokens = []
    for number in range(4):
        lease = taken(ledger, alive(str(number)), NOW)
        tokens.append(lease.token)
        leases.release(ledger.engine, lease)
        assert leases.current_holder(ledger.engine, NAME, NOW) is None
    assert tokens == [1, 2, 3, 4]


def test_a_late_release_does_not_free_the_next_holders_lease(ledger: Ledger) -> None:
    old = taken(ledger, "elsewhere:1:x", NOW)
    taken(ledger, alive("new"), NOW + TTL_SECONDS)
    leases.release(ledger.engine, old)
    assert leases.acquire(ledger.engine, NAME, alive("third"), NOW + TTL_SECONDS) is None


def test_a_renewal_keeps_it(ledger: Ledger) -> None:
    lease = taken(ledger, alive("a"), NOW)
    leases.renew(ledger.engine, lease, NOW + TTL_SECONDS - 1)
    assert leases.acquire(ledger.engine, NAME, alive("b"), NOW + 2 * TTL_SECONDS - 2) is None
    assert leases.acquire(ledger.engine, NAME, alive("b"), NOW + 2 * TTL_SECONDS) is not None
    with pytest.raises(JobHeld):
        leases.renew(ledger.engine, lease, NOW + 2 * TTL_SECONDS)


def test_under_an_old_token_nothing_is_written(ledger: Ledger) -> None:
    old = taken(ledger, "elsewhere:1:x", NOW)
    new = taken(ledger, alive("new"), NOW + TTL_SECONDS)
    with pytest.raises(JobHeld, match="nothing is lost"), ledger.write(old) as connection:
        events.add(connection, TASK_ID, EventName.JOB_DONE)
    with ledger.write(new) as connection:
        assert events.of_job(connection, TASK_ID) == []
        events.add(connection, TASK_ID, EventName.JOB_STARTED)
    with ledger.read() as connection:
        assert [event.name for event in events.of_job(connection, TASK_ID)] == [EventName.JOB_STARTED]


def test_a_lease_that_was_never_given_writes_nothing(ledger: Ledger) -> None:
    with pytest.raises(JobHeld), ledger.write(Lease("job:unknown", alive("a"), 1)):
        raise AssertionError("the block must not begin")


def test_a_living_process_keeps_others_out_and_a_dead_one_does_not(ledger: Ledger, ledger_path: Path) -> None:
    """kill -9: the lease is replaced at once, though it is far from expired."""
    process = python(HOLD, str(ledger_path), NAME, str(FAR_FUTURE))
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "1\n"
        assert leases.acquire(ledger.engine, NAME, alive("me"), FAR_FUTURE) is None
        process.kill()
        process.communicate()
        assert leases.current_holder(ledger.engine, NAME, FAR_FUTURE) is None
        assert taken(ledger, alive("me"), FAR_FUTURE).token == 2
    finally:
        process.kill()
        process.communicate()


def test_a_killed_process_that_nobody_has_waited_for_is_dead_too(ledger: Ledger, ledger_path: Path) -> None:
    process = python(HOLD, str(ledger_path), NAME, str(FAR_FUTURE))
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "1\n"
        process.kill()
        assert process.stdout.read() == ""  # its files are closed: it is a zombie or about to be
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert taken(ledger, alive("me"), FAR_FUTURE).token == 2
    finally:
        process.communicate()


def test_a_holder_on_another_machine_is_only_replaced_when_it_is_late(ledger: Ledger) -> None:
    taken(ledger, "another-host:1:x", NOW)
    assert leases.acquire(ledger.engine, NAME, alive("me"), NOW + 1) is None
    assert leases.acquire(ledger.engine, NAME, alive("me"), NOW + TTL_SECONDS) is not None


def test_of_four_processes_one_gets_it(ledger_path: Path) -> None:
    answers = together(RACE, [[str(ledger_path), NAME, str(FAR_FUTURE)]] * 4)
    assert sorted(answers) == ["1", *["held"] * 3]


def test_holding_frees_it_also_when_the_block_raises(ledger: Ledger) -> None:
    with pytest.raises(ValueError, match="x"), leases.holding(ledger.engine, NAME) as lease:
        assert lease.token == 1
        with pytest.raises(JobHeld, match=NAME), leases.holding(ledger.engine, NAME):
            raise AssertionError("two holders")
        raise ValueError("x")
    with leases.holding(ledger.engine, NAME) as lease:
        assert lease.token == 2
