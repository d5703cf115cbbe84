"""The sentences of a report, its escapes, its charts, and which rows it shows."""

from __future__ import annotations

from array import array
from dataclasses import replace
from datetime import date
from itertools import pairwise

import numpy as np
import pytest

from batch_jobs.lifecycle.report.gather import pace_of
from batch_jobs.lifecycle.report.rows import ANSWERED, FIRST_PROBLEM, MOST_PROBLEMS, OPEN, UNRENDERED, Kinds, Rows
from batch_jobs.models import JobOutcome, Mode, Phase, Price
from batch_jobs.output import report_words
from batch_jobs.output.report_charts import MOST_BARS, answers_chart, batches_chart, scores_chart
from batch_jobs.output.report_facts import (
    Costs,
    Cuts,
    Ended,
    Judged,
    Known,
    PriceLine,
    Report,
    ShardLine,
    Spend,
    Way,
)
from batch_jobs.output.report_html import address, shown
from batch_jobs.output.report_markdown import escaped
from batch_jobs.output.words import share, when

SPEND = Spend(
    "m", "answers", "succeeded", calls=10, input_tokens=1_000, cached_tokens=250, output_tokens=100, cost_usd=0.5
)
PRICE = PriceLine("m", Price(1, 2, 0.5), Price(2, 4, 1), "the list", date(2026, 11, 21))
COSTS = Costs(Mode.BATCH, 0.5, 0.5, 1.0, (SPEND,), (PRICE,))
REPORT = Report(
    task_id="0" * 32,
    task="summarize",
    data_case="external_loss",
    description="Summarise.",
    file_name="losses.csv",
    simulated=False,
    phase=Phase.DONE,
    outcome=JobOutcome.PARTIAL,
    message=None,
    rows=2_000,
    items=1_900,
    created_at=0.0,
    started_at=0.0,
    done_at=360.0,
    seconds=360.0,
    ended=(Ended("succeeded", "answered", 1_900), Ended("known", "known", 34), Ended("refused", "refused", 66)),
    known=Known(34, 34, 100),
    costs=COSTS,
    pace=None,
    latency=None,
    way=Way((), (), 0, 1, ((1, 1_800), (2, 60), (4, 6)), ()),
    cuts=Cuts(0, 0, 0, 0, 0),
    judged=None,
    problems=(),
    samples=(),
    settings=(),
)
ALL = (Ended("succeeded", "answered", 2_000),)
NONE = (Ended("errored", "provider error", 2_000),)


@pytest.mark.parametrize(
    ("report", "said"),
    [
        (REPORT, "1,934 of 2,000 rows were answered (96.7 %); 66 have no answer. It cost $0.50 and took 6 min."),
        (replace(REPORT, ended=ALL, outcome=JobOutcome.COMPLETE), "All 2,000 rows were answered. It cost"),
        (replace(REPORT, ended=NONE, outcome=JobOutcome.FAILED), "None of the 2,000 rows was answered."),
        (replace(REPORT, outcome=JobOutcome.CANCELLED), "Stopped by the user: 1,934 of 2,000 rows had been answered."),
        (
            replace(REPORT, phase=Phase.RUNNING, ended=(Ended("succeeded", "answered", 1_990), Ended("open", "", 10))),
            "Under way: 1,990 of 2,000 rows are answered, 10 are still to come. It has cost $0.50 so far, in 6 min.",
        ),
        (replace(REPORT, costs=replace(COSTS, paid_usd=None)), "Its price is not known; it took 6 min."),
    ],
)
def test_the_headline(report: Report, said: str) -> None:
    assert said in report_words.headline(report)


def test_what_the_other_way_would_have_cost() -> None:
    assert report_words.saving(COSTS) == "By batch $0.50; single calls would have cost $1.00: $0.50 less (50 %)."
    at_once = replace(COSTS, mode=Mode.CONCURRENT, paid_usd=1.0)
    assert "a batch would have cost $0.50: $0.50 more (100 %), for answers at once" in report_words.saving(at_once)
    assert "no price for every model" in report_words.saving(replace(COSTS, batch_usd=None))
    assert report_words.saving(replace(COSTS, spends=(), paid_usd=0.0)) == "Nothing had to be paid for."
    assert report_words.savings_of_caches(REPORT)[2][1] == "250 of 1,000 input tokens (25.0 %)"
    assert report_words.attempts(REPORT) == "Requests sent: 1,800 once, 60 twice, 6 each 4 times."


def test_shares_are_all_or_none_only_where_they_are() -> None:
    assert [share(part, 100_000) for part in (0, 1, 50_000, 99_999, 100_000)] == [
        *("0 %", "0.1 %", "50.0 %", "99.9 %", "100 %")
    ]
    assert (share(0, 0), when(None), when(1.9)) == ("0 %", "–", "1 Jan 1970, 00:00:01 UTC")


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("a|b", "a\\|b"),
        ("<b>&amp;", "&lt;b&gt;&amp;amp;"),
        ("[x](http://evil) www.evil", "\\[x\\](http\\://evil) www\\.evil"),
        ("one\n\n# two\r\n| three", "one # two \\| three"),
        ("**b** _i_ `c` ~s~ $x$ \\", "\\*\\*b\\*\\* \\_i\\_ \\`c\\` \\~s\\~ \\$x\\$ \\\\"),
        ("\x00\x1b[31m", "\ufffd\ufffd\\[31m"),
        ("  ", "(empty)"),
    ],
)
def test_a_cell_is_text_in_markdown(text: str, written: str) -> None:
    assert escaped(text) == written


def test_what_a_page_can_not_show_is_made_visible() -> None:
    assert shown("a\x07b\u202ec\n\td") == "a\ufffdb\ufffdc\n\td"
    assert address("a b/ü?#.csv") == "./a%20b/%C3%BC%3F%23.csv"
    assert address("javascript:alert(1)") == "./javascript%3Aalert%281%29"
    assert address("../x/") == "../x/"


def shards(number: int) -> list[ShardLine]:
    return [ShardLine(0, n, "answers", 10, 100, "completed", f"b{n}", 1.0, 60.0 * n + 5) for n in range(number)]


def test_charts_are_the_same_each_time_and_take_the_page_s_colours() -> None:
    pace = pace_of(array("d", [130.0, 110.0, 101.0, 101.5]), 100.0)
    assert pace is not None
    assert (sum(pace.counts), pace.half, pace.all) == (4, 1.5, 30.0)
    chart = answers_chart(pace)
    assert chart == answers_chart(pace)
    assert "var(--accent)" in chart.svg
    assert not [colour for colour in ("#000000", "#00000", "<style", "DejaVu", "<metadata") if colour in chart.svg]
    assert chart.text == "4 answers: half of them after 2 s, nine tenths after 10 s, all after 30 s."
    assert pace_of(array("d"), 0.0) is None


def test_many_batches_are_a_histogram_and_none_is_no_chart() -> None:
    few, many = batches_chart(shards(3)), batches_chart(shards(MOST_BARS + 1))
    assert few is not None
    assert many is not None
    assert ("round 1, no. 3" in few.svg, "round 1, no. 3" in many.svg) == (True, False)
    assert "batches" in many.svg
    assert batches_chart([]) is None
    judged = Judged((("accept", 3),), (0,) * 9 + (3,), 0.95, ((0, 3),))
    assert "3 answers scored, 0.95 on average; 3 of them 0.8 or more." in str(scores_chart(judged))
    assert scores_chart(replace(judged, scores=(0,) * 10, mean=None)) is None


def rows(codes: list[int]) -> Rows:
    return Rows(np.array(codes, dtype=np.uint16), np.ones(len(codes), dtype=bool), Kinds(), {}, {}, 0, 0, 0, 0)


def test_sample_rows_are_spread_and_hold_failures() -> None:
    codes = [ANSWERED] * 1_000
    codes[500], codes[999] = FIRST_PROBLEM, UNRENDERED
    chosen = rows(codes).sample(20, 6)
    assert len(chosen) == 20
    assert {500, 999} <= set(chosen)
    assert chosen == sorted(chosen) == rows(codes).sample(20, 6)
    assert (chosen[0] < 60, max(b - a for a, b in pairwise(chosen)) < 60) == (True, True)
    assert rows([ANSWERED, OPEN, FIRST_PROBLEM]).sample(20, 6) == [0, 1, 2]
    assert len(rows([FIRST_PROBLEM] * 50).sample(20, 6)) == 20
    assert len(rows([ANSWERED] * 30 + [FIRST_PROBLEM] * 50).sample(20, 6)) == 20


def test_kinds_of_errors_differ_in_words_not_in_numbers_and_are_bounded() -> None:
    kinds = Kinds()
    first = kinds.code_of("errored", "400", "request 17 of abc123 failed")
    assert kinds.code_of("errored", "400", "Request 18 of abc124 failed") == first == FIRST_PROBLEM
    assert kinds.code_of("errored", "500", "request 17 of abc123 failed") != first
    assert kinds.said[0] == "400: request 17 of abc123 failed"
    for number in range(3 * MOST_PROBLEMS):
        word = "".join(chr(ord("g") + (number // 19**place) % 19) for place in range(4))
        kinds.code_of("errored", "400", word)
    assert len(kinds.said) <= MOST_PROBLEMS + 1
    assert kinds.said[-1] == "and more kinds of errors"
