"""The table of a run: for the terminal, for docs/performance.md between its two markers, and as results.json."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import orjson

from benchmarks.lines import Outcome, Side, Unit, Verdict, document, outcome_of

BEGIN = "<!-- figures: begin (written by `make bench`) -->"
END = "<!-- figures: end -->"
HEADER = ("what", "figure", "bar", "verdict", "product", "against")
LIBRARIES = ("duckdb", "openai", "orjson", "pyarrow", "python-calamine", "xlsxwriter")


class NoMarkers(Exception):
    """The page has no place for the table, or more than one."""


def cells(outcome: Outcome) -> tuple[str, ...]:
    """One outcome as the cells of its table line."""
    return (
        outcome.what,
        figure(outcome.figure, outcome.unit),
        f"{outcome.bar} {outcome.unit}" if outcome.bar else "",
        outcome.said,
        _side(outcome.product, named=False),
        _side(outcome.other, named=True),
    )


def figure(value: float | None, unit: Unit) -> str:
    """A figure with its unit, as exact as its size deserves."""
    if value is None:
        return ""
    match unit:
        case Unit.MEGABYTES | Unit.ROWS:
            return f"{value:,.0f} {unit}"
        case Unit.TIMES | Unit.SECONDS:
            return f"{value:,.2f} {unit}" if abs(value) < 100 else f"{value:,.0f} {unit}"
        case Unit.PERCENT:
            return f"{value:.2f} {unit}"


def _side(side: Side | None, *, named: bool) -> str:
    if side is None:
        return ""
    parts = [f"{side.seconds:,.2f} s"]
    if side.rows:
        parts.append(f"{side.rows_per_second:,.0f} rows/s")
    if side.peak_bytes:
        parts.append(f"{side.peak_bytes / 1e6:,.0f} MB")
    return (f"{side.name}: " if named else "") + ", ".join(parts)


def markdown(outcomes: Sequence[Outcome]) -> str:
    """The table for the page, its runs above it and its notes below."""
    runs: dict[str, list[str]] = {}
    for outcome in outcomes:
        names = runs.setdefault(outcome.run, [])
        names += [outcome.line] if outcome.line not in names else []
    told = [run if len(runs) == 1 else f"{run} Lines: {', '.join(names)}." for run, names in runs.items()]
    lines = ["\n\n".join(told), "", f"| {' | '.join(HEADER)} |", f"|{' --- |' * len(HEADER)}"]
    lines += [f"| {' | '.join(cell.replace('|', '/') for cell in cells(outcome))} |" for outcome in outcomes]
    return "\n".join([*lines, *_notes(outcomes)])


def plain(outcomes: Sequence[Outcome]) -> str:
    """The table for the terminal."""
    rows = [HEADER, *(cells(outcome) for outcome in outcomes)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEADER))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([*lines, *_notes(outcomes)])


def _notes(outcomes: Sequence[Outcome]) -> list[str]:
    """What a reader must know besides, each once, below an empty line; nothing when there is nothing."""
    notes = dict.fromkeys(f"- {outcome.what}: {outcome.note}." for outcome in outcomes if outcome.note)
    return ["", *notes] if notes else []


def about(base_rows: int, full_rows: int) -> str:
    """When, where and with what a run was made."""
    libraries = ", ".join(f"{name} {version(name)}" for name in LIBRARIES)
    scaled = "" if base_rows == full_rows else f" **Scaled down: {base_rows:,} rows stand for {full_rows:,}.**"
    return (
        f"Run of {datetime.now(UTC):%Y-%m-%d %H:%M} UTC on {os.cpu_count()} cores, Python {platform.python_version()}, "
        f"Linux {platform.release().partition('-')[0]}; {libraries}.{scaled}"
    )


def results(outcomes: Iterable[Outcome]) -> dict[str, Any]:
    """What stands in results.json."""
    return {"outcomes": [document(outcome) for outcome in outcomes]}


def kept(path: Path, fresh: Sequence[Outcome], order: Sequence[str]) -> list[Outcome]:
    """Fresh outcomes, put in among those of earlier runs that are in results.json: what was not run stays as it was.

    Args:
        path: results.json, if there is one.
        fresh: of this run.
        order: names of all lines; outcomes of a line that is gone are dropped.
    """
    try:
        before = [outcome_of(found) for found in orjson.loads(path.read_bytes())["outcomes"]]
    except (OSError, ValueError, KeyError, TypeError):
        before = []
    names = {outcome.line for outcome in fresh}
    together = [*fresh, *(outcome for outcome in before if outcome.line not in names and outcome.line in order)]
    return sorted(together, key=lambda outcome: order.index(outcome.line))


def put_between_markers(page: str, table: str) -> str:
    """The page with the table in its place.

    Raises:
        NoMarkers: it does not have each marker once, in this order.
    """
    if page.count(BEGIN) != 1 or page.count(END) != 1 or page.index(BEGIN) > page.index(END):
        raise NoMarkers(f"docs/performance.md must hold, once each and in this order: {BEGIN} and {END}")
    before, _, rest = page.partition(BEGIN)
    return f"{before}{BEGIN}\n\n{table}\n\n{END}{rest.partition(END)[2]}"


def summary(outcomes: Sequence[Outcome]) -> str:
    """How many bars were met, in one line."""
    counts = {verdict: sum(outcome.verdict is verdict for outcome in outcomes) for verdict in Verdict}
    return ", ".join(f"{count} {verdict}" for verdict, count in counts.items() if count)
