"""How a benchmark judges its figures, and how its table finds its place: pure functions."""

from __future__ import annotations

from dataclasses import replace

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import report
from benchmarks.__main__ import LINES, chosen
from benchmarks.lines import (
    TOLERATED_SHORTFALL,
    Bar,
    Outcome,
    Side,
    Unit,
    Verdict,
    at_least,
    at_most,
    document,
    failing,
    holds,
    memory,
    not_run,
    outcome_of,
    ratio,
    shortfall,
)
from benchmarks.server import Bucket
from tests.conftest import REPOSITORY

WORDS = st.text("abc |.:é", max_size=9)
FIGURES = st.floats(min_value=0.01, max_value=1e6, allow_nan=False)
BARS = st.builds(Bar, FIGURES, st.booleans(), st.booleans())
SIDES = st.none() | st.builds(Side, WORDS, FIGURES, st.integers(0, 10**6), st.integers(0, 10**10))
OUTCOMES = st.builds(
    Outcome,
    st.sampled_from([line.name for line in LINES]),
    WORDS,
    st.sampled_from(Unit),
    st.none() | FIGURES,
    st.none() | BARS,
    SIDES,
    SIDES,
    WORDS,
    WORDS,
    st.booleans(),
    st.text("abc", max_size=9),
)


def outcome(figure: float | None, bar: Bar | None) -> Outcome:
    return Outcome("line", "what", Unit.TIMES, figure, bar)


@pytest.mark.parametrize(
    ("figure", "bar", "said"),
    [
        (0.8, at_least(0.8), "met"),
        (0.76, at_least(0.8), "short by 5 %"),
        (0.724, at_least(0.8), "short by 10 %"),
        (0.7, at_least(0.8), "missed by 13 %"),
        (60, at_most(60), "met"),
        (60.1, at_most(60), "short by less than 1 %"),
        (90, at_most(60), "missed by 50 %"),
        (1, Bar(1, strict=True), "short by less than 1 %"),
        (1.01, Bar(1, strict=True), "met"),
        (0, at_most(0), "met"),
        (1, at_most(0), "missed by 100 %"),
        (5, None, "for information"),
    ],
)
def test_a_figure_is_judged_by_its_bar(figure: float, bar: Bar | None, said: str) -> None:
    assert outcome(figure, bar).said == said


@given(FIGURES, BARS)
def test_exactly_one_verdict_fits(figure: float, bar: Bar) -> None:
    verdict = outcome(figure, bar).verdict
    by = shortfall(figure, bar)
    assert (verdict is Verdict.MET) == holds(figure, bar)
    if not holds(figure, bar):
        assert verdict is (Verdict.SHORT if by <= TOLERATED_SHORTFALL else Verdict.MISSED)
        assert (figure - bar.limit) * (1 if bar.at_least else -1) <= 0
    assert (by == 0) == (holds(figure, bar) or figure == bar.limit)


@given(FIGURES, FIGURES, BARS)
def test_a_better_figure_is_never_judged_worse(one: float, other: float, bar: Bar) -> None:
    worse, better = sorted((one, other), reverse=not bar.at_least)
    assert shortfall(better, bar) <= shortfall(worse, bar)
    assert holds(better, bar) or not holds(worse, bar)


def test_only_what_is_missed_or_broken_fails_the_run() -> None:
    met, short, missed = outcome(1, at_least(0.8)), outcome(0.75, at_least(0.8)), outcome(0.5, at_least(0.8))
    absent, broken = not_run("peers", "a peer", "no network"), not_run("job", "a job", "it died", broken=True)
    assert failing([met, short, missed, absent, broken, outcome(3, None)]) == [missed, broken]
    assert (absent.said, broken.said) == ("not run: no network", "broken: it died")


def test_a_ratio_is_of_speeds_and_memory_in_megabytes() -> None:
    product, floor = Side("product", 4, 100, 250_000_000), Side("floor", 2, 100)
    assert ratio("line", "what", product, floor, at_least(0.5)).figure == 0.5
    assert memory("line", "what", product, at_most(300)).figure == 250


@given(OUTCOMES)
def test_an_outcome_comes_back_from_results_json(wanted: Outcome) -> None:
    assert outcome_of(orjson.loads(orjson.dumps(document(wanted)))) == wanted


@given(st.lists(st.integers(1, 5_000), min_size=1, max_size=300), st.integers(60, 6_000))
def test_the_bucket_never_gives_more_than_its_rate(pauses_ms: list[int], per_minute: int) -> None:
    bucket, at, taken = Bucket(per_minute, 100.0), 100.0, 0
    for pause in pauses_ms:
        at += pause / 1000
        taken += bucket.take(at)
    assert taken <= (1 + at - 100) * per_minute / 60 + 1e-6


def test_the_table_goes_between_the_markers_and_nothing_else_changes() -> None:
    page = f"before\n{report.BEGIN}\nold\n{report.END}\nafter {{braces}}\n"
    once = report.put_between_markers(page, "| new |")
    assert once == f"before\n{report.BEGIN}\n\n| new |\n\n{report.END}\nafter {{braces}}\n"
    assert report.put_between_markers(once, "| new |") == once


@pytest.mark.parametrize("page", ["", report.BEGIN, f"{report.END} {report.BEGIN}", f"{report.BEGIN * 2}{report.END}"])
def test_a_page_without_its_markers_is_refused(page: str) -> None:
    with pytest.raises(report.NoMarkers, match=r"performance\.md"):
        report.put_between_markers(page, "table")


def test_the_shipped_page_has_a_place_for_the_table_and_speaks_of_every_line() -> None:
    page = (REPOSITORY / "docs" / "performance.md").read_text(encoding="utf-8")
    assert report.put_between_markers(page, "table")
    for line in LINES:
        assert f"`{line.name}`" in page, line.name


@given(st.lists(OUTCOMES, min_size=1, max_size=6))
def test_a_table_has_a_line_for_every_outcome(outcomes: list[Outcome]) -> None:
    lines = report.markdown(outcomes).splitlines()
    assert sum(line.startswith("| ") for line in lines) == len(outcomes) + 2
    without = [replace(one, note="") for one in outcomes]
    assert len(report.plain(without).splitlines()) == len(outcomes) + 1
    assert report.plain(outcomes).startswith(report.plain(without))


def test_lines_are_chosen_by_name_and_the_large_ones_only_when_asked_for() -> None:
    assert all(not line.large for line in chosen([], large=False))
    assert len(chosen([], large=True)) == len(LINES) > len(chosen([], large=False))
    assert [line.name for line in chosen(["startup", "plan"], large=False)] == ["plan", "startup"]
    with pytest.raises(ValueError, match="there is: plan"):
        chosen(["plna"], large=False)
