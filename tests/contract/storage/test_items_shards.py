"""Items and shards: what is closed never changes, what is counted is there, states move only as the table says."""

from __future__ import annotations

from dataclasses import fields
from itertools import product

import pytest

from batch_jobs.errors import StoreError
from batch_jobs.models import SHARD_MOVES, EventName, Outcome, Phase, ShardState
from batch_jobs.storage import calls, events, items, jobs, shards
from batch_jobs.storage.calls import CallRecord
from batch_jobs.storage.items import Ending
from batch_jobs.storage.ledger import Ledger
from batch_jobs.storage.shards import Shard
from tests.contract.storage.kit import OTHER_ID, TASK_ID, a_shard, full_job


def add_items(ledger: Ledger, total: int = 5, known: int = 0) -> None:
    with ledger.write() as connection:
        added = items.add_all(
            connection, TASK_ID, ((number, b"%032d" % number, number < known) for number in range(total))
        )
        assert added == total


def test_new_items_are_open_and_known_ones_are_not(ledger: Ledger) -> None:
    add_items(ledger, 5, known=2)
    with ledger.read() as connection:
        assert items.open_items(connection, TASK_ID) == [2, 3, 4]
        assert [item for item, _ in items.unassigned(connection, TASK_ID, 0)] == [2, 3, 4]
        assert items.counts(connection, TASK_ID) == {"open": 3, "succeeded": 2, "known": 2}
        assert list(items.fingerprints(connection, TASK_ID)) == [(0, b"%032d" % 0), (1, b"%032d" % 1)]


def test_many_items_go_in_and_come_out_in_chunks(ledger: Ledger) -> None:
    add_items(ledger, 25_000)
    with ledger.read() as connection:
        assert items.open_items(connection, TASK_ID) == list(range(25_000))
        assert list(items.some(connection, TASK_ID, list(range(25_000)))) == list(range(25_000))
        assert items.some(connection, TASK_ID, []) == {}


def test_an_assigned_item_is_in_one_shard_of_a_round(ledger: Ledger) -> None:
    add_items(ledger)
    with ledger.write() as connection:
        items.assign(connection, TASK_ID, [0, 3], 0, 7)
        assert [item for item, _ in items.unassigned(connection, TASK_ID, 0)] == [1, 2, 4]
        assert [item for item, _ in items.unassigned(connection, TASK_ID, 1)] == [0, 1, 2, 3, 4]
        of_an_older_version = a_shard(7)
        for shard in (of_an_older_version, a_shard(7, first_item=0, last_item=3)):
            found = items.of_shard(connection, shard)
            assert {item: record.attempts for item, record in found.items()} == {0: 1, 3: 1}
        items.assign(connection, TASK_ID, [3], 1, 0)
        assert list(items.of_shard(connection, a_shard(7, first_item=0, last_item=3))) == [0]
        assert items.some(connection, TASK_ID, [3])[3].attempts == 2


def test_a_closed_item_never_changes(ledger: Ledger) -> None:
    add_items(ledger)
    with ledger.write() as connection:
        first = Ending(1, Outcome.REFUSED, Outcome.REFUSED, "code", "detail")
        items.end(connection, TASK_ID, [first], round_no=0)
        before = items.some(connection, TASK_ID, [1])
        for outcome in Outcome:
            again = Ending(1, outcome, outcome, "other", "other")
            items.end(connection, TASK_ID, [again], round_no=5, attempts=1)
        items.close_open(connection, TASK_ID, Outcome.CANCELLED)
        assert items.some(connection, TASK_ID, [1]) == before


def test_ending_twice_is_ending_once(ledger: Ledger) -> None:
    add_items(ledger)
    ending = Ending(1, Outcome.INVALID, None, "schema", "no JSON")
    with ledger.write() as connection:
        items.end(connection, TASK_ID, [ending], round_no=0)
        before = items.some(connection, TASK_ID, [1])
        items.end(connection, TASK_ID, [ending], round_no=0)
        assert items.some(connection, TASK_ID, [1]) == before
        assert before[1].last_outcome is Outcome.INVALID
        assert before[1].outcome is None
        items.end(connection, TASK_ID, [], round_no=0)


def test_long_words_of_a_provider_are_cut(ledger: Ledger) -> None:
    add_items(ledger)
    with ledger.write() as connection:
        items.end(connection, TASK_ID, [Ending(0, Outcome.ERRORED, Outcome.ERRORED, "c" * 999, "d" * 9999)], round_no=0)
        outcome, code, detail = items.failures(connection, TASK_ID)[0]
    assert (outcome, len(code), len(detail)) == (Outcome.ERRORED, 100, 1000)


def test_what_is_open_is_closed_by_its_last_outcome(ledger: Ledger) -> None:
    add_items(ledger)
    with ledger.write() as connection:
        items.end(connection, TASK_ID, [Ending(0, Outcome.SUCCEEDED, Outcome.SUCCEEDED)], round_no=0)
        items.end(connection, TASK_ID, [Ending(1, Outcome.EXPIRED, None, "batch_expired", "late")], round_no=0)
        assert items.close_open(connection, TASK_ID, Outcome.MISSING) == 4
        assert items.close_open(connection, TASK_ID, Outcome.CANCELLED) == 0
        assert items.counts(connection, TASK_ID) == {"succeeded": 1, "expired": 1, "missing": 3, "known": 0}
        failures = items.failures(connection, TASK_ID)
    assert failures[1] == (Outcome.EXPIRED, "batch_expired", "late")
    assert failures[2] == (Outcome.MISSING, "", "")
    assert sorted(failures) == [1, 2, 3, 4]


def test_jobs_do_not_see_each_others_items(ledger: Ledger) -> None:
    add_items(ledger)
    with ledger.write() as connection:
        items.add_all(connection, OTHER_ID, [(0, b"other", False)])
        items.close_open(connection, OTHER_ID, Outcome.CANCELLED)
        assert items.counts(connection, TASK_ID)["open"] == 5


def test_every_field_of_a_shard_comes_back(ledger: Ledger) -> None:
    with ledger.write() as connection:
        shards.add(connection, a_shard())
        found = shards.get(connection, a_shard())
    for field in fields(Shard):
        assert getattr(found, field.name) == getattr(a_shard(), field.name), field.name
        assert type(getattr(found, field.name)) is type(getattr(a_shard(), field.name)), field.name


@pytest.mark.parametrize(("before", "after"), list(product(ShardState, ShardState)))
def test_shards_move_only_as_the_table_says(ledger: Ledger, before: ShardState, after: ShardState) -> None:
    shard = a_shard(state=before)
    with ledger.write() as connection:
        shards.add(connection, shard)
        if after in SHARD_MOVES[before]:
            moved = shards.move(connection, shard, after, file_id="moved")
            assert (moved.state, moved.file_id) == (after, "moved")
        else:
            with pytest.raises(StoreError, match=f"{before} can't become {after}"):
                shards.move(connection, shard, after)
            assert shards.get(connection, shard).state is before


def test_a_shard_that_has_moved_meanwhile_is_left_alone(ledger: Ledger) -> None:
    with ledger.write() as connection:
        shards.add(connection, a_shard())
        shards.move(connection, a_shard(), ShardState.SUBMITTING)
        with pytest.raises(StoreError, match="is not rendered any more"):
            shards.move(connection, a_shard(), ShardState.SUBMITTING)
        with pytest.raises(AssertionError):
            shards.change(connection, a_shard(), state=ShardState.MERGED)


def test_shards_come_in_order_and_by_round(ledger: Ledger) -> None:
    order = [(1, 10), (0, 2), (1, 9), (0, 10), (0, 1)]
    with ledger.write() as connection:
        for round_no, number in order:
            shards.add(connection, a_shard(number, round_no, batch_id=f"b{round_no}-{number}"))
        assert [(s.round, s.shard) for s in shards.of_job(connection, TASK_ID)] == sorted(order)
        assert [s.shard for s in shards.of_job(connection, TASK_ID, 1)] == [9, 10]
        taken = shards.taken_batch_ids(connection, a_shard(10, 1))
    assert taken == {"b0-2", "b1-9", "b0-10", "b0-1"}


def test_how_long_batches_took(ledger: Ledger) -> None:
    with ledger.write() as connection:
        jobs.add(connection, full_job(phase=Phase.DONE, simulated=False))
        assert shards.typical_seconds(connection, "openai", "model-1", simulated=False) is None
        for number, seconds in enumerate([10, 1000, 30, 20, 40]):
            shards.add(connection, a_shard(number, submitted_at=100.0, ended_at=100.0 + seconds))
        shards.add(connection, a_shard(9, ended_at=None))
        assert shards.typical_seconds(connection, "openai", "model-1", simulated=False) == 30
        assert shards.typical_seconds(connection, "openai", "model-1", simulated=True) is None
        assert shards.typical_seconds(connection, "openai", "other", simulated=False) is None
        assert shards.typical_seconds(connection, "gemini", "model-1", simulated=False) is None


def a_call(number: int, **changes: object) -> CallRecord:
    values: dict[str, object] = {
        "call_id": f"call-{number}",
        "task_id": TASK_ID,
        "item": number,
        "mode": "batch",
        "model": "model-1",
        "outcome": "succeeded",
        "input_tokens": 100,
        "cached_tokens": 50,
        "output_tokens": 10 * number,
        "cost_usd": 0.25,
        "at": float(number),
    }
    return CallRecord(**{**values, **changes})  # type: ignore[arg-type]


def test_a_call_is_recorded_once(ledger: Ledger) -> None:
    with ledger.write() as connection:
        calls.add_all(connection, [a_call(1), a_call(2)])
        calls.add_all(connection, [a_call(2, cost_usd=99.0), a_call(3), a_call(3, cost_usd=99.0)])
        calls.add_all(connection, [])
        spent = calls.spent(connection, TASK_ID)
    assert spent == calls.Spent(3, 300, 150, 60, 0.75)


def test_a_job_without_calls_has_cost_nothing(ledger: Ledger) -> None:
    with ledger.read() as connection:
        assert calls.spent(connection, TASK_ID) == calls.Spent(0, 0, 0, 0, 0.0)
        assert calls.typical_output_tokens(connection, "model-1", simulated=False) is None


def test_typical_output_is_that_of_the_models_latest_jobs(ledger: Ledger) -> None:
    newer, rehearsal, other = "d" * 32, "e" * 32, "f" * 32
    with ledger.write() as connection:
        jobs.add(connection, full_job(simulated=False, created_at=1.0))
        jobs.add(connection, full_job(task_id=newer, simulated=False, created_at=2.0))
        jobs.add(connection, full_job(task_id=rehearsal, simulated=True, created_at=3.0))
        jobs.add(connection, full_job(task_id=other, simulated=False, model="other", created_at=4.0))
        calls.add_all(connection, [a_call(1), a_call(2), a_call(3)])
        calls.add_all(connection, [a_call(number, task_id=newer) for number in (4, 5)])
        calls.add_all(connection, [a_call(99, task_id=other, model="other"), a_call(100, task_id=rehearsal)])
        calls.add_all(connection, [a_call(number, kind=kind) for number, kind in ((6, "judge"), (7, "bundle"))])
        assert calls.typical_output_tokens(connection, "model-1", simulated=False, last=2, enough=2) == 45
        assert calls.typical_output_tokens(connection, "model-1", simulated=False, enough=5) == 30
        assert calls.typical_output_tokens(connection, "model-1", simulated=True, enough=1) == 1000
        assert calls.typical_output_tokens(connection, "model-1", simulated=False, enough=6) is None
        assert calls.typical_output_tokens(connection, "model-1", simulated=False) is None  # five say too little


def test_events_come_in_order_and_only_what_is_new(ledger: Ledger) -> None:
    names = [EventName.JOB_STARTED, EventName.ROUND_STARTED, EventName.SHARD_MERGED, EventName.ROUND_STARTED]
    with ledger.write() as connection:
        for number, name in enumerate(names):
            events.add(connection, TASK_ID, name, {"number": number, "text": "事故"})
            events.add(connection, OTHER_ID, EventName.JOB_DONE)
        found = events.of_job(connection, TASK_ID)
        assert [event.name for event in found] == names
        assert [event.data["number"] for event in found] == [0, 1, 2, 3]
        assert [event.event_id for event in found] == sorted(event.event_id for event in found)
        assert events.of_job(connection, TASK_ID, after=found[1].event_id) == found[2:]
        assert events.of_job(connection, TASK_ID, limit=1) == found[:1]
        assert events.named(connection, TASK_ID, EventName.ROUND_STARTED) == [found[1], found[3]]
        assert events.named(connection, TASK_ID, EventName.JOB_DONE) == []
