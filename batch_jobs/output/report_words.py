"""The sentences and tables of a report, before they are HTML or Markdown: said once, so that both say the same."""

from __future__ import annotations

from dataclasses import dataclass

from batch_jobs.models import JobOutcome, Mode
from batch_jobs.output.report_facts import Costs, Latency, Report, Took
from batch_jobs.output.words import brief, count, duration, figure, money, share, when


@dataclass(frozen=True, slots=True)
class Grid:
    """A table: header cells, and lines of as many; `numbers` are the columns that are figures."""

    head: tuple[str, ...]
    lines: tuple[tuple[str, ...], ...]
    numbers: frozenset[int] = frozenset()


def headline(report: Report) -> str:
    """How it went, in a sentence or two."""
    cost = report.costs.paid_usd
    paid = f"It cost {money(cost)} and" if cost is not None else "Its price is not known; it"
    took = f"{paid} took {duration(report.seconds)}."
    if not report.done:
        so_far = f"It has cost {money(cost)} so far" if cost is not None else "Its price is not known"
        answered = f"{report.answered:,} of {count(report.rows, 'row')} are answered"
        return f"Under way: {answered}, {report.open:,} are still to come. {so_far}, in {duration(report.seconds)}."
    if report.outcome is JobOutcome.CANCELLED:
        return f"Stopped by the user: {report.answered:,} of {count(report.rows, 'row')} had been answered. {took}"
    if not report.failed:
        return f"All {report.rows:,} rows were answered. {took}" if report.rows > 1 else f"The row was answered. {took}"
    if not report.answered:
        return f"None of the {count(report.rows, 'row')} was answered. {took}"
    have = "has" if report.failed == 1 else "have"
    part = share(report.answered, report.rows)
    return (
        f"{report.answered:,} of {count(report.rows, 'row')} were answered ({part}); "
        f"{report.failed:,} {have} no answer. {took}"
    )


def standing(report: Report) -> str:
    """One word on how it stands."""
    if not report.done:
        return "under way"
    return {JobOutcome.COMPLETE: "complete", JobOutcome.PARTIAL: "some rows failed", JobOutcome.FAILED: "failed"}.get(
        report.outcome or JobOutcome.PARTIAL, "cancelled"
    )


def notes(report: Report) -> tuple[str, ...]:
    """What has to be known before any figure is read."""
    found = []
    if report.simulated:
        found.append(
            "A rehearsal: the answers are simulated, and nothing was billed. Costs are what it would have cost."
        )
    if not report.done:
        found.append("The job is not done: these are the figures so far.")
    if report.message and not report.done:
        found.append(f"It needs somebody: {report.message}")
    return tuple(found)


def outcomes(report: Report) -> Grid:
    """Rows by how they ended."""
    lines = tuple((ended.words, f"{ended.rows:,}", share(ended.rows, report.rows)) for ended in report.ended)
    return Grid(("outcome", "rows", "share"), (*lines, ("all", f"{report.rows:,}", "100 %")), frozenset({1, 2}))


def saving(costs: Costs) -> str:
    """The way that was taken against the other one."""
    if costs.paid_usd is None or costs.batch_usd is None or costs.concurrent_usd is None:
        return "config.json has no price for every model, so what it cost is not known."
    if not costs.calls:
        return "Nothing had to be paid for."
    if costs.mode is Mode.BATCH:
        saved = costs.concurrent_usd - costs.paid_usd
        return (
            f"By batch {money(costs.paid_usd)}; single calls would have cost {money(costs.concurrent_usd)}: "
            f"{money(saved)} less ({_percent(saved, costs.concurrent_usd)})."
        )
    more = costs.paid_usd - costs.batch_usd
    return (
        f"By single calls {money(costs.paid_usd)}; a batch would have cost {money(costs.batch_usd)}: "
        f"{money(more)} more ({_percent(more, costs.batch_usd)}), for answers at once."
    )


def _percent(part: float, whole: float) -> str:
    return f"{100 * part / whole:.0f} %" if whole > 0 else "0 %"


def spends(costs: Costs) -> Grid:
    """Calls, tokens and cost by model, by what the calls were for and by how they went."""
    known = costs.paid_usd is not None
    lines = [
        (
            spend.model,
            spend.asks,
            spend.outcome,
            f"{spend.calls:,}",
            f"{spend.input_tokens:,}",
            f"{spend.cached_tokens:,}",
            f"{spend.output_tokens:,}",
            exact(spend.cost_usd) if known else "?",
        )
        for spend in costs.spends
    ]
    total = f"{costs.calls:,}", f"{costs.input_tokens:,}", f"{costs.cached_tokens:,}", f"{costs.output_tokens:,}"
    lines.append(("all", "", "", *total, exact(costs.paid_usd) if costs.paid_usd is not None else "?"))
    head = ("model", "calls for", "that", "number", "tokens in", "of these cached", "tokens out", "cost")
    return Grid(head, tuple(lines), frozenset(range(3, 8)))


def exact(usd: float) -> str:
    """A sum with enough digits to be added up: `$0.0503`."""
    return f"${usd:,.2f}" if usd >= 100 else f"${usd:,.4f}"


def prices(costs: Costs) -> Grid:
    """USD per million tokens, with date and source."""
    lines = []
    for line in costs.prices:
        for way, price in (("batch", line.batch), ("at once", line.standard)):
            told = f"{line.date.isoformat()}, {line.source}"
            lines.append((line.model, way, f"{price.input:g}", f"{price.cached:g}", f"{price.output:g}", told))
    head = ("model", "way", "in", "in, cached", "out", "date and source")
    return Grid(head, tuple(lines), frozenset({2, 3, 4}))


def savings_of_caches(report: Report) -> tuple[tuple[str, str], ...]:
    """What needed no call, and what the provider had in its cache."""
    costs, known = report.costs, report.known
    of_all = f"of {costs.input_tokens:,} input tokens"
    cached = f"{costs.cached_tokens:,} {of_all} ({share(costs.cached_tokens, costs.input_tokens)})"
    before = f"{count(known.items, 'request')}, for {count(known.rows, 'row')}: nothing was sent for them"
    return (
        ("answered before", before if known.items else "none"),
        ("equal rows", _equal(known.shared_rows)),
        ("provider's prompt cache", cached if costs.cached_tokens else f"none {of_all}"),
    )


def _equal(rows: int) -> str:
    asks = "asks what another row asks" if rows == 1 else "ask what other rows ask"
    return f"{count(rows, 'row')} {asks}: asked and paid for once" if rows else "none"


def timing(report: Report) -> tuple[tuple[str, str], ...]:
    """When it was begun, how long the answers took."""
    found = [("taken in", when(report.created_at)), ("started", when(report.started_at))]
    if report.done:
        found.append(("done", when(report.done_at)))
    if report.pace is not None:
        found += [
            (f"half of the {report.pace.of}s", f"after {duration(report.pace.half)}"),
            ("nine tenths", f"after {duration(report.pace.most)}"),
            (f"all {report.pace.of}s", f"after {duration(report.pace.all)}"),
        ]
    return (*found, *report.way.pool)


def latency_text(latency: Latency) -> str:
    """How long single calls took, a sentence for each kind of call."""
    found = [f"{_calls(latency, took)}: {_times_of(took)}." for took in latency.series]
    unknown = [f"How long {latency.unknown:,} more took was not kept."] if latency.unknown else []
    return " ".join([*found, *unknown])


def _calls(latency: Latency, took: Took) -> str:
    calls = count(took.calls, "call")
    return f"{calls} for {took.asks}" if len(latency.series) > 1 else calls


def _times_of(took: Took) -> str:
    if took.calls == 1:
        return f"it took {brief(took.slowest)}"
    return f"half took up to {brief(took.median)}, 19 of 20 up to {brief(took.p95)}, the slowest {brief(took.slowest)}"


def latencies(latency: Latency) -> Grid:
    """Calls by how long they took."""
    kinds = tuple(f"calls for {took.asks}" if len(latency.series) > 1 else "calls" for took in latency.series)
    lines = tuple(
        (f"{figure(start)} to {figure(end)}", *(f"{calls:,}" for calls in many)) for start, end, many in latency.spans
    )
    return Grid(("seconds", *kinds), lines, frozenset(range(1, 1 + len(kinds))))


def rounds(report: Report) -> Grid:
    """The passes over what still needed an answer."""
    lines = tuple(
        (
            f"{line.round + 1}",
            f"{line.batches:,}" if line.batches else "single calls",
            f"{line.requests:,}" if line.batches else f"{line.answered + line.failed:,}",
            f"{line.answered:,}",
            f"{line.failed:,}",
        )
        for line in report.way.rounds
    )
    return Grid(("round", "batches", "requests", "answered", "failed for good"), lines, frozenset(range(1, 5)))


def batches(report: Report) -> Grid:
    """The provider's batches."""
    lines = tuple(
        (
            f"{line.round + 1}",
            f"{line.shard + 1}",
            line.asks,
            f"{line.requests:,}",
            f"{line.tokens:,}",
            line.state,
            _after(line.sent),
            _after(line.ended),
            duration(line.seconds) if line.seconds is not None else "–",
            line.batch_id or "–",
        )
        for line in report.way.batches
    )
    head = (
        "round",
        "no.",
        "asks for",
        "requests",
        "tokens in, estimated",
        "state",
        "sent after",
        "ended after",
        "took",
        "batch id",
    )
    return Grid(head, lines, frozenset({3, 4, 6, 7, 8}))


def _after(seconds: float | None) -> str:
    return duration(seconds) if seconds is not None else "–"


def attempts(report: Report) -> str:
    """How often requests had to be sent."""
    parts = [f"{items:,} {_times(number)}" for number, items in report.way.attempts]
    waves = f" The provider's queue took them in {report.way.waves:,} waves." if report.way.waves > 1 else ""
    return f"Requests sent: {', '.join(parts)}.{waves}" if parts else f"Nothing was sent.{waves}"


def _times(number: int) -> str:
    return {1: "once", 2: "twice", 3: "three times"}.get(number, f"each {number:,} times")


def cuts(report: Report) -> tuple[tuple[str, str], ...]:
    """What did not fit, going in and coming out."""
    given = report.cuts
    chars = f"{given.chars:,} characters in all, {given.most:,} of one row at most"
    shortened = f"{count(given.rows, 'row')}, as config.json asks: {chars}"
    cut_off = f"{count(given.answers, 'call')} paid for; {count(given.answer_rows, 'row')} ended so"
    return (
        ("rows shortened for the prompt", shortened if given.rows else "none"),
        ("answers cut off at the output limit", cut_off if given.answers or given.answer_rows else "none"),
    )


def verdicts(report: Report) -> tuple[Grid, Grid] | None:
    """What the judge said, and how often answers were written anew."""
    if report.judged is None:
        return None
    total = sum(number for _, number in report.judged.verdicts)
    said = tuple((verdict, f"{number:,}", share(number, total)) for verdict, number in report.judged.verdicts)
    anew = tuple((_times(times) if times else "never", f"{items:,}") for times, items in report.judged.repairs)
    return (
        Grid(("verdict", "requests", "share"), said, frozenset({1, 2})),
        Grid(("written anew", "requests"), anew, frozenset({1})),
    )


def problems(report: Report) -> Grid:
    """The most common errors."""
    lines = tuple(
        (problem.words, problem.said, f"{problem.rows:,}", share(problem.rows, report.rows), f"{problem.row:,}")
        for problem in report.problems
    )
    return Grid(("what", "in the provider's words", "rows", "share", "for example row"), lines, frozenset({2, 3, 4}))


def cards(report: Report) -> tuple[tuple[str, str, str], ...]:
    """The four figures that are asked for first: (name, figure, what it says)."""
    costs = report.costs
    tokens = f"{costs.input_tokens + costs.output_tokens:,} tokens, {count(costs.calls, 'call')}"
    way = "by batch" if costs.mode is Mode.BATCH else "by single calls"
    waiting = ("still open", f"{report.open:,}", share(report.open, report.rows))
    failed = ("without an answer", f"{report.failed:,}", share(report.failed, report.rows))
    return (
        ("answered", f"{report.answered:,}", f"{share(report.answered, report.rows)} of {count(report.rows, 'row')}"),
        failed if report.done or not report.open else waiting,
        ("cost", money(costs.paid_usd) if costs.paid_usd is not None else "unknown", tokens),
        ("time", duration(report.seconds), way),
    )
