"""The token bucket: no stretch of time sees more than the rate, and nobody waits for nothing."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batch_jobs.lifecycle.throttle import Bucket, Throttle, Verb, per_minute, take
from providers.contract import Limits, Rate

NOW = 1_000_000.0
LIMITS = Limits(1, 1, creates=Rate(20, 60), uploads=None)


@given(st.integers(1, 50), st.floats(1, 100), st.lists(st.floats(0, 20), max_size=120))
def test_no_stretch_of_a_rates_length_sees_more_than_its_number(
    number: int, seconds: float, pauses: list[float]
) -> None:
    bucket: Bucket | None = None
    now, taken = NOW, list[float]()
    for pause in pauses:
        now += pause
        bucket, wait = take(bucket, Rate(number, seconds), now)
        if wait == 0:
            taken.append(now)
    for at in taken:
        assert sum(at <= other < at + seconds for other in taken) <= number


@given(st.integers(1, 50), st.floats(1, 100))
def test_who_waits_as_told_is_let_in(number: int, seconds: float) -> None:
    rate, now, wait = Rate(number, seconds), NOW, 0.0
    bucket: Bucket | None = None
    while wait == 0:
        bucket, wait = take(bucket, rate, now)
    _, left = take(bucket, rate, now + wait + 0.001)
    assert left == 0


def test_a_clock_that_is_set_back_lets_nobody_in_twice() -> None:
    rate = Rate(1, 60)
    bucket, _ = take(None, rate, NOW)
    bucket, wait = take(bucket, rate, NOW - 3_600)
    assert wait > 0
    assert take(bucket, rate, NOW - 3_600 + wait + 1)[1] == 0


def test_each_verb_has_its_own_rate_and_no_rate_is_no_limit() -> None:
    throttle = Throttle()
    assert [throttle.take(Verb.CREATE, LIMITS, NOW) for _ in range(2)] == [0, 0]
    assert throttle.take(Verb.CREATE, LIMITS, NOW) > 0
    assert {throttle.take(Verb.UPLOAD, LIMITS, NOW) for _ in range(100)} == {0}


def test_retry_after_holds_everything_of_the_account() -> None:
    throttle = Throttle()
    throttle.hold(30, NOW)
    throttle.hold(10, NOW)
    assert throttle.take(Verb.UPLOAD, LIMITS, NOW + 10) == 20
    assert throttle.take(Verb.CREATE, LIMITS, NOW + 29) == 1
    assert throttle.take(Verb.CREATE, LIMITS, NOW + 30) == 0
    throttle.hold(30, NOW)
    assert throttle.take(Verb.UPLOAD, LIMITS, NOW - 7_200) == 0, "the clock was set back: it would be held for hours"


@pytest.mark.parametrize(("number", "rate"), [(None, None), (30.0, Rate(30, 60))])
def test_rates_of_the_configuration(number: float | None, rate: Rate | None) -> None:
    assert per_minute(number) == rate
