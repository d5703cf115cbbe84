"""Faults of requests: what the product's clients make of each, and whether the request was accepted."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime

import pytest

from batch_jobs import errors
from batch_jobs.models import BatchView, Dialect
from providers.sandbox.behaviour import Fault, FaultKind, Route
from tests.contract.sandbox.kit import Server
from tests.contract.sandbox.way import IMPATIENT, Way, on

# -- not accepted ---------------------------------------------------------------------------------------------


def refuses(way: Way, fault: Fault, expected: type[errors.ProviderError], seconds: float = 20) -> errors.ProviderError:
    """Meet a fault at a create that is not accepted, then create again without it."""
    shard = way.shard()
    file_id = way.provider.upload(shard)
    way.server.faulty(fault)
    with way.hurried(seconds) as hurried, pytest.raises(errors.ProviderError) as caught:
        hurried.provider.create_batch(shard, file_id)
    assert type(caught.value) is expected
    assert way.found() == []
    way.provider.create_batch(shard, file_id)
    assert len(way.found()) == 1
    return caught.value


@on()
def test_server_error(way: Way) -> None:
    fault = Fault(FaultKind.SERVER_ERROR, route=Route.CREATE, times=1, code="busy_sim", message="All is busy.")
    error = refuses(way, fault, errors.ServerFailed)
    assert (error.status, error.definite, error.transient) == (503, False, True)
    assert "All is busy" in error.message


@on()
def test_connection_reset(way: Way) -> None:
    fault = Fault(FaultKind.CONNECTION_RESET, route=Route.CREATE, times=1)
    assert not refuses(way, fault, errors.ConnectionFailed).definite


@on()
@pytest.mark.parametrize("seconds", [None, 17.0])
def test_rate_limited(way: Way, seconds: float | None) -> None:
    fault = Fault(FaultKind.RATE_LIMITED, route=Route.CREATE, times=1, seconds=seconds)
    error = refuses(way, fault, errors.RateLimited)
    assert (error.status, error.definite, error.retry_after_seconds) == (429, True, seconds)


@on()
def test_a_token_limit_may_be_refused_at_once(way: Way) -> None:
    fault = Fault(FaultKind.RATE_LIMITED, route=Route.CREATE, times=1, code="token_limit_exceeded")
    error = refuses(way, fault, errors.RateLimited)
    assert way.wire.dialect is Dialect.GEMINI or error.code == "token_limit_exceeded"


@on()
def test_quota_exhausted(way: Way) -> None:
    fault = Fault(FaultKind.QUOTA_EXHAUSTED, route=Route.CREATE, times=1)
    assert refuses(way, fault, errors.QuotaExhausted).definite


@on("anthropic")
def test_a_low_balance_is_told_by_its_words_alone(way: Way) -> None:
    words = "Your credit balance is too low to access the Anthropic API. (simulated)"
    fault = Fault(FaultKind.SERVER_ERROR, route=Route.CREATE, times=1, status=400, message=words)
    refuses(way, fault, errors.QuotaExhausted)


@on()
def test_auth_refused(way: Way) -> None:
    error = refuses(way, Fault(FaultKind.AUTH_REFUSED, route=Route.CREATE, times=1), errors.AuthRefused)
    assert error.status == (403 if way.wire.dialect is Dialect.GEMINI else 401)


@on()
def test_hang(way: Way) -> None:
    refuses(way, Fault(FaultKind.HANG, route=Route.CREATE, times=1), errors.TimedOut, seconds=IMPATIENT)
    way.server.faulty(Fault(FaultKind.HANG, seconds=0.05, times=1))
    with pytest.raises(errors.ConnectionFailed):
        way.found()


# -- accepted, but the client is not told ---------------------------------------------------------------------


def loses(way: Way, fault: Fault, expected: type[errors.ProviderError]) -> None:
    """Meet a fault at a create that is accepted."""
    way.server.faulty(fault)
    with pytest.raises(errors.ProviderError) as caught:
        way.create()
    assert type(caught.value) is expected
    assert not caught.value.definite


@on()
def test_reply_lost(way: Way) -> None:
    loses(way, Fault(FaultKind.REPLY_LOST, times=1), errors.ConnectionFailed)
    (found,) = way.found()
    assert way.provider.owns(way.ended(found.batch_id), way.shard()) is True
    assert way.billed() == ["i0", "i1", "i2"]


@on()
def test_accepted_then_500(way: Way) -> None:
    loses(way, Fault(FaultKind.ACCEPTED_THEN_500, times=1, status=502), errors.ServerFailed)
    (found,) = way.found()
    assert way.fetched(way.ended(found.batch_id).batch_id).ids == ["i0", "i1", "i2"]


@on()
def test_accept_late(way: Way) -> None:
    loses(way, Fault(FaultKind.ACCEPT_LATE, times=1, seconds=600), errors.ConnectionFailed)
    assert way.found() == []
    assert way.billed() == []
    way.server.forward(600)
    (found,) = way.found()
    assert way.fetched(way.ended(found.batch_id).batch_id).ids == ["i0", "i1", "i2"]


@on()
def test_accept_late_with_jitter_draws_by_the_content(way: Way) -> None:
    """Equal creates are accepted equally late, others at another time, all within the bound."""
    way.server.faulty(Fault(FaultKind.ACCEPT_LATE, seconds=10_000, jitter=True))
    lateness = [_lateness(way, task) for task in ("first", "first", "second", "third")]
    first, again, *others = lateness
    assert all(0 <= seconds < 10_010 for seconds in lateness)
    assert abs(first - again) < 10
    assert all(abs(first - other) > 10 for other in others)


def _lateness(way: Way, task: str) -> float:
    known = {each["batch_id"] for each in way.server.get("creates")["creates"]}
    now = time.time() + way.server.forward(0)
    with pytest.raises(errors.ConnectionFailed):
        way.create(task=task)
    way.server.forward(10_000)
    (made,) = (each for each in way.server.get("creates")["creates"] if each["batch_id"] not in known)
    return datetime.fromisoformat(made["created_at"]).astimezone(UTC).timestamp() - now


@on("openai-chat", "openai-responses", "anthropic", "gemini")
def test_a_single_call_whose_reply_is_lost_is_billed(way: Way) -> None:
    way.server.faulty(Fault(FaultKind.REPLY_LOST, route=Route.CALL))
    before = way.server.singles()
    with pytest.raises(errors.ConnectionFailed):
        way.call()
    assert way.server.singles() == before + 1


# -- slow -----------------------------------------------------------------------------------------------------


@on()
def test_slow_reply(way: Way) -> None:
    way.server.faulty(Fault(FaultKind.SLOW_REPLY, route=Route.CREATE, seconds=0.3, times=1))
    start = time.monotonic()
    made = way.create()
    assert time.monotonic() - start >= 0.3
    assert [view.batch_id for view in way.found()] == [made.batch_id]


@on()
def test_slow_reply_to_a_client_that_does_not_wait(way: Way) -> None:
    shard = way.shard()
    file_id = way.provider.upload(shard)
    way.server.faulty(Fault(FaultKind.SLOW_REPLY, route=Route.CREATE, seconds=5, times=1))
    with way.hurried(IMPATIENT) as hurried, pytest.raises(errors.TimedOut) as caught:
        hurried.provider.create_batch(shard, file_id)
    assert not caught.value.definite
    assert len(way.found()) == 1  # accepted at once


@on()
def test_slow_drip(way: Way) -> None:
    batch_id = way.create(items=40).batch_id
    way.ended(batch_id)
    way.server.faulty(Fault(FaultKind.SLOW_DRIP, seconds=0.2))
    start = time.monotonic()
    view = way.provider.check(batch_id)
    assert time.monotonic() - start >= 0.2
    assert view.state.terminal
    assert len(way.fetched(batch_id).ids) == 40


# -- on every route -------------------------------------------------------------------------------------------


def verbs(way: Way) -> dict[Route, Callable[[], object]]:
    """A request of each kind that works when nothing is wrong."""
    way.server.faulty(Fault(FaultKind.BATCH_SLOW, match="live-r0-s0", seconds=3600))
    shard = way.shard(task="other")
    ended: BatchView = way.ended(way.create().batch_id)
    live = way.create(task="live")
    file_id = way.provider.upload(shard)
    requests: dict[Route, Callable[[], object]] = {
        Route.CREATE: lambda: way.provider.create_batch(shard, file_id),
        Route.CHECK: lambda: way.provider.check(ended.batch_id),
        Route.LIST: way.found,
        Route.FETCH: lambda: way.provider.fetch(ended.batch_id, way.folder),
        Route.CANCEL: lambda: way.provider.cancel(live.batch_id),
        Route.CALL: way.call,
    }
    if way.wire.dialect is not Dialect.ANTHROPIC:
        requests |= {Route.UPLOAD: lambda: way.provider.upload(shard), Route.FILE: lambda: way.provider.upload(shard)}
    return requests


STORMS: list[tuple[Fault, type[errors.ProviderError]]] = [
    (Fault(FaultKind.SERVER_ERROR, status=500, times=2), errors.ServerFailed),
    (Fault(FaultKind.CONNECTION_RESET, times=2), errors.ConnectionFailed),
    (Fault(FaultKind.RATE_LIMITED, times=2), errors.RateLimited),
]


@on()
@pytest.mark.parametrize(("fault", "expected"), STORMS, ids=[fault.kind.value for fault, _ in STORMS])
def test_a_storm_on_every_route(way: Way, fault: Fault, expected: type[errors.ProviderError]) -> None:
    for route, ask in verbs(way).items():
        way.server.faulty(Fault(fault.kind, route=route, status=fault.status, times=fault.times))
        for _ in range(2):
            with pytest.raises(expected if route is not Route.FETCH else (expected, errors.UnreadableReply)) as caught:
                ask()
            assert caught.value.transient
        ask()


def test_a_fault_of_a_route_spares_the_others(server: Server) -> None:
    server.faulty(Fault(FaultKind.SERVER_ERROR, route=Route.LIST))
    with server.openai() as client:
        client.chat.completions.create(model="m", messages=[{"role": "user", "content": "Say something."}])
