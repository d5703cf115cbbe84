"""The report as Markdown: the same facts as the page, for a ticket or a wiki; no text of the job is markup."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from batch_jobs.output import report_words as words
from batch_jobs.output.report_facts import Pace, Report
from batch_jobs.output.report_html import GENERATOR, address, shown
from batch_jobs.output.report_words import Grid
from batch_jobs.output.words import count, duration, when

BAR_CHARS = 30
_MARKUP = re.compile(r"([\\`*_\[\]|~$]|:(?=//))|(www)(\.)", re.IGNORECASE)
"""What would be markup, a link or a formula in the middle of a line; no text of the job begins one."""
_ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}


def markdown_of(report: Report) -> bytes:
    """The whole text; the same report gives the same bytes."""
    return ("\n".join(_lines(report)) + "\n").encode("utf-8", "replace")


def escaped(text: str) -> str:
    """A text that Markdown shows as it is, on one line: no markup, no HTML, no link that a reader would follow."""
    flat = " ".join(shown(text).split())
    plain = "".join(_ENTITIES.get(char, char) for char in flat)
    return _MARKUP.sub(lambda found: f"\\{found[1]}" if found[1] else f"{found[2]}\\.", plain)


def _lines(report: Report) -> Iterator[str]:
    yield f"<!-- {GENERATOR} -->"
    yield f"# {escaped(words.headline(report))}"
    yield ""
    at = when(report.done_at or report.created_at)
    yield f"File {escaped(report.file_name)}, {escaped(report.task)} / {escaped(report.data_case)}, {at}."
    yield f"How it stands: **{words.standing(report)}**. {escaped(report.description)}"
    for note in words.notes(report):
        yield from ("", f"> {escaped(note)}")
    yield from _section("How the rows ended", _grid(words.outcomes(report)))
    yield from _section(
        "Cost and tokens", (escaped(words.saving(report.costs)), "", *_grid(words.spends(report.costs)))
    )
    if report.costs.prices:
        yield from ("", "Prices, in USD for a million tokens:", "", *_grid(words.prices(report.costs)))
    yield from _section("What needed no call", _facts(words.savings_of_caches(report)))
    yield from _section("Time", _facts(words.timing(report)))
    if report.pace is not None:
        yield from ("", *_bars(report.pace))
    yield from _latency(report)
    yield from _section("Rounds and batches", (escaped(words.attempts(report)), "", *_grid(words.rounds(report))))
    if report.way.batches:
        yield from ("", *_grid(words.batches(report)))
        if report.way.batches_in_all > len(report.way.batches):
            more = f"The first {len(report.way.batches)} of {report.way.batches_in_all:,}; all stand in manifest.json."
            yield from ("", more)
    yield from _section("What was cut off", _facts(words.cuts(report)))
    yield from _judge(report)
    yield from _section("Most common errors", _grid(words.problems(report)) if report.problems else ("None.",))
    yield from _samples(report)
    yield from _section("What it ran with", _facts(report.settings))
    if report.artefacts:
        files = (f"- {escaped(one.name)}: [{escaped(one.path)}](<{address(one.path)}>)" for one in report.artefacts)
        yield from _section("Files of this job", files)


def _section(title: str, lines: Sequence[str] | Iterator[str]) -> Iterator[str]:
    yield from ("", f"## {title}", "", *lines)


def _grid(table: Grid) -> Iterator[str]:
    yield f"| {' | '.join(map(escaped, table.head))} |"
    yield f"| {' | '.join('---:' if place in table.numbers else '---' for place in range(len(table.head)))} |"
    for line in table.lines:
        yield f"| {' | '.join(escaped(cell) if cell else ' ' for cell in line)} |"


def _facts(pairs: Sequence[tuple[str, str]]) -> Iterator[str]:
    return (f"- {escaped(name)}: {escaped(value)}" for name, value in pairs)


def _bars(pace: Pace) -> Iterator[str]:
    """Answers over time, in at most twelve lines of text."""
    step = max(1, len(pace.counts) // 12)
    sums = [sum(pace.counts[start : start + step]) for start in range(0, len(pace.counts), step)]
    most = max(sums)
    yield "```text"
    for place, number in enumerate(sums):
        until = pace.edges[min((place + 1) * step, len(pace.counts))]
        yield f"{duration(until):>10}  {'█' * round(BAR_CHARS * number / most):<{BAR_CHARS}} {number:>10,}"
    yield "```"


def _latency(report: Report) -> Iterator[str]:
    if report.latency is not None:
        told = escaped(words.latency_text(report.latency))
        yield from ("", f"How long calls took: {told}", "", *_grid(words.latencies(report.latency)))


def _judge(report: Report) -> Iterator[str]:
    told = words.verdicts(report)
    if told is None or report.judged is None:
        return
    yield from _section("What the judge said", _grid(told[0]))
    yield from ("", *_grid(told[1]))
    most = max(report.judged.scores)
    if most and report.judged.mean is not None:
        total = sum(report.judged.scores)
        yield from ("", f"{count(total, 'answer')} scored, {report.judged.mean:.2f} on average:", "", "```text")
        for tenth, number in enumerate(report.judged.scores):
            bar = "█" * round(BAR_CHARS * number / most)
            yield f"{tenth / 10:.1f} to {(tenth + 1) / 10:.1f}  {bar:<{BAR_CHARS}} {number:>10,}"
        yield "```"


def _samples(report: Report) -> Iterator[str]:
    yield from ("", f"## {len(report.samples)} sample rows")
    for sample in report.samples:
        yield from ("", f"### Row {sample.number:,}: {sample.mark}", "")
        yield from _facts(sample.inputs)
        yield from (f"- → {escaped(name)}: **{escaped(cell)}**" for name, cell in sample.answers)
        if sample.reason:
            yield f"- why: {escaped(sample.reason)}"
        if sample.verdict:
            yield f"- judge: {escaped(sample.verdict)}"
