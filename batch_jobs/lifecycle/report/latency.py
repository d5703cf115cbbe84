"""How long single calls took, from the record of what they brought: four bytes a call, then bins that can be read."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from math import floor
from typing import Any

from batch_jobs.lifecycle.pool.artefacts import read_received
from batch_jobs.lifecycle.project import Project
from batch_jobs.models import AskKind, Outcome
from batch_jobs.output.report_facts import Latency, Took

MOST_BINS, FEWEST_BINS = 24, 6
TAIL = 0.01
"""Of the calls at either end, for which no bins are made."""
SHORTEST = 0.001
"""Seconds below which no bins are made."""
EVEN_FACTOR = 5
"""Between slow and quick; up to that the bins are equally long, beyond each is longer than the one before."""
_STEPS = (1, 2, 5)
_LADDERS = (
    (1, 1.12, 1.25, 1.4, 1.6, 1.8, 2, 2.24, 2.5, 2.8, 3.15, 3.55, 4, 4.5, 5, 5.6, 6.3, 7.1, 8, 9),
    (1, 1.25, 1.6, 2, 2.5, 3.15, 4, 5, 6.3, 8),
    (1, 1.6, 2.5, 4, 6.3),
    (1, 2, 5),
)
"""Where bins begin within each power of ten, from fine to coarse: preferred numbers (ISO 3), whose ratios are equal."""
Times = Mapping[str, "array[float]"]


def latency_of(project: Project, task_id: str, calls: int) -> Latency | None:
    """How long the single calls of a job took; None where nothing is kept of it.

    Args:
        project: the project.
        task_id: the job.
        calls: that the ledger has of it.
    """
    return latency_from(times_of(read_received(project.workspace.calls_received(task_id))), calls)


def times_of(received: Iterable[Mapping[str, Any]]) -> Times:
    """Seconds of each call that brought an answer, good or not, by what it asked for; in no order."""
    answers, verdicts = array("f"), array("f")
    for call in received:
        seconds = call.get("last_seconds")
        if not isinstance(seconds, float) or (call.get("outcome") == Outcome.ERRORED and not call.get("billed")):
            continue
        (verdicts if call.get("kind") == AskKind.JUDGE else answers).append(seconds)
    return {asks: times for asks, times in (("answers", answers), ("verdicts", verdicts)) if times}


def latency_from(times: Times, calls: int) -> Latency | None:
    """The figures of some calls' seconds; None without any."""
    import numpy as np

    if not times:
        return None
    ascending = {asks: np.sort(np.frombuffer(seconds, dtype=np.float32)) for asks, seconds in times.items()}
    low = min(_at(seconds, TAIL) for seconds in ascending.values())
    high = max(_at(seconds, 1 - TAIL) for seconds in ascending.values())
    known = sum(map(len, times.values()))
    edges = edges_between(low, high, bins_for(known))
    series = tuple(_took(asks, seconds, edges) for asks, seconds in ascending.items())
    return Latency(edges, series, max(calls - known, 0))


def _at(ascending: Any, part: float) -> float:
    return float(ascending[int((len(ascending) - 1) * part)])


def _took(asks: str, ascending: Any, edges: Sequence[float]) -> Took:
    ends = [0, *ascending.searchsorted(edges).tolist(), len(ascending)]
    return Took(
        asks=asks,
        calls=len(ascending),
        quickest=_at(ascending, 0.0),
        median=_at(ascending, 0.5),
        p95=_at(ascending, 0.95),
        slowest=_at(ascending, 1.0),
        counts=tuple(end - start for start, end in pairwise(ends)),
    )


def bins_for(calls: int) -> int:
    """How many bins so many calls can fill: twice the cube root (Rice's rule)."""
    return min(max(int(2 * calls ** (1 / 3)), FEWEST_BINS), MOST_BINS)


def edges_between(low: float, high: float, most: int) -> tuple[float, ...]:
    """Where bins begin and end so that they hold all between two times, in seconds; numbers of few digits.

    Args:
        low: of the quick calls.
        high: of the slow ones; below the last edge.
        most: bins; a few more where times differ by many powers of ten.
    """
    low = max(low, SHORTEST)
    high = max(high, low)
    if high <= EVEN_FACTOR * low:
        return _even(low, high, most)
    found = (tuple(_between(_powers(ladder), low, high)) for ladder in _LADDERS)
    fitting = [edges for edges in found if len(edges) <= most + 1]
    return fitting[0] if fitting else tuple(_between(_powers(_LADDERS[-1]), low, high))


def _even(low: float, high: float, most: int) -> tuple[float, ...]:
    """Edges at equal distances: the shortest that is short enough, and no shorter than what a reader could tell."""
    wanted = max(high - low, high / 10) / (most - 1)
    step = next(step for step in _powers(_STEPS) if step >= wanted)
    first, last = (floor(seconds / step + 1e-9) for seconds in (low, high))
    return tuple(round(place * step, 9) for place in range(first, last + 2))


def _powers(numbers: Sequence[float]) -> Iterator[float]:
    """The numbers times each power of ten, from 1 µs on."""
    return (round(number * 10.0**power, 9) for power in range(-6, 10) for number in numbers)


def _between(numbers: Iterable[float], low: float, high: float) -> Iterator[float]:
    """Of ascending numbers the last one up to `low`, those between, and the first one above `high`."""
    before = 0.0
    for number in numbers:
        if number > low:
            yield before
        before = number
        if number > high:
            yield number
            return
