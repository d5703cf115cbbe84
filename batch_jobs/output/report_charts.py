"""The charts of a report as inline SVG: drawn by matplotlib, coloured by the page, the same bytes for the same figures.

No text of a user's file is ever drawn: labels are ours, and numbers.
"""

from __future__ import annotations

import io
import logging
import re
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from html import escape
from math import ceil
from typing import TYPE_CHECKING, Any, NamedTuple

from batch_jobs.output.report_facts import Judged, Latency, Pace, ShardLine
from batch_jobs.output.report_words import latency_text
from batch_jobs.output.words import brief, count, duration, figure

if TYPE_CHECKING:
    from collections.abc import Callable

    from matplotlib.axes import Axes

    Draw = Callable[[Axes], None]

WIDTH_INCHES, HEIGHT_INCHES = 5.6, 2.9
"""At 72 points an inch: small, so that its text can still be read where it is scaled to a phone."""
MOST_BARS = 40
MOST_LABELS = 8
"""Of a few digits, side by side below an axis."""
BINS_WIDTH = 0.9
"""Of the room that a bin has, its bars take so much."""
COLOURS = {
    "#000001": "var(--ink)",
    "#000002": "var(--muted)",
    "#000003": "var(--line)",
    "#000004": "var(--accent)",
    "#000005": "var(--accent-soft)",
}
"""What matplotlib draws with, and what the page's light or dark theme makes of it."""
INK, MUTED, LINE, ACCENT, SOFT = COLOURS
_STYLE: dict[Any, object] = {
    "svg.fonttype": "none",  # text stays text, in the page's own font
    "font.family": "DejaVu Sans",  # comes with matplotlib, so that layouts do not depend on the machine
    "font.size": 12,
    "text.parse_math": False,
    "text.color": INK,
    "axes.labelcolor": MUTED,
    "axes.edgecolor": LINE,
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "grid.color": LINE,
    "grid.linewidth": 0.7,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
}
_drawing = threading.Lock()
"""matplotlib's settings are the process's; a server draws for several clients."""


@dataclass(frozen=True, slots=True)
class Chart:
    """One chart.

    Attributes:
        name: of its elements in the page: its text stands there as `<name>-text`.
        title: what is shown.
        text: the same in words, also for those who do not see it.
        svg: safe to stand in a page as it is.
    """

    name: str
    title: str
    text: str
    svg: str


@dataclass(frozen=True, slots=True)
class _Unit:
    """Of a time axis."""

    word: str
    seconds: float


class _Span(NamedTuple):
    """Of time, in seconds since the start, and what went on in it."""

    name: str
    start: float
    end: float


def _unit(seconds: float) -> _Unit:
    if seconds < 180:
        return _Unit("seconds", 1.0)
    return _Unit("minutes", 60.0) if seconds < 3 * 3600 else _Unit("hours", 3600.0)


def answers_chart(pace: Pace) -> Chart:
    """How many answers there were at each moment."""
    unit, total, so_far = _unit(pace.all), sum(pace.counts), [0]
    for number in pace.counts:
        so_far.append(so_far[-1] + number)
    title = f"{pace.of.capitalize()}s over time"
    text = (
        f"{count(total, pace.of)}: half of them after {duration(pace.half)}, "
        f"nine tenths after {duration(pace.most)}, all after {duration(pace.all)}."
    )

    def draw(axes: Axes) -> None:
        edges = [edge / unit.seconds for edge in pace.edges]
        axes.fill_between(edges, so_far, step="pre", color=SOFT, linewidth=0)
        axes.step(edges, so_far, where="pre", color=ACCENT, linewidth=2)
        _time_axis(axes, unit, pace.edges[-1])
        _count_axis(axes, f"{pace.of}s so far")

    return Chart("answers", title, text, _svg("answers", title, draw))


def throughput_chart(pace: Pace) -> Chart:
    """How many answers came in each span of time."""
    unit, span = _unit(pace.all), pace.edges[1] - pace.edges[0]
    most = max(range(len(pace.counts)), key=pace.counts.__getitem__)
    title = "Throughput"
    text = (
        f"At most {count(pace.counts[most], pace.of)} in {brief(span)}, {duration(pace.edges[most])} after the start; "
        f"{60 * sum(pace.counts) / max(pace.all, 1.0):,.0f} a minute on average."
    )

    def draw(axes: Axes) -> None:
        middles = [(edge + span / 2) / unit.seconds for edge in pace.edges[:-1]]
        axes.bar(middles, pace.counts, width=0.8 * span / unit.seconds, color=ACCENT)
        _time_axis(axes, unit, pace.edges[-1])
        _count_axis(axes, f"{pace.of}s in {brief(span)}")

    return Chart("throughput", title, text, _svg("throughput", title, draw))


def latency_chart(latency: Latency) -> Chart:
    """How many calls took how long, in bins of equal width on the page; the two ends stand apart from the others."""
    title = "How long calls took"

    def draw(axes: Axes) -> None:
        width = BINS_WIDTH / len(latency.series)
        for number, took in enumerate(latency.series):
            first = (1 - BINS_WIDTH) / 2 + width * (number + 0.5)
            places = [first + place for place in _bin_places(len(latency.edges))]
            bars = zip(places, took.counts, strict=True)
            at, calls = zip(*(bar for bar in bars if bar[1]), strict=True)
            fill = ACCENT if number == 0 else SOFT
            axes.bar(at, calls, 0.95 * width, facecolor=fill, edgecolor=ACCENT, linewidth=number, label=took.asks)
        _latency_axis(axes, latency)
        _count_axis(axes, "calls")
        if len(latency.series) > 1:
            axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=2, frameon=False, borderaxespad=0)

    return Chart("latency", title, latency_text(latency), _svg("latency", title, draw))


def _bin_places(edges: int) -> list[float]:
    """Where the bins begin on the axis: those between edges in a row from 0 on, the open ones half a bin away."""
    return [-1.5, *map(float, range(edges - 1)), edges - 0.5]


def _latency_axis(axes: Axes, latency: Latency) -> None:
    """Edges of bins, as many as there is room for, and how far the open bins reach."""
    edges, inner = latency.edges, len(latency.edges) - 1
    scale, unit = (1_000, "milliseconds") if edges[-1] < 1 else (1, "seconds")
    left, right = -1.5 if latency.quicker else 0.0, inner + 1.5 if latency.slower else float(inner)
    room = (right - left) / MOST_LABELS
    labels = [figure(scale * edge) for edge in edges]
    every = ceil(room)
    start = min(range(every), key=lambda first: len("".join(labels[first::every])))  # the shortest ones: 1, 2, 4
    ticks = {float(place): labels[place] for place in range(start, len(edges), every)}
    ends = {}
    if latency.quicker:
        ends[-1.0] = f"from {figure(scale * latency.spans[0][0], digits=3)}"
    if latency.slower:
        ends[inner + 1.0] = f"to {figure(scale * latency.spans[-1][1], digits=3)}"
    ticks = {at: label for at, label in ticks.items() if all(abs(at - end) > 1.3 * room for end in ends)} | ends
    axes.set_xticks(list(ticks), list(ticks.values()))
    axes.set_xlim(left - 0.01 * (right - left), right + 0.01 * (right - left))
    axes.tick_params(axis="x", pad=8)  # else the first label stands in the 0 of the other axis
    axes.set_xlabel(f"{unit} that a call took")


def batches_chart(batches: Sequence[ShardLine]) -> Chart | None:
    """When each provider batch was under way; their durations where there are many. None before any has ended."""
    spans = _spans(batches)
    if not spans:
        return None
    times = sorted(span.end - span.start for span in spans)
    title = "Batches, from submission to their end"
    text = (
        f"{count(len(times), 'batch')}: the quickest took {duration(times[0])}, "
        f"the middle one {duration(times[len(times) // 2])}, the slowest {duration(times[-1])}."
    )
    if len(spans) > MOST_BARS:
        return Chart("batches", title, text, _svg("batches", title, partial(_durations, times=times)))
    height = max(HEIGHT_INCHES, 0.9 + 0.25 * len(spans))
    return Chart("batches", title, text, _svg("batches", title, partial(_bars, spans=spans), height))


def _spans(batches: Iterable[ShardLine]) -> list[_Span]:
    """When those that have ended were under way."""
    return [
        _Span(f"round {line.round + 1}, no. {line.shard + 1}", line.sent, line.ended)
        for line in batches
        if line.sent is not None and line.ended is not None
    ]


def _bars(axes: Axes, spans: Sequence[_Span]) -> None:
    last = max(span.end for span in spans)
    unit = _unit(last)
    starts = [span.start / unit.seconds for span in spans]
    lengths = [(span.end - span.start) / unit.seconds for span in spans]
    axes.barh(range(len(spans)), lengths, left=starts, color=ACCENT, height=0.6)
    axes.set_yticks(range(len(spans)), [span.name for span in spans])
    axes.invert_yaxis()
    axes.grid(False, axis="y")
    _time_axis(axes, unit, last)


def _durations(axes: Axes, times: Sequence[float]) -> None:
    unit = _unit(times[-1])
    axes.hist([seconds / unit.seconds for seconds in times], bins=20, color=ACCENT, rwidth=0.85)
    axes.set_xlabel(f"{unit.word} from submission to end")
    axes.grid(False, axis="x")
    _count_axis(axes, "batches")


def scores_chart(judged: Judged) -> Chart | None:
    """How the judge scored; None without scores."""
    total = sum(judged.scores)
    if not total or judged.mean is None:
        return None
    high = sum(judged.scores[8:])
    title = "Scores of the judge"
    text = f"{count(total, 'answer')} scored, {judged.mean:.2f} on average; {high:,} of them 0.8 or more."

    def draw(axes: Axes) -> None:
        axes.bar([(number + 0.5) / 10 for number in range(10)], judged.scores, width=0.085, color=ACCENT)
        axes.set_xlim(0, 1)
        axes.set_xlabel("score")
        axes.grid(False, axis="x")
        _count_axis(axes, "answers")

    return Chart("scores", title, text, _svg("scores", title, draw))


def _time_axis(axes: Axes, unit: _Unit, last: float) -> None:
    axes.set_xlim(0, max(last, 1.0) / unit.seconds)
    axes.set_xlabel(f"{unit.word} since the start")


def _count_axis(axes: Axes, label: str) -> None:
    from matplotlib.ticker import MaxNLocator, StrMethodFormatter

    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axes.set_ylabel(label)
    axes.grid(False, axis="x")


def _svg(name: str, title: str, draw: Draw, height: float = HEIGHT_INCHES) -> str:
    """Draw one chart, and make it part of a page."""
    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # says where it keeps its font list, on the user's screen
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with _drawing, matplotlib.rc_context({**_STYLE, "svg.hashsalt": name}):
        figure = Figure(figsize=(WIDTH_INCHES, height), layout="constrained")
        figure.patch.set_visible(False)
        axes = figure.add_subplot()
        axes.patch.set_visible(False)
        draw(axes)
        FigureCanvasSVG(figure)
        made = io.StringIO()
        figure.savefig(made, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    return _of_page(made.getvalue(), name, title)


_HEAD = re.compile(r'^.*?<svg [^>]*viewBox="([^"]+)"[^>]*>', re.DOTALL)
_STYLE_SHEET = re.compile(r"\s*<defs>\s*<style.*?</style>\s*</defs>", re.DOTALL)
_GROUP_ID = re.compile(r' id="[A-Za-z0-9.]+_\d+"')
_FONT = re.compile(r"font(-size)?: ([\d.]+px)[^;\"]*(; font-family: [^;\"]*)?")
_METADATA = re.compile(r"\s*<metadata>.*?</metadata>", re.DOTALL)


def _of_page(svg: str, name: str, title: str) -> str:
    """An SVG file as an element of a page: named, in the page's font and colours, its ids no other chart's."""
    found = _HEAD.match(svg)
    assert found, svg[:200]
    body = _METADATA.sub("", _STYLE_SHEET.sub("", svg[found.end() :], count=1))
    body = _FONT.sub(r"font-size: \2", _GROUP_ID.sub("", body))
    for drawn, shown in COLOURS.items():
        body = body.replace(drawn, shown)
    named = f'role="img" aria-labelledby="{name}-title" aria-describedby="{name}-text"'
    head = f'<svg class="chart" viewBox="{found[1]}" {named}><title id="{name}-title">{escape(title)}</title>'
    return head + body.strip()
