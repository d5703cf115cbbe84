"""What is asked next of a job's open items, a thousand at a time, so that a million of them take no more memory.

What was answered before, for whatever job, is taken from the call cache instead of being asked.
"""

from __future__ import annotations

from array import array
from collections.abc import Collection, Iterator, Mapping, Sequence

from batch_jobs.lifecycle.asking import Ask, Asker
from batch_jobs.lifecycle.merger import Merger
from batch_jobs.lifecycle.run import Run
from batch_jobs.models import AskKind
from batch_jobs.storage import drafts, items
from batch_jobs.storage.jobs import Job

CHUNK = 1_000


class Questions:
    """The next requests of open items.

    An item that is taken a step further by what was answered before is set aside: `moved` tells which of those are
    still open, to be looked at once more.
    """

    def __init__(self, run: Run, job: Job, asker: Asker) -> None:
        self._run, self._job, self._asker = run, job, asker
        self._merger = Merger(run, job, last_try=False, last_ask=False)
        self._moved = array("q")

    def by_kind(self, waiting: Sequence[int]) -> dict[AskKind, array[int]]:
        """Sort open items by what is asked of them next; each kind's in the same order."""
        fresh = frozenset[int]()
        if self._job.rules.rows_per_request > 1:
            with self._run.project.ledger.read() as connection:
                fresh = items.never_sent(connection, self._job.task_id)
        found: dict[AskKind, array[int]] = {}
        for part in _chunks(waiting):
            with self._run.project.ledger.read() as connection:
                steps = drafts.steps(connection, self._job.task_id, part)
            for item in part:
                kind = steps.get(item) or (AskKind.BUNDLE if item in fresh else AskKind.ANSWER)
                found.setdefault(kind, array("q")).append(item)
        return found

    def asks(self, kind: AskKind, chosen: Sequence[int]) -> Iterator[Ask]:
        """The requests of items of which this is asked next, each by itself; not where the answer is there already."""
        for part in _chunks(chosen):
            with self._run.project.ledger.read() as connection:
                known = drafts.some(connection, self._job.task_id, part)
            self._asker.look_up(known.values())
            asks = {item: self._asker.ask(kind, item, known.get(item)) for item in part}
            taken = self._taken(kind, {item: ask.calls[0] for item, ask in asks.items()})
            yield from (ask for item, ask in asks.items() if item not in taken)

    def unanswered(self, chosen: Sequence[int]) -> array[int]:
        """Of items that are to be asked for together those whose answers are not there already."""
        found = array("q")
        for part in _chunks(chosen):
            taken = self._taken(AskKind.BUNDLE, {item: self._asker.share(item) for item in part})
            found.extend(item for item in part if item not in taken)
        return found

    def moved(self) -> list[int]:
        """The items that were taken a step further since this was last asked, and are still open."""
        moved, self._moved = self._moved, array("q")
        still = list[int]()
        for part in _chunks(moved):
            with self._run.project.ledger.read() as connection:
                records = items.some(connection, self._job.task_id, part)
            still += (item for item in part if records[item].outcome is None)
        return still

    def _taken(self, kind: AskKind, calls: Mapping[int, bytes]) -> Collection[int]:
        """Go on with the items whose next call was answered before; only a judged job keeps calls by themselves."""
        if self._job.rules.judge is None:
            return ()
        there = self._run.project.cache.known(calls.values())
        answered = {item: call for (item, call), known in zip(calls.items(), there, strict=True) if known}
        if answered:
            self._merger.take_known(kind, answered)
            self._moved.extend(answered)
        return answered.keys()


def _chunks(chosen: Sequence[int]) -> Iterator[Sequence[int]]:
    return (chosen[start : start + CHUNK] for start in range(0, len(chosen), CHUNK))
