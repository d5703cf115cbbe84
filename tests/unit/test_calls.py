"""What a call costs."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batch_jobs.models import Price, Usage
from batch_jobs.storage.calls import cost_of

PRICE = Price(input=2.0, output=8.0, cached=0.5)
TOKENS = st.integers(0, 10**9)


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        (Usage(), 0.0),
        (Usage(1_000_000, 0, 0), 2.0),
        (Usage(0, 0, 1_000_000), 8.0),
        (Usage(1_000_000, 1_000_000, 0), 0.5),
        (Usage(1_000_000, 400_000, 0), 1.2 + 0.2),
        (Usage(100, 40, 10), 0.0002 + 0.00002),
        (Usage(10, 50, 0), 0.000025),
    ],
)
def test_examples(usage: Usage, expected: float) -> None:
    assert cost_of(usage, PRICE) == pytest.approx(expected)


def test_without_a_price_nothing_is_made_up() -> None:
    assert cost_of(Usage(10**9, 0, 10**9), None) == 0.0


@given(TOKENS, TOKENS, TOKENS)
def test_never_negative_and_never_dearer_through_the_cache(fresh: int, cached: int, out: int) -> None:
    with_cache = cost_of(Usage(fresh + cached, cached, out), PRICE)
    assert 0 <= with_cache <= cost_of(Usage(fresh + cached, 0, out), PRICE) * (1 + 1e-12)
