"""What is sent again: one table over every outcome, and the properties that bound what a job can cost."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batch_jobs.lifecycle.policy import Next, Pace, after_attempt, poll_seconds
from batch_jobs.models import ItemResult, Outcome
from providers.codes import QUOTA_CODES

AGAIN, FINAL, PAUSE = Next.AGAIN, Next.FINAL, Next.PAUSE
BEFORE: list[Outcome | None] = [None, *(outcome for outcome in Outcome if outcome is not Outcome.SUCCEEDED)]
FLAGS = list(product([False, True], [False, True]))


def decide(
    outcome: Outcome,
    before: Outcome | None = None,
    *,
    code: str = "",
    transient: bool = False,
    last_round: bool = False,
    cancelling: bool = False,
) -> Next:
    result = ItemResult("id", outcome, code=code, transient=transient)
    return after_attempt(result, before, last_round=last_round, cancelling=cancelling)


@pytest.mark.parametrize(
    ("outcome", "transient", "expected"),
    [
        (Outcome.SUCCEEDED, False, FINAL),
        (Outcome.INVALID, False, AGAIN),
        (Outcome.TRUNCATED, False, AGAIN),
        (Outcome.REFUSED, False, FINAL),
        (Outcome.ERRORED, True, AGAIN),
        (Outcome.ERRORED, False, FINAL),
        (Outcome.EXPIRED, False, AGAIN),
        (Outcome.EXPIRED, True, AGAIN),
        (Outcome.MISSING, True, AGAIN),
        (Outcome.CANCELLED, True, AGAIN),
    ],
)
def test_the_first_attempt(outcome: Outcome, transient: bool, expected: Next) -> None:
    assert decide(outcome, transient=transient) is expected


@pytest.mark.parametrize("outcome", [Outcome.INVALID, Outcome.TRUNCATED])
def test_twice_the_same_is_enough(outcome: Outcome) -> None:
    assert decide(outcome, outcome) is FINAL


@pytest.mark.parametrize(("outcome", "before"), list(product(Outcome, BEFORE)))
@pytest.mark.parametrize("transient", [False, True])
def test_after_the_last_round_nothing_is_sent_again(outcome: Outcome, before: Outcome | None, transient: bool) -> None:
    assert decide(outcome, before, transient=transient, last_round=True) is FINAL


@pytest.mark.parametrize(("outcome", "before"), list(product(Outcome, BEFORE)))
@pytest.mark.parametrize("transient", [False, True])
def test_of_a_cancelled_job_nothing_is_sent_again(outcome: Outcome, before: Outcome | None, transient: bool) -> None:
    for code in ("", "insufficient_quota"):
        assert decide(outcome, before, code=code, transient=transient, cancelling=True) is FINAL


@pytest.mark.parametrize("before", BEFORE)
@pytest.mark.parametrize(("last_round", "cancelling"), FLAGS)
def test_what_succeeded_or_was_refused_is_final(before: Outcome | None, last_round: bool, cancelling: bool) -> None:
    for outcome in (Outcome.SUCCEEDED, Outcome.REFUSED):
        assert decide(outcome, before, last_round=last_round, cancelling=cancelling) is FINAL


@pytest.mark.parametrize("code", sorted(QUOTA_CODES))
@pytest.mark.parametrize("last_round", [False, True])
@pytest.mark.parametrize("transient", [False, True])
def test_an_account_without_money_pauses_the_job_also_in_the_last_round(
    code: str, last_round: bool, transient: bool
) -> None:
    assert decide(Outcome.ERRORED, code=code, transient=transient, last_round=last_round) is PAUSE


@pytest.mark.parametrize("before", BEFORE)
@pytest.mark.parametrize("outcome", [Outcome.EXPIRED, Outcome.MISSING, Outcome.CANCELLED])
def test_what_was_not_executed_is_sent_again_whatever_was_before(outcome: Outcome, before: Outcome | None) -> None:
    assert decide(outcome, before) is AGAIN


@given(st.lists(st.tuples(st.sampled_from(list(Outcome)), st.booleans()), min_size=40, max_size=40), st.integers(1, 20))
def test_no_item_is_sent_in_more_rounds_than_allowed(attempts: list[tuple[Outcome, bool]], rounds: int) -> None:
    before: Outcome | None = None
    sent = 0
    for outcome, transient in attempts:
        sent += 1
        if decide(outcome, before, transient=transient, last_round=sent == rounds) is not AGAIN:
            break
        before = outcome
    assert sent <= rounds


@given(st.floats(0, 1e7), st.floats(0, 1), st.floats(0.01, 100), st.floats(0, 1e5))
def test_the_poll_interval_stays_within_its_bounds(age: float, jitter: float, least: float, more: float) -> None:
    wait = poll_seconds(age, Pace(least, least + more), jitter)
    assert least * 0.9 <= wait <= (least + more) * 1.1


@given(st.floats(0, 1e6), st.floats(0, 1e6))
def test_an_older_batch_is_not_asked_for_more_often(one: float, two: float) -> None:
    pace = Pace(2, 300)
    younger, older = sorted((one, two))
    assert poll_seconds(younger, pace, 0.5) <= poll_seconds(older, pace, 0.5)


@pytest.mark.parametrize(("age", "wait"), [(0, 2), (20, 2), (100, 10), (3000, 300), (1e6, 300)])
def test_a_tenth_of_the_age(age: float, wait: float) -> None:
    assert poll_seconds(age, Pace(2, 300), 0.5) == pytest.approx(wait)
    assert poll_seconds(age, Pace(2, 300), 0) == pytest.approx(0.9 * wait)
    assert poll_seconds(age, Pace(2, 300), 1) == pytest.approx(1.1 * wait)
