"""Several faults at once: those that exclude each other make a script, the others add up."""

from __future__ import annotations

import pytest

from batch_jobs import errors
from batch_jobs.models import BatchState, Dialect, Outcome
from providers.sandbox.behaviour import Fault, FaultKind, Route
from tests.contract.sandbox.way import Way, on


def outcome_of_create(way: Way) -> type[Exception] | None:
    try:
        way.create()
    except errors.ProviderError as error:
        return type(error)
    return None


@on()
def test_faults_of_one_route_are_met_one_after_the_other(way: Way) -> None:
    way.server.faulty(
        Fault(FaultKind.RATE_LIMITED, times=1, seconds=3, route=Route.CREATE),
        Fault(FaultKind.RATE_LIMITED, times=1, route=Route.CREATE),
        Fault(FaultKind.SERVER_ERROR, times=2, route=Route.CREATE),
        Fault(FaultKind.CONNECTION_RESET, times=1, route=Route.CREATE),
        Fault(FaultKind.REPLY_LOST, times=1),
    )
    met = [outcome_of_create(way) for _ in range(7)]
    limited, failed, broken = errors.RateLimited, errors.ServerFailed, errors.ConnectionFailed
    assert met == [limited, limited, failed, failed, broken, broken, None]
    assert len(way.found()) == 2  # the lost one and the last


@on()
def test_a_fault_of_the_request_and_faults_of_its_batch(way: Way) -> None:
    """The reply is lost, the batch shows late, half of it expires, and the results come slowly and turned around."""
    way.server.faulty(
        Fault(FaultKind.ACCEPT_LATE, times=1, seconds=100),
        Fault(FaultKind.LIST_LAG, times=1, seconds=100),
        Fault(FaultKind.BATCH_EXPIRES, times=1, share=0.5),
        Fault(FaultKind.DISORDER),
        Fault(FaultKind.SLOW_DRIP, route=Route.FETCH, seconds=0.05),
        Fault(FaultKind.DOWNLOAD_TRUNCATED, times=1),
    )
    with pytest.raises(errors.ConnectionFailed):
        way.create(items=4)
    for shown in (0, 0, 1):
        assert len(way.found(items=4)) == shown
        way.server.forward(100)
    (found,) = way.found(items=4)
    view = way.ended(found.batch_id)
    assert view.counts.failed == 2
    assert way.billed() == ["i0", "i1"]
    if way.wire.dialect is Dialect.GEMINI:
        assert (view.state, way.fetched(found.batch_id).files) == (BatchState.EXPIRED, [])
        return
    with pytest.raises(errors.UnreadableReply):
        way.fetched(found.batch_id)
    late = dict.fromkeys(("i2", "i3"), Outcome.EXPIRED)
    assert way.fetched(found.batch_id).outcomes == late | dict.fromkeys(("i0", "i1"), Outcome.SUCCEEDED)


@on()
def test_each_item_meets_its_own_fault(way: Way) -> None:
    wanted = {
        "i0": (FaultKind.ITEM_REFUSED, Outcome.REFUSED),
        "i1": (FaultKind.ITEM_TRUNCATED, Outcome.TRUNCATED),
        "i2": (FaultKind.ITEM_ERROR, Outcome.ERRORED),
        "i3": (FaultKind.ITEM_STATUS_ZERO, Outcome.ERRORED),
    }
    way.server.faulty(
        *(Fault(kind, match=f'-{item}"') for item, (kind, _) in wanted.items()),
        Fault(FaultKind.ITEM_DOUBLED, match='-i1"'),
        Fault(FaultKind.BAD_LINE, match='-i2"', code="replace"),
        Fault(FaultKind.ITEM_MISSING, match='-i4"'),
        Fault(FaultKind.ITEM_DOUBLED, match='-i4"'),
    )
    fetched = way.run(items=6)
    assert fetched.ids == ["i0", "i1", "i1", "i3", "i5"]
    assert fetched.unreadable == 1
    expected = {item: outcome for item, (_, outcome) in wanted.items() if item != "i2"}
    assert fetched.outcomes == expected | {"i5": Outcome.SUCCEEDED}
    assert way.billed() == ["i0", "i1", "i5"]


@on()
def test_faults_of_one_item_are_met_one_after_the_other(way: Way) -> None:
    way.server.faulty(
        Fault(FaultKind.ITEM_MISSING, match='-i0"', times=1),
        Fault(FaultKind.ITEM_ERROR, match='-i0"', times=1),
        Fault(FaultKind.ITEM_REFUSED, match='-i0"', times=1),
    )
    met = [way.run(items=1).outcomes.get("i0") for _ in range(4)]
    assert met == [None, Outcome.ERRORED, Outcome.REFUSED, Outcome.SUCCEEDED]


@on("openai-chat")
def test_faults_of_batches_are_met_one_after_the_other(way: Way) -> None:
    way.server.faulty(
        Fault(FaultKind.BATCH_FAILS, times=2),
        Fault(FaultKind.BATCH_EXPIRES, times=1),
        Fault(FaultKind.BATCH_CANCELLED, times=1),
    )
    states = [way.ended(way.create().batch_id).state for _ in range(5)]
    assert states == [
        *(BatchState.FAILED, BatchState.FAILED, BatchState.EXPIRED),
        *(BatchState.CANCELLED, BatchState.COMPLETED),
    ]


@on("openai-chat", "anthropic")
def test_lines_of_items_that_were_not_executed_can_be_spoilt_too(way: Way) -> None:
    way.server.faulty(
        Fault(FaultKind.BATCH_EXPIRES, share=0.0),
        Fault(FaultKind.ITEM_DOUBLED, match='-i0"'),
        Fault(FaultKind.ITEM_MISSING, match='-i1"'),
        Fault(FaultKind.ITEM_REFUSED, match='-i2"'),
    )
    fetched = way.run()
    assert fetched.ids == ["i0", "i0", "i2"]
    assert set(fetched.outcomes.values()) == {Outcome.EXPIRED}


@on()
def test_every_item_fails_and_some_in_their_own_way(way: Way) -> None:
    way.server.faulty(
        Fault(FaultKind.ONLY_ERROR_FILE, status=429),
        Fault(FaultKind.ITEM_MISSING, match='-i0"'),
        Fault(FaultKind.ITEM_TRUNCATED, match='-i1"'),
    )
    fetched = way.run()
    assert fetched.outcomes == dict.fromkeys(("i1", "i2"), Outcome.ERRORED)
    assert way.billed() == []


@on()
def test_a_share_of_batches_is_the_same_one_each_time(way: Way) -> None:
    """The content decides, so equal batches fare alike, whatever their ids."""
    way.server.faulty(Fault(FaultKind.COUNTS_LIE, code="total", share=0.5))
    tasks = [f"task{number}" for number in range(6)]
    sizes = [[way.ended(way.create(task=task).batch_id).counts.total for task in tasks] for _ in (1, 2)]
    assert sizes[0] == sizes[1]
    assert set(sizes[0]) == {3, 10}


@on()
def test_a_batch_whose_reply_was_lost_is_known_by_any_of_its_lines(way: Way) -> None:
    way.server.faulty(
        Fault(FaultKind.REPLY_LOST, times=1),
        Fault(FaultKind.ITEM_UNKNOWN_ID, match='-i0"', code="replace"),
        Fault(FaultKind.BAD_LINE, match='-i1"', code="replace"),
    )
    with pytest.raises(errors.ConnectionFailed):
        way.create()
    (found,) = way.found()
    assert way.provider.owns(way.ended(found.batch_id), way.shard()) is True


@on()
def test_a_batch_without_results_is_never_disowned(way: Way) -> None:
    """Whoever took it for another's would send it again."""
    way.server.faulty(Fault(FaultKind.REPLY_LOST, times=1), Fault(FaultKind.NO_FILES))
    with pytest.raises(errors.ConnectionFailed):
        way.create()
    (found,) = way.found()
    keyless = way.wire.dialect is Dialect.ANTHROPIC
    assert way.provider.owns(way.ended(found.batch_id), way.shard()) is (None if keyless else True)
