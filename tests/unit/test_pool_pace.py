"""Pace, concurrency, breaker and turns: pure decisions, driven by a clock of the test's."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batch_jobs.lifecycle.pool.breaker import LONGEST_SECONDS, Breaker
from batch_jobs.lifecycle.pool.concurrency import Concurrency
from batch_jobs.lifecycle.pool.pace import WINDOW_SECONDS, Pace
from batch_jobs.lifecycle.pool.turns import SMALL_ITEMS, WANTS_SECONDS, Turns
from batch_jobs.models import BreakerState

Taken = list[tuple[float, float]]


def run(pace: Pace, asked: Sequence[tuple[float, float]]) -> Taken:
    """Each call asks when its time has come, waits as long as it is told, and is made: (when, how much)."""
    now, made = 1_000.0, []
    for pause, amount in asked:
        now += pause
        while (wait := pace.wait_seconds(now, amount)) > 0:
            now += max(wait, 1e-6)
        pace.take(now, amount)
        made.append((now, amount))
    return made


def fullest_minute(made: Taken) -> float:
    """The most that any 60 seconds hold."""
    return max(sum(amount for at, amount in made if begin <= at < begin + WINDOW_SECONDS) for begin, _ in made)


@given(
    limit=st.integers(1, 60),
    pauses=st.lists(st.one_of(st.just(0.0), st.floats(0, 90, allow_nan=False)), min_size=1, max_size=150),
)
def test_no_minute_holds_more_requests_than_the_limit(limit: int, pauses: list[float]) -> None:
    made = run(Pace(limit), [(pause, 1.0) for pause in pauses])
    assert fullest_minute(made) <= limit


@given(
    asked=st.lists(
        st.tuples(st.one_of(st.just(0.0), st.floats(0, 90, allow_nan=False)), st.integers(1, 1_000).map(float)),
        min_size=1,
        max_size=80,
    )
)
def test_no_minute_holds_more_tokens_than_the_limit(asked: list[tuple[float, float]]) -> None:
    assert fullest_minute(run(Pace(1_000), asked)) <= 1_000 + 1e-6


def test_a_limit_is_used_almost_whole() -> None:
    made = run(Pace(3_000), [(0.0, 1.0)] * 6_000)
    assert 6_000 / (made[-1][0] - made[0][0]) * 60 >= 0.985 * 3_000


def test_nothing_comes_in_a_burst() -> None:
    made = run(Pace(600), [(0.0, 1.0)] * 300)
    most = max(sum(begin <= at < begin + 1 for at, _ in made) for begin, _ in made)
    assert most <= 10 + 3  # a second's worth, and what a fifth of a second may make up


def test_a_call_above_a_whole_minutes_limit_goes_alone() -> None:
    made = run(Pace(100), [(0.0, 10.0), (0.0, 500.0), (0.0, 10.0)])
    assert made[1][0] - made[0][0] >= WINDOW_SECONDS
    assert made[2][0] - made[1][0] >= WINDOW_SECONDS


def test_an_estimate_is_set_right() -> None:
    pace = Pace(1_000)
    taken = pace.take(0.0, 900.0)
    assert pace.wait_seconds(0.0, 200.0) > 10
    pace.correct(0.5, taken, 30.0)
    assert pace.used(0.5) == 30.0
    assert pace.wait_seconds(2.0, 200.0) == 0.0


def test_without_a_limit_nothing_waits_and_a_limit_learned_later_knows_the_last_minute() -> None:
    pace = Pace()
    for _ in range(500):
        assert pace.wait_seconds(0.0, 1.0) == 0.0
        pace.take(0.0, 1.0)
    pace.per_minute = 500.0
    assert pace.wait_seconds(1.0, 1.0) == pytest.approx(59.0)


def test_concurrency_grows_to_the_bound_while_latency_holds() -> None:
    found = Concurrency(20)
    for _ in range(40):
        found.answered(1.0, int(found.limit))
    assert found.limit == 20


def test_concurrency_halves_once_for_all_calls_of_one_overload_and_grows_slowly_after() -> None:
    found = Concurrency(16)
    for _ in range(40):
        found.answered(1.0, int(found.limit))
    assert [found.overloaded(10.0, began) for began in (9.0, 9.5, 9.9)] == [True, False, False]
    assert found.limit == 8
    for _ in range(8):
        found.answered(1.0, 8)
    assert 8.9 < found.limit < 9.1
    assert found.overloaded(20.0, 15.0)
    assert 4 <= found.limit < 5


def test_concurrency_does_not_grow_when_answers_take_longer_or_the_limit_is_not_used() -> None:
    found = Concurrency(50)
    for _ in range(5):
        found.answered(1.0, int(found.limit))
    before = found.limit
    for _ in range(20):
        found.answered(1.0, 1)
    assert found.limit == before
    for _ in range(30):
        found.answered(10.0, int(found.limit))
    assert found.limit < before + 10


def test_concurrency_never_falls_below_one() -> None:
    found = Concurrency(2)
    for now in range(10):
        found.overloaded(now + 1.0, now + 0.5)
    assert found.limit == 1


def opened(failures: int = 3, seconds: float = 10) -> Breaker:
    breaker = Breaker(failures, seconds)
    for item in range(failures):
        assert breaker.failed(100.0, item, probe=breaker.begin()) is (item == failures - 1)
    return breaker


def test_the_breaker_opens_after_so_many_items_failed_in_a_row() -> None:
    breaker = opened()
    assert breaker.state is BreakerState.OPEN
    assert breaker.wait_seconds(104.0) == 6
    assert breaker.wait_seconds(110.0) == 0


def test_one_items_own_trouble_and_failures_between_answers_open_nothing() -> None:
    breaker = Breaker(3, 10)
    for _ in range(50):
        assert not breaker.failed(0.0, "the same", probe=breaker.begin())
    for item in range(50):
        breaker.answered()
        assert not breaker.failed(0.0, item, probe=breaker.begin())
    assert breaker.state is BreakerState.CLOSED


def test_one_call_goes_out_to_see_and_its_answer_closes_the_breaker() -> None:
    breaker = opened()
    assert breaker.begin() is True
    assert breaker.wait_seconds(500.0) > 0  # nobody else meanwhile
    breaker.answered()
    assert breaker.wait_seconds(500.0) == 0
    assert breaker.begin() is False


def test_a_probe_that_fails_doubles_the_wait_up_to_a_bound() -> None:
    breaker, waits, now = opened(), [], 200.0
    for _ in range(8):
        assert breaker.begin()
        assert breaker.failed(now, "probe", probe=True)
        waits.append(breaker.wait_seconds(now))
        now += waits[-1]
    assert waits[:3] == [20, 40, 80]
    assert waits[-1] == LONGEST_SECONDS


def test_a_probe_without_news_leaves_the_next_one_to_see() -> None:
    breaker = opened()
    breaker.gave_up(probe=breaker.begin())
    assert breaker.wait_seconds(500.0) == 0
    assert breaker.begin() is True


def shared(turns: Turns, left: dict[str, int], rounds: int) -> dict[str, int]:
    """Jobs that all ask all the time, in the same order: how many turns each had."""
    had = dict.fromkeys(left, 0)
    for number in range(rounds):
        free = True
        for job in left:
            if turns.asks(job, number * 0.01, left=left[job], retry=False) and free:
                turns.had(job)
                had[job] += 1
                free = False
                turns.asks(job, number * 0.01, left=left[job], retry=False)  # for its next call, which has to wait
    return had


def test_large_jobs_get_equal_shares_and_a_small_one_four_of_them() -> None:
    had = shared(Turns(), {"a": 9_000, "b": 9_000}, 200)
    assert abs(had["a"] - had["b"]) <= 2
    had = shared(Turns(), {"large": 9_000, "small": SMALL_ITEMS}, 500)
    assert had["small"] == pytest.approx(400, abs=5)
    assert had["large"] == pytest.approx(100, abs=5)


def test_a_retry_goes_first() -> None:
    turns = Turns()
    assert turns.asks("a", 0.0, left=9_000, retry=False)
    assert turns.asks("b", 0.0, left=9_000, retry=True)
    assert not turns.asks("a", 0.01, left=9_000, retry=False)
    turns.had("b")
    assert turns.asks("a", 0.02, left=9_000, retry=False)


def test_a_job_that_does_not_ask_keeps_nobody_waiting_and_saves_nothing_up() -> None:
    turns = Turns()
    for number in range(100):
        assert turns.asks("a", number * 0.01, left=9_000, retry=False)
        turns.had("a")
    now = 1.0
    turns.asks("b", now, left=9_000, retry=False)
    assert turns.asks("a", now + WANTS_SECONDS + 0.01, left=9_000, retry=False)
    turns.leaves("b")
    had = shared(turns, {"a": 9_000, "b": 9_000}, 200)
    assert abs(had["a"] - had["b"]) <= 2
