"""The report as one HTML page: no script, no network, every text of the job escaped by the template engine."""

from __future__ import annotations

from importlib.resources import files
from urllib.parse import quote

from batch_jobs.models import JobOutcome
from batch_jobs.output import report_words
from batch_jobs.output.report_charts import (
    Chart,
    answers_chart,
    batches_chart,
    latency_chart,
    scores_chart,
    throughput_chart,
)
from batch_jobs.output.report_facts import Report
from batch_jobs.output.words import when

TEMPLATE = "report.html.jinja"
GENERATOR = "batch-jobs report"
"""What says that a page is one of ours, and may be written anew."""
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
"""What a browser may do with the page: show it."""
_TONES = {JobOutcome.COMPLETE: "good", JobOutcome.FAILED: "bad"}


def html_of(report: Report) -> bytes:
    """The whole page; the same report gives the same bytes."""
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, keep_trailing_newline=True)
    environment.filters |= {"when": when, "address": address, "shown": shown}
    template = environment.from_string(files(__package__).joinpath(TEMPLATE).read_text(encoding="utf-8"))
    page = template.render(
        report=report,
        words=report_words,
        charts=_charts(report),
        scores=scores_chart(report.judged) if report.judged is not None else None,
        judged=report_words.verdicts(report),
        tone=_TONES.get(report.outcome, "wait") if report.outcome is not None else "wait",
        generator=GENERATOR,
        policy=POLICY,
    )
    return page.encode("utf-8", "replace")


def _charts(report: Report) -> list[Chart]:
    found = [answers_chart(report.pace), throughput_chart(report.pace)] if report.pace is not None else []
    if report.latency is not None:
        found.append(latency_chart(report.latency))
    batches = batches_chart(report.way.batches)
    return [*found, batches] if batches is not None else found


def address(path: str) -> str:
    """A relative path as an address: no part of it can be taken for a scheme, a query or a fragment."""
    quoted = quote(path, safe="/")
    return quoted if quoted.startswith((".", "/")) else f"./{quoted}"


def shown(text: str) -> str:
    """A cell as a page can show it: control characters made visible, an empty cell told from none."""
    clean = "".join(char if char.isprintable() or char in "\n\t" or char.isspace() else "\ufffd" for char in text)
    return clean if clean.strip() else "(empty)"
