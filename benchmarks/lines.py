"""What a benchmark line is, and how its figure is judged: plain values and pure functions.

A bar is a promise with a number; a figure meets it, falls short of it (by up to a tenth), or misses it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from enum import StrEnum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from benchmarks.stage import Stage

TOLERATED_SHORTFALL = 0.10
"""A bar that is missed by more than this fails the run."""


MAX_WHY_CHARS = 300


class Unit(StrEnum):
    """What a figure counts."""

    TIMES = "x"
    SECONDS = "s"
    MEGABYTES = "MB"
    PERCENT = "%"
    ROWS = "rows"


class Verdict(StrEnum):
    """How a figure stands to its bar."""

    MET = "met"
    SHORT = "short"  # by at most a tenth
    MISSED = "missed"
    INFORMATION = "for information"  # has no bar
    NOT_RUN = "not run"  # a peer that can't be had
    BROKEN = "broken"  # a program of ours ended with an error


@dataclass(frozen=True, slots=True)
class Bar:
    """What a figure has to be.

    Attributes:
        limit: in the figure's unit.
        at_least: the figure must not be below it; otherwise it must not be above.
        strict: the limit itself does not do ("faster than").
    """

    limit: float
    at_least: bool = True
    strict: bool = False

    def __str__(self) -> str:
        sign = ">" if self.at_least else "<"
        return f"{sign}{'' if self.strict else '='} {_plain(self.limit)}"


def at_least(limit: float) -> Bar:
    """A bar for figures of which more is better."""
    return Bar(limit)


def at_most(limit: float) -> Bar:
    """A bar for figures of which less is better."""
    return Bar(limit, at_least=False)


@dataclass(frozen=True, slots=True)
class Side:
    """What one program needed.

    Attributes:
        name: the product, the floor, or a peer with its version.
        seconds: wall clock of the work.
        rows: how many were worked on.
        peak_bytes: memory at its highest; 0 where it was not looked at.
    """

    name: str
    seconds: float
    rows: int
    peak_bytes: int = 0

    @property
    def rows_per_second(self) -> float:
        """Speed."""
        return self.rows / self.seconds if self.seconds > 0 else 0.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """One line of the table.

    Attributes:
        line: name of the benchmark line that it belongs to.
        what: what was measured, in words, with its number of rows.
        figure: what the bar is about; None when it was not run.
        note: what a reader must know to read the figure right.
        why_not: why it was not run.
        broken: it was our own program that failed.
        run: when and where, as one sentence.
    """

    line: str
    what: str
    unit: Unit
    figure: float | None
    bar: Bar | None = None
    product: Side | None = None
    other: Side | None = None
    note: str = ""
    why_not: str = ""
    broken: bool = False
    run: str = ""

    @property
    def shortfall(self) -> float:
        """By which share of the bar it is missed; 0 when it is met or there is none."""
        if self.figure is None or self.bar is None:
            return 0.0
        return shortfall(self.figure, self.bar)

    @property
    def verdict(self) -> Verdict:
        """How it stands to its bar."""
        if self.figure is None:
            return Verdict.BROKEN if self.broken else Verdict.NOT_RUN
        if self.bar is None:
            return Verdict.INFORMATION
        if holds(self.figure, self.bar):
            return Verdict.MET
        return Verdict.SHORT if self.shortfall <= TOLERATED_SHORTFALL else Verdict.MISSED

    @property
    def said(self) -> str:
        """The verdict in words."""
        if self.figure is None:
            return f"{self.verdict}: {self.why_not}"
        if self.verdict in {Verdict.SHORT, Verdict.MISSED}:
            percent = 100 * self.shortfall
            return f"{self.verdict} by {percent:.0f} %" if percent >= 1 else f"{self.verdict} by less than 1 %"
        return str(self.verdict)


def holds(figure: float, bar: Bar) -> bool:
    """Whether a figure meets a bar."""
    if figure == bar.limit:
        return not bar.strict
    return (figure > bar.limit) is bar.at_least


def shortfall(figure: float, bar: Bar) -> float:
    """The share of the bar by which a figure is on its wrong side; 0 on the right one.

    For a bar of 0 every miss is a whole one.
    """
    if holds(figure, bar):
        return 0.0
    return abs(figure - bar.limit) / abs(bar.limit) if bar.limit else 1.0


@dataclass(frozen=True, slots=True)
class Line:
    """One benchmark: a name to call it by, the promise, and how it is run.

    Attributes:
        name: for `--only`; outcomes carry it.
        promise: the bar in words.
        run: measures it on a stage.
        large: only with `--large`.
    """

    name: str
    promise: str
    run: Callable[[Stage], Sequence[Outcome]]
    large: bool = False


def ratio(line: str, what: str, product: Side, other: Side, bar: Bar, note: str = "") -> Outcome:
    """The product's speed as a multiple of the other's."""
    figure = product.rows_per_second / other.rows_per_second if other.rows_per_second else 0.0
    return Outcome(line, what, Unit.TIMES, figure, bar, product, other, note)


def memory(line: str, what: str, product: Side, bar: Bar, note: str = "") -> Outcome:
    """The product's peak memory in MB of 10^6 bytes."""
    return Outcome(line, what, Unit.MEGABYTES, product.peak_bytes / 1e6, bar, product, note=note)


def not_run(line: str, what: str, why: str, *, broken: bool = False) -> Outcome:
    """A line that could not be measured."""
    return Outcome(line, what, Unit.TIMES, None, why_not=" ".join(why.split())[-MAX_WHY_CHARS:], broken=broken)


def failing(outcomes: Iterable[Outcome]) -> list[Outcome]:
    """Those that let the whole run fail."""
    return [outcome for outcome in outcomes if outcome.verdict in {Verdict.MISSED, Verdict.BROKEN}]


def document(outcome: Outcome) -> dict[str, Any]:
    """An outcome as it stands in results.json: all its fields, and what follows from them for those who only read."""
    derived = {"verdict": outcome.verdict, "said": outcome.said, "shortfall": round(outcome.shortfall, 4)}
    rates = {
        f"{name}_rows_per_second": round(side.rows_per_second, 1)
        for name, side in (("product", outcome.product), ("other", outcome.other))
        if side is not None and side.rows
    }
    return {**asdict(outcome), **derived, **rates}


def outcome_of(found: Mapping[str, Any]) -> Outcome:
    """An outcome from results.json.

    Raises:
        KeyError, TypeError, ValueError: it is none; an older suite may have written it.
    """
    values = {field.name: found[field.name] for field in fields(Outcome)}
    values["unit"] = Unit(values["unit"])
    for name, kind in (("bar", Bar), ("product", Side), ("other", Side)):
        values[name] = kind(**values[name]) if values[name] is not None else None
    return Outcome(**values)


def _plain(number: float) -> str:
    return f"{number:g}"
