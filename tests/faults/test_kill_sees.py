"""The sweep can see: a bug that is planted in a run comes to light in the audit."""

from __future__ import annotations

import shutil
from dataclasses import replace
from typing import Any

import pytest

from tests.faults import steps
from tests.faults.killed_job import Bench, Case, KilledJob
from tests.faults.sweep import CASES

CLEAN = CASES["openai/clean"]
HASTY = {"BATCH_JOBS__SUBMISSION__QUARANTINE_SECONDS": "0"}
LATE = ({"kind": "accept_late", "route": "create", "times": 1, "seconds": 3},)


def lists_nothing(**named: Any) -> None:
    """Arm a run: it finds no batch that it made before, and is killed at a step."""
    from providers.openai import OpenAIProvider

    OpenAIProvider.find_batches = lambda *_: []  # type: ignore[method-assign]
    steps.kill_at(**named)


def answers_by_position(root: str, log: str) -> None:
    """Arm a run: the answers of two items are mixed up."""
    from providers.openai_codec import OpenAICodec

    parse = OpenAICodec.parse_line

    def swapped(codec: OpenAICodec, line: bytes) -> Any:
        result = parse(codec, line)
        other = {"i3": "i4", "i4": "i3"}.get(result.custom_id.rpartition("-")[2])
        return replace(result, custom_id=f"{result.custom_id.rpartition('-')[0]}-{other}") if other else result

    OpenAICodec.parse_line = swapped  # type: ignore[method-assign, assignment]


def forgets_a_call(root: str, log: str) -> None:
    """Arm a run: one call in each transaction is not in the books."""
    from batch_jobs.storage import calls

    add_all = calls.add_all
    calls.add_all = lambda connection, records: add_all(connection, list(records)[1:])


def ended(bench: Bench, case: Case, arm: str, **named: Any) -> KilledJob:
    """A job whose runs have a bug, done."""
    job = KilledJob(bench, case)
    while not job.once(arm=(f"{__name__}:{arm}", named)):
        assert job.runs < 5, "is not done"
        named = {**named, **({"name": "nowhere"} if "name" in named else {})}  # killed in the first run only
    return job


def found(job: KilledJob, words: str) -> None:
    """The audit finds the bug."""
    with pytest.raises(AssertionError, match=words):
        job.audit()
    shutil.rmtree(job.folder)


def test_no_quarantine_pays_twice(bench: Bench) -> None:
    job = KilledJob(bench, replace(CLEAN, faults=LATE, settings=HASTY, shard=40, batch_seconds=0.02))
    job.finish()
    found(job, "executed twice under one id")


def test_a_list_that_is_not_read_pays_twice(bench: Bench) -> None:
    done = str(bench.folder / "blind.killed")
    case = replace(CLEAN, batch_seconds=0.02)
    job = ended(bench, case, "lists_nothing", done=done, name="OpenAIProvider.create_batch * after")
    assert len(job.kills) == 1
    found(job, "executed twice under one id")


def test_mixed_up_rows(bench: Bench) -> None:
    found(ended(bench, CLEAN, "answers_by_position"), "row 3 is wrong")


def test_a_call_that_is_not_in_the_books(bench: Bench) -> None:
    found(ended(bench, CLEAN, "forgets_a_call"), "4 calls are not in the books")
