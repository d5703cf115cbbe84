"""The gate: what a call has to wait for, and what its end teaches; driven by a clock of the test's."""

from __future__ import annotations

from typing import Any

import pytest

from batch_jobs.config import Concurrent, ProviderLimits
from batch_jobs.lifecycle.pool.gate import USED_UP_SECONDS, Gate, Gates, News, Permit, Reason, Report, Wait
from batch_jobs.lifecycle.pool.tracker import Tracker
from batch_jobs.models import Allowance, BreakerState


def a_gate(limits: dict[str, Any] | None = None, **settings: Any) -> Gate:
    return Gate(Concurrent(**settings), ProviderLimits(**(limits or {})))


def ask(gate: Gate, now: float, item: int = 0, job: str = "a", tokens: float = 100) -> Permit | Wait:
    return gate.ask(now, job, item, tokens=tokens, left=9_000, retry=False)


def permit(gate: Gate, now: float, item: int = 0, job: str = "a") -> Permit:
    said = ask(gate, now, item, job)
    assert isinstance(said, Permit), said
    return said


def wait(gate: Gate, now: float, job: str = "a", tokens: float = 100) -> Wait:
    said = ask(gate, now, job=job, tokens=tokens)
    assert isinstance(said, Wait), said
    return said


def test_nobody_calls_before_the_time_that_the_provider_asked_for() -> None:
    gate = a_gate()
    first, second = permit(gate, 0.0), permit(gate, 0.0)
    gate.done(1.0, first, Report(News.REFUSED, retry_after_seconds=20))
    gate.done(1.5, second, Report(News.REFUSED, retry_after_seconds=2))
    for job in ("a", "b"):
        assert wait(gate, 2.0, job) == Wait(19.0, Reason.COOLING_DOWN)
    assert gate.standing(2.0).waits_seconds == 19
    assert permit(gate, 21.0)


def test_limits_of_config_hold_from_the_first_call_on() -> None:
    gate = a_gate({"requests_per_minute": 60, "tokens_per_minute": 6_000})
    permit(gate, 0.0)
    assert wait(gate, 0.0).reason is Reason.PACE
    assert 0.7 < wait(gate, 0.0).seconds < 1.1
    assert permit(gate, 1.0)


def test_limits_are_learned_from_headers_and_config_only_lowers_them() -> None:
    gate = a_gate({"requests_per_minute": 60})
    gate.done(0.1, permit(gate, 0.0), Report(News.ANSWERED, allowance=Allowance(3_000, 2_999, 0.02, 9_000, 8_900, 1)))
    standing = gate.standing(0.1)
    assert (standing.requests_per_minute, standing.tokens_per_minute) == (60, 9_000)
    gate.done(1.2, permit(gate, 1.1), Report(News.ANSWERED, allowance=Allowance(requests_limit=30)))
    assert gate.standing(1.2).requests_per_minute == 30


def test_a_limit_a_day_is_none_a_minute() -> None:
    gate = a_gate()
    gate.done(0.1, permit(gate, 0.0), Report(News.ANSWERED, allowance=Allowance(200, 199, 432.0)))
    assert gate.standing(0.1).requests_per_minute is None


def test_where_nothing_remains_nobody_calls_for_a_moment() -> None:
    gate = a_gate()
    gate.done(0.0, permit(gate, 0.0), Report(News.ANSWERED, allowance=Allowance(3_000, 0, 60.0)))
    assert wait(gate, 0.0) == Wait(USED_UP_SECONDS, Reason.COOLING_DOWN)


def test_tokens_are_set_right_by_usage_and_given_back_after_a_refusal() -> None:
    gate = a_gate({"tokens_per_minute": 1_000})
    said = gate.ask(0.0, "a", 0, tokens=900, left=1, retry=False)
    assert isinstance(said, Permit)
    gate.done(1.0, said, Report(News.ANSWERED, tokens=100))
    assert isinstance(gate.ask(10.0, "a", 1, tokens=850, left=1, retry=False), Permit)
    refused = a_gate({"tokens_per_minute": 1_000})
    said = refused.ask(0.0, "a", 0, tokens=900, left=1, retry=False)
    assert isinstance(said, Permit)
    refused.done(1.0, said, Report(News.REFUSED))
    assert isinstance(refused.ask(2.0, "a", 1, tokens=900, left=1, retry=False), Permit)


def test_calls_in_flight_are_bounded_over_all_jobs() -> None:
    gate = a_gate(max_workers=3)
    flying = [permit(gate, 0.0, job=job) for job in ("a", "b", "a")]
    assert wait(gate, 0.0, "b").reason is Reason.BUSY
    gate.done(1.0, flying[0], Report(News.ANSWERED))
    assert permit(gate, 1.0, job="b")


def test_an_overload_halves_what_may_be_in_flight() -> None:
    gate = a_gate(max_workers=4)
    flying = [permit(gate, 0.0, item) for item in range(4)]
    for one in flying:
        gate.done(1.0, one, Report(News.OVERLOADED))
    assert gate.standing(1.0).concurrency == 2


def test_failures_of_several_jobs_open_the_breaker_and_one_call_goes_out_to_see() -> None:
    gate = a_gate(breaker_failures=3, breaker_seconds=10)
    for item, job in enumerate(("a", "b", "a")):
        gate.done(1.0, permit(gate, 0.0, item, job), Report(News.FAILED))
    assert wait(gate, 2.0, "c") == Wait(9.0, Reason.BREAKER)
    probe = permit(gate, 11.0)
    assert probe.probe
    assert wait(gate, 11.0, "b").reason is Reason.BREAKER
    gate.done(12.0, probe, Report(News.ANSWERED))
    assert gate.standing(12.0).breaker is BreakerState.CLOSED
    assert permit(gate, 12.0, job="b")


def test_a_call_that_ends_on_our_side_leaves_no_trace() -> None:
    gate = a_gate(max_workers=1)
    gate.done(1.0, permit(gate, 0.0), Report(News.NONE))
    assert permit(gate, 1.0)


@pytest.mark.parametrize("other", [("x", "m2"), ("y", "m1")])
def test_a_gate_is_an_accounts_and_a_models(other: tuple[str, str]) -> None:
    gates, settings, limits = Gates(), Concurrent(), ProviderLimits()
    gate = gates.of("x", "m1", settings, limits)
    assert gates.of("x", "m1", settings, limits) is gate
    assert gates.of(*other, settings, limits) is not gate


def test_the_tracker_counts() -> None:
    gate, tracker = a_gate(), Tracker(total=10, began=0.0)
    for number in range(20):
        tracker.came(number * 1.0, float(number), 300, refused=number == 3, failed=number == 4)
    tracker.end(["succeeded", None])
    found = tracker.figures(20.0, in_flight=2, retrying=1, standing=gate.standing(20.0))
    assert found["items"] == {"waiting": 6, "in_flight": 2, "retrying": 1, "succeeded": 1}
    assert (found["attempts"], found["refused_429"], found["failed_calls"]) == (20, 1, 1)
    assert (found["average_seconds"], found["p95_seconds"]) == (pytest.approx(10.167, abs=0.001), 18.0)
    assert (found["calls_per_minute"], found["tokens_per_minute"]) == (60, 18_000)
    assert tracker.per_minute(500.0) == (0.0, 0.0)
