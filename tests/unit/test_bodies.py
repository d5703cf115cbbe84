"""Cutting items into shards: nothing lost, nothing over a limit, order kept."""

from __future__ import annotations

from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batch_jobs.render.bodies import cut, tokens_of

SIZES = st.lists(st.integers(1, 60), max_size=80)


@given(SIZES, st.integers(1, 20), st.integers(1, 100))
def test_every_line_is_in_one_shard_within_its_limits(sizes: list[int], max_requests: int, max_bytes: int) -> None:
    counts = list(cut(sizes, max_requests, max_bytes))
    assert sum(counts) == len(sizes)
    rest = iter(sizes)
    for count in counts:
        lines = list(islice(rest, count))
        assert 1 <= len(lines) <= max_requests
        assert sum(lines) <= max_bytes or len(lines) == 1


@given(SIZES, st.integers(1, 20), st.integers(1, 100))
def test_a_shard_is_as_full_as_it_can_be(sizes: list[int], max_requests: int, max_bytes: int) -> None:
    """The next shard's first line would not have fitted, so no provider batch is made without need."""
    counts = list(cut(sizes, max_requests, max_bytes))
    start = 0
    for count in counts[:-1]:
        taken, following = sizes[start : start + count], sizes[start + count]
        assert count == max_requests or sum(taken) + following > max_bytes
        start += count


@given(SIZES, st.integers(1, 20), st.integers(1, 20), st.integers(0, 9))
def test_no_shard_weighs_more_than_the_queue_takes(
    bodies: list[int], max_requests: int, max_tokens: int, around: int
) -> None:
    sizes = [body + around for body in bodies]
    counts = list(cut(sizes, max_requests, 10_000, max_tokens, overhead_bytes=around))
    assert sum(counts) == len(sizes)
    start = 0
    for count in counts:
        weight = sum(tokens_of(body) for body in bodies[start : start + count])
        assert weight <= max_tokens or count == 1
        start += count
        if start < len(bodies):
            assert count == max_requests or weight + tokens_of(bodies[start]) > max_tokens


@given(SIZES, st.integers(1, 20), st.integers(1, 100))
def test_it_streams(sizes: list[int], max_requests: int, max_bytes: int) -> None:
    assert list(cut(iter(sizes), max_requests, max_bytes)) == list(cut(sizes, max_requests, max_bytes))


@pytest.mark.parametrize(
    ("sizes", "max_requests", "max_bytes", "expected"),
    [
        ([], 5, 5, []),
        ([1], 1, 1, [1]),
        ([1] * 5, 2, 100, [2, 2, 1]),
        ([5, 5, 5], 100, 10, [2, 1]),
        ([99], 5, 10, [1]),
        ([1, 99, 1], 5, 10, [1, 1, 1]),
        ([10, 10], 5, 10, [1, 1]),
    ],
)
def test_examples(sizes: list[int], max_requests: int, max_bytes: int, expected: list[int]) -> None:
    assert list(cut(sizes, max_requests, max_bytes)) == expected
