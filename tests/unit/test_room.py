"""Room in a provider's queue: what fits, what a full queue teaches, how long that holds, how many waves it makes."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batch_jobs.lifecycle.room import (
    ALONE_REFUSALS,
    GUESS_LASTS_SECONDS,
    MAX_WAIT_SECONDS,
    TOLD_LASTS_SECONDS,
    Lesson,
    Queued,
    RoomWait,
    Weight,
    bounded,
    fits,
    in_force,
    is_too_large,
    learn,
    shard_bound,
    short,
    told_tokens,
    wait_seconds,
    waves,
)
from providers.contract import Limits

NOW = 1_000_000.0
OPENAI_WORDS = (
    "Enqueued token limit reached for gpt-6-luna in organization org-1. Limit: 2,000,000 enqueued tokens. Please try "
    "again once some in_progress batches have been completed."
)
weights = st.builds(Weight, st.integers(1, 50), st.integers(1, 5))


def limits(**known: int) -> Limits:
    return replace(Limits(1_000, 1_000_000), **known)  # type: ignore[arg-type]


@given(st.lists(weights, max_size=30), st.integers(1, 120))
def test_what_is_let_in_never_exceeds_the_limit_but_for_one_alone(asking: list[Weight], limit: int) -> None:
    queued = Queued()
    for weight in asking:
        if fits(weight, queued, limits(max_enqueued_tokens=limit)):
            tokens, requests = queued.tokens + weight.tokens, queued.requests + weight.requests
            queued = Queued(tokens, requests, queued.batches + 1, queued.account_batches + 1)
            assert queued.tokens <= limit or queued.batches == 1


@given(st.lists(weights, max_size=30), st.integers(1, 120), st.integers(1, 4))
def test_every_shard_is_in_a_wave(asking: list[Weight], limit: int, batches: int) -> None:
    number = waves(asking, limits(max_enqueued_tokens=limit, max_in_flight_batches=batches))
    assert -(-len(asking) // batches) <= number <= len(asking)
    assert number * max([limit, *(weight.tokens for weight in asking)]) >= sum(weight.tokens for weight in asking)


def test_without_limits_all_go_in_one_wave() -> None:
    assert waves([Weight(10, 1)] * 9, limits()) == 1
    assert waves([], limits()) == 0


def test_eight_shards_through_room_for_three() -> None:
    assert waves([Weight(10, 1)] * 8, limits(max_enqueued_tokens=35)) == 3


@pytest.mark.parametrize(
    ("queued", "fit"),
    [
        (Queued(90, 9, 1, 1), True),
        (Queued(91, 9, 1, 1), False),
        (Queued(90, 19, 1, 1), True),
        (Queued(90, 20, 1, 1), False),
        (Queued(90, 9, 1, 2), True),
        (Queued(90, 9, 1, 3), False),
        (Queued(0, 0, 0, 3), False),
        (Queued(0, 0, 0, 2), True),
    ],
)
def test_each_limit_counts(queued: Queued, fit: bool) -> None:
    bounds = limits(max_enqueued_tokens=100, max_enqueued_requests=20, max_in_flight_batches=3)
    assert fits(Weight(10, 1), queued, bounds) is fit


@pytest.mark.parametrize(
    ("words", "tokens"),
    [
        (OPENAI_WORDS, 2_000_000),
        ("Limit: 90000 enqueued tokens", 90_000),
        ("limit 60 tokens", 60),
        ("Resource has been exhausted (e.g. check quota).", None),
        ("Rate limit reached for requests per minute. Limit: 3 requests", None),
    ],
)
def test_the_limit_in_the_providers_words(words: str, tokens: int | None) -> None:
    assert told_tokens(words) == tokens


def test_a_limit_that_was_told_is_taken() -> None:
    lesson = learn(OPENAI_WORDS, Weight(500_000, 9), Queued(1_800_000, 30, 3, 3), 1, NOW)
    assert lesson == Lesson(2_000_000, 2_000_000, True, NOW)


def test_without_a_number_what_was_under_way_is_the_limit() -> None:
    lesson = learn("Resource has been exhausted", Weight(500, 9), Queued(1_500, 30, 3, 3), 1, NOW)
    assert lesson == Lesson(1_500, None, False, NOW)


def test_a_told_limit_that_we_kept_by_our_estimate_is_met_earlier_than_we_thought() -> None:
    lesson = learn(OPENAI_WORDS, Weight(100_000, 9), Queued(1_500_000, 30, 3, 3), 1, NOW)
    assert lesson == Lesson(1_500_000, 2_000_000, False, NOW)


def test_alone_it_is_a_matter_of_time_and_then_of_size() -> None:
    alone = [learn("full", Weight(500, 9), Queued(), refusals, NOW) for refusals in range(1, ALONE_REFUSALS + 1)]
    assert alone == [None] * (ALONE_REFUSALS - 1) + [Lesson(None, 250, False, NOW)]
    assert learn("full", Weight(500, 1), Queued(), 9, NOW) is None


def test_lessons_end() -> None:
    told, guess = Lesson(9, 9, True, NOW), Lesson(9, None, False, NOW)
    assert in_force(told, NOW + TOLD_LASTS_SECONDS - 1) is told
    assert in_force(told, NOW + TOLD_LASTS_SECONDS) is None
    assert in_force(guess, NOW + GUESS_LASTS_SECONDS - 1) is guess
    assert in_force(guess, NOW + GUESS_LASTS_SECONDS) is None
    assert in_force(None, NOW) is None


def test_the_lower_of_what_is_configured_and_learned_holds() -> None:
    lesson = Lesson(50, 40, True, NOW)
    assert bounded(limits(max_enqueued_tokens=100), lesson).max_enqueued_tokens == 50
    assert bounded(limits(max_enqueued_tokens=30), lesson).max_enqueued_tokens == 30
    assert bounded(limits(), lesson).max_enqueued_tokens == 50
    assert bounded(limits(max_enqueued_tokens=100), None).max_enqueued_tokens == 100
    assert shard_bound(limits(max_enqueued_tokens=100), lesson) == 40
    assert shard_bound(limits(), None) is None
    assert is_too_large(Weight(41, 2), lesson)
    assert not is_too_large(Weight(41, 1), lesson)
    assert not is_too_large(Weight(40, 2), lesson)


@given(st.integers(0, 10_000), st.floats(0.01, 600))
def test_waits_grow_to_an_hour(refusals: int, least: float) -> None:
    wait = wait_seconds(refusals, least)
    assert min(least, MAX_WAIT_SECONDS) <= wait <= MAX_WAIT_SECONDS
    assert wait <= wait_seconds(refusals + 1, least)


def test_the_words_that_people_see() -> None:
    assert RoomWait(2, 7, 3_000_000, 4_000_000).words() == (
        "2 of 7 batches wait for room: 3.0M of 4.0M enqueued tokens"
    )
    assert RoomWait(1, 1, 950, None).words() == "1 of 1 batch waits for room: 950 enqueued tokens"
    assert [short(number) for number in (999, 12_500, 999_949, 999_950)] == ["999", "12.5k", "999.9k", "1.0M"]
