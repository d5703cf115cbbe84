"""How long calls took: bins that can be read, whatever the times are, and few bytes a call."""

from __future__ import annotations

import random
import tracemalloc
from array import array
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batch_jobs.lifecycle.report.latency import FEWEST_BINS, MOST_BINS, bins_for, edges_between, latency_from, times_of
from batch_jobs.output.report_charts import latency_chart
from batch_jobs.output.report_facts import Latency
from batch_jobs.output.report_words import latencies, latency_text
from batch_jobs.output.words import brief, figure

SECONDS = st.floats(min_value=0, max_value=5_000, width=32)


def of(*answers: float, verdicts: tuple[float, ...] = (), calls: int = 0) -> Latency:
    times = {"answers": array("f", answers), "verdicts": array("f", verdicts)}
    found = latency_from({asks: kept for asks, kept in times.items() if kept}, calls)
    assert found is not None
    return found


def usual(number: int, median: float = 1.2, spread: float = 0.4) -> list[float]:
    chance = random.Random(7)
    return [median * chance.lognormvariate(0, spread) for _ in range(number)]


@settings(deadline=None)  # the first one imports numpy
@given(st.lists(SECONDS, min_size=1, max_size=200), st.lists(SECONDS, max_size=200))
def test_every_call_is_in_one_bin(answers: list[float], verdicts: list[float]) -> None:
    latency = of(*answers, verdicts=tuple(verdicts))
    for took, seconds in zip(latency.series, (answers, verdicts), strict=False):
        assert (sum(took.counts), took.quickest, took.slowest) == (len(seconds), min(seconds), max(seconds))
        bounds = [0.0, *latency.edges, float("inf")]
        for (start, end), calls in zip(pairwise(bounds), took.counts, strict=True):
            assert sum(start <= one < end for one in seconds) == calls


@settings(deadline=None)
@given(st.lists(SECONDS, min_size=1, max_size=200), st.lists(SECONDS, max_size=200))
def test_spans_reach_from_the_quickest_to_the_slowest(answers: list[float], verdicts: list[float]) -> None:
    spans = of(*answers, verdicts=tuple(verdicts)).spans
    assert spans[0][0] <= min(answers + verdicts)
    assert spans[-1][1] >= max(answers + verdicts)
    assert all(before[1] == after[0] for before, after in pairwise(spans))
    assert sum(sum(calls) for *_, calls in spans) == len(answers) + len(verdicts)


@given(st.floats(0, 5_000), st.floats(0, 5_000), st.integers(FEWEST_BINS, MOST_BINS))
def test_edges_hold_what_they_should_and_have_few_digits(one: float, other: float, most: int) -> None:
    low, high = sorted((one, other))
    edges = edges_between(low, high, most)
    assert edges[0] <= max(low, 0.001) * (1 + 1e-9)
    assert edges[-1] > high
    assert all(start < end for start, end in pairwise(edges))
    assert len(edges) - 1 <= max(most, 21)  # seven powers of ten at most, three to each
    assert all(float(figure(edge).replace(",", "")) == pytest.approx(edge, rel=1e-12) for edge in edges)


@pytest.mark.parametrize(
    ("low", "high", "most", "edges"),
    [
        (1.03, 2.97, 6, (1.0, 1.5, 2.0, 2.5, 3.0)),
        (0.5, 0.5, 24, (0.5, 0.505)),
        (0.4, 3.9, 12, (0.4, 0.5, 0.63, 0.8, 1.0, 1.25, 1.6, 2.0, 2.5, 3.15, 4.0)),
        (0.3, 60, 12, (0.25, 0.4, 0.63, 1.0, 1.6, 2.5, 4.0, 6.3, 10.0, 16.0, 25.0, 40.0, 63.0)),
        (0.0, 0.009, 6, (0.001, 0.0016, 0.0025, 0.004, 0.0063, 0.01)),
    ],
)
def test_edges_of_some(low: float, high: float, most: int, edges: tuple[float, ...]) -> None:
    assert edges_between(low, high, most) == edges


def test_a_long_tail_does_not_squeeze_the_others_into_one_bar() -> None:
    latency = of(*usual(5_000), *(300.0 + number for number in range(40)))
    (took,) = latency.series
    assert max(took.counts) < 0.2 * took.calls
    assert len(latency.edges) - 1 > 15
    assert latency.edges[-1] < 10
    assert took.counts[-1] >= 40
    assert latency.spans[-1][1] == 339.0


def test_few_calls_have_few_bins() -> None:
    assert [bins_for(calls) for calls in (1, 65, 1_000, 1_000_000)] == [FEWEST_BINS, 8, 19, MOST_BINS]


def test_nothing_kept_is_no_figure() -> None:
    assert latency_from({}, 10) is None
    assert times_of([]) == {}


def received(number: int) -> Iterator[dict[str, Any]]:
    for item in range(number):
        yield {"item": item, "last_seconds": 0.5 + item % 7, "outcome": "succeeded", "billed": True, "text": "x" * 200}


def test_what_brought_no_answer_and_what_is_of_an_older_version_does_not_count() -> None:
    (call,) = received(1)
    lines = [
        call,
        {**call, "last_seconds": 2.0, "kind": "judge"},
        {**call, "last_seconds": 3.0, "kind": "bundle"},
        {**call, "last_seconds": 4.0, "outcome": "refused", "billed": False},
        {**call, "last_seconds": 5.0, "outcome": "errored", "billed": True},
        {**call, "last_seconds": 60.0, "outcome": "errored", "billed": False},
        {**call, "last_seconds": None},
        {"item": 1, "seconds": 9.0, "outcome": "succeeded", "billed": True},
        {},
    ]
    assert {asks: list(kept) for asks, kept in times_of(lines).items()} == {
        "answers": [0.5, 3.0, 4.0, 5.0],
        "verdicts": [2.0],
    }


def test_a_call_takes_few_bytes() -> None:
    calls = 100_000
    latency_from(times_of(received(10)), 10)  # what is imported once
    tracemalloc.start()
    try:
        latency = latency_from(times_of(received(calls)), calls)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert latency is not None
    assert latency.series[0].calls == calls
    assert peak < 30 * calls


def test_the_words() -> None:
    assert latency_text(of(2.0)) == "1 call: it took 2 s."
    ten = of(*(0.25 * number for number in range(1, 11)), calls=12)
    assert latency_text(ten) == (
        "10 calls: half took up to 1.2 s, 19 of 20 up to 2.2 s, the slowest 2.5 s. How long 2 more took was not kept."
    )
    both = of(1.0, 2.0, 3.0, verdicts=(0.1, 0.2))
    assert latency_text(both) == (
        "3 calls for answers: half took up to 2 s, 19 of 20 up to 2 s, the slowest 3 s. "
        "2 calls for verdicts: half took up to 0.1 s, 19 of 20 up to 0.1 s, the slowest 0.2 s."
    )
    assert latencies(both).head == ("seconds", "calls for answers", "calls for verdicts")
    assert latencies(of(1.0, 2.0, 3.0, 4.0, 30.0)).lines[-1] == ("5 to 30", "1")


def test_times_and_figures_are_short() -> None:
    times = (0.0, 0.0004, 0.0123, 0.0996, 0.834, 8.34, 9.96, 41.7, 599.7, 730.0)
    shown = ["0 ms", "0.4 ms", "12 ms", "0.1 s", "0.83 s", "8.3 s", "10 s", "42 s", "600 s", "12 min"]
    assert [brief(seconds) for seconds in times] == shown
    assert [figure(number) for number in (0.05, 1.25, 10.25, 1_250)] == ["0.05", "1.25", "10.25", "1,250"]


def test_the_chart_is_the_same_each_time_and_tells_two_kinds_apart() -> None:
    one, two = of(*usual(500), 40.0), of(*usual(500), verdicts=tuple(usual(400, 0.3)))
    chart = latency_chart(one)
    assert chart == latency_chart(one)
    assert (chart.title, chart.text) == ("How long calls took", latency_text(one))
    assert ">seconds that a call took<" in chart.svg
    assert ">to 40<" in chart.svg
    assert ">milliseconds that a call took<" in latency_chart(of(0.004, 0.005)).svg
    assert not {">answers<", ">verdicts<"} & set(_texts(chart.svg))
    assert {">answers<", ">verdicts<"} <= set(_texts(latency_chart(two).svg))


def _texts(svg: str) -> list[str]:
    return [f">{part.partition('<')[0]}<" for part in svg.split(">") if part.strip()]
