"""How each row ended, in two bytes a row: one pass over the items that failed, one over the plan's thin columns.

A million rows take a few MB here. Every figure about rows, and the choice of sample rows, follows from these codes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from batch_jobs.lifecycle.cells import REASONS
from batch_jobs.lifecycle.project import Project
from batch_jobs.models import Outcome
from batch_jobs.output.report_facts import Ended, Problem
from batch_jobs.storage import statistics
from batch_jobs.storage.jobs import Job

OPEN, ANSWERED, KNOWN, UNRENDERED = range(4)
FIRST_PROBLEM = 4
MOST_PROBLEMS = 2_000
"""Kinds of errors that are told apart; of what is more, one kind an outcome."""
SAID_CHARS = 300
_VARYING = re.compile(r"[0-9a-f]*\d[0-9a-f]*")
"""Numbers and ids: errors that differ in these only are one kind."""
_PLAIN = {
    ANSWERED: ("succeeded", "answered"),
    KNOWN: ("known", "answered before, nothing was sent"),
    OPEN: ("open", "not answered yet"),
    UNRENDERED: ("unrendered", "the prompt could not be made"),
}


@dataclass
class Kinds:
    """The kinds of errors that were met, each with a code."""

    codes: dict[tuple[str, str, str], int] = field(default_factory=dict)
    outcomes: list[str] = field(default_factory=list)
    said: list[str] = field(default_factory=list)

    def code_of(self, outcome: str, code: str, detail: str) -> int:
        """The code of an error; a new one where it is of a new kind."""
        key = outcome, code, _alike(detail)
        if key not in self.codes:
            if len(self.codes) >= MOST_PROBLEMS:
                key, code, detail = (outcome, "", ""), "", "and more kinds of errors"
            if key not in self.codes:
                self.codes[key] = FIRST_PROBLEM + len(self.outcomes)
                self.outcomes.append(outcome)
                parts = (part for part in (code, detail) if part and part not in ("schema", outcome))
                self.said.append(": ".join(parts)[:SAID_CHARS])
        return self.codes[key]


@lru_cache(10_000)
def _alike(detail: str) -> str:
    return _VARYING.sub("#", detail.lower())


@dataclass(frozen=True)
class Rows:
    """How the rows ended.

    Attributes:
        codes: of each row, in file order; a numpy array of uint16.
        leads: of each row, whether it is the first of its item; a numpy array of bool.
        kinds: what the codes from `FIRST_PROBLEM` on mean.
        totals: rows by code; `firsts`: the first row of each, as the spreadsheet shows it.
        known_items: items that were answered before.
        cut_rows, cut_chars, cut_most: rows whose prompt was shortened, by how many characters in all and at most.
    """

    codes: Any
    leads: Any
    kinds: Kinds
    totals: dict[int, int]
    firsts: dict[int, int]
    known_items: int
    cut_rows: int
    cut_chars: int
    cut_most: int

    def ended(self) -> tuple[Ended, ...]:
        """Rows by outcome, answered ones first, open ones last, the most frequent failures between them."""
        plain = [Ended(*_PLAIN[code], self.totals[code]) for code in (ANSWERED, KNOWN) if self.totals.get(code)]
        failed: dict[str, int] = {}
        for code, outcome in enumerate(self.kinds.outcomes, FIRST_PROBLEM):
            failed[outcome] = failed.get(outcome, 0) + self.totals.get(code, 0)
        found = [Ended(outcome, words_of(outcome), rows) for outcome, rows in failed.items() if rows]
        if self.totals.get(UNRENDERED):
            found.append(Ended(*_PLAIN[UNRENDERED], self.totals[UNRENDERED]))
        left = [Ended(*_PLAIN[OPEN], self.totals[OPEN])] if self.totals.get(OPEN) else []
        return (*plain, *sorted(found, key=lambda ended: -ended.rows), *left)

    def problems(self, limit: int) -> tuple[Problem, ...]:
        """The most frequent errors."""
        found = [
            Problem(words_of(outcome), said, self.totals[code], self.firsts[code])
            for code, (outcome, said) in enumerate(
                zip(self.kinds.outcomes, self.kinds.said, strict=True), FIRST_PROBLEM
            )
            if self.totals.get(code)
        ]
        if self.totals.get(UNRENDERED):
            why = "see the status column for the reason of each row"
            found.append(Problem(_PLAIN[UNRENDERED][1], why, self.totals[UNRENDERED], self.firsts[UNRENDERED]))
        return tuple(sorted(found, key=lambda problem: (-problem.rows, problem.row))[:limit])

    def sample(self, wanted: int, failed: int) -> list[int]:
        """Positions of sample rows, ascending: spread over the file, with up to `failed` that have no answer.

        The same rows for the same job, always; of rows that share a request only the first.
        """
        import numpy as np

        good = np.flatnonzero(((self.codes == ANSWERED) | (self.codes == KNOWN)) & self.leads)
        bad = np.flatnonzero((self.codes >= UNRENDERED) & self.leads)
        left = np.flatnonzero((self.codes == OPEN) & self.leads)
        chosen = _spread(bad, max(failed, wanted - len(good) - len(left)))
        chosen += _spread(good, wanted - len(chosen))
        chosen += _spread(left, wanted - len(chosen))
        return sorted(chosen)


def _spread(positions: Any, wanted: int) -> list[int]:
    """So many of the positions, evenly over all of them."""
    number = min(max(wanted, 0), len(positions))
    return [int(positions[(2 * place + 1) * len(positions) // (2 * number)]) for place in range(number)]


def words_of(outcome: str) -> str:
    """An outcome for people."""
    return REASONS[Outcome(outcome)] if outcome in REASONS else outcome.replace("_", " ")


def rows_of(project: Project, job: Job, items: int) -> Rows:
    """Look at every row of a planned job.

    Args:
        project: the project.
        job: planned.
        items: how many it has.
    """
    import numpy as np

    kinds = Kinds()
    of_item = np.full(items + 1, ANSWERED, dtype=np.uint16)
    of_item[items] = UNRENDERED  # where a row's item, -1, is looked up
    with project.ledger.read() as connection:
        for item, outcome, known, code, detail in statistics.not_simply_answered(connection, job.task_id):
            if outcome is None:
                of_item[item] = OPEN
            elif outcome == Outcome.SUCCEEDED:
                of_item[item] = KNOWN if known else ANSWERED
            else:
                of_item[item] = kinds.code_of(outcome, code or "", (detail or "")[:SAID_CHARS])
    return _pass(project.workspace.plan(job.task_id) / "rows.parquet", of_item, kinds)


def _pass(path: Path, of_item: Any, kinds: Kinds) -> Rows:
    """One pass over the plan's rows, by its ranges."""
    import numpy as np

    totals: dict[int, int] = {}
    firsts: dict[int, int] = {}
    parts, leads, cut_rows, cut_chars, cut_most = [], [], 0, 0, 0
    seen = np.zeros(len(of_item), dtype=bool)
    for item, number, cut in _ranges(path):
        codes = of_item[item]
        parts.append(codes)
        leads.append(_leads(item, seen))
        found, places, amounts = np.unique(codes, return_index=True, return_counts=True)
        for code, place, amount in zip(found.tolist(), places.tolist(), amounts.tolist(), strict=True):
            totals[code] = totals.get(code, 0) + amount
            firsts.setdefault(code, int(number[place]))
        cut_rows += int(np.count_nonzero(cut))
        cut_chars += int(cut.sum())
        cut_most = max(cut_most, int(cut.max(initial=0)))
    known = int(np.count_nonzero(of_item == KNOWN))
    return Rows(
        np.concatenate(parts), np.concatenate(leads), kinds, totals, firsts, known, cut_rows, cut_chars, cut_most
    )


def _leads(item: Any, seen: Any) -> Any:
    """Whether each row of a range is the first of its item, of those not `seen` before; a row without one always is."""
    import numpy as np

    first = np.zeros(len(item), dtype=bool)
    first[np.unique(item, return_index=True)[1]] = True
    first &= ~seen[item]
    seen[item] = True
    return first | (item < 0)


def _ranges(path: Path) -> Iterator[tuple[Any, Any, Any]]:
    """Item (-1 for none), number and characters cut of each row, a range at a time, as numpy arrays."""
    import numpy as np
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        has_cut = "cut" in file.schema_arrow.names  # plans of older versions do not tell
        names = ["item", "number", *(["cut"] if has_cut else [])]
        for group in range(file.num_row_groups):
            table = file.read_row_group(group, columns=names, use_threads=False)
            item, number = _numbers(table.column("item")), _numbers(table.column("number"))
            yield item, number, _numbers(table.column("cut")) if has_cut else np.zeros(len(item), dtype=np.int64)


def _numbers(column: Any) -> Any:
    """An int64 column as a numpy array, -1 for nothing; by its buffers, as Arrow's own ways there import pandas."""
    import numpy as np

    one = column.combine_chunks()
    there, values = one.buffers()
    numbers = np.frombuffer(values, dtype=np.int64)[one.offset : one.offset + len(one)]
    if not one.null_count:
        return numbers
    bits = np.unpackbits(np.frombuffer(there, dtype=np.uint8), bitorder="little")
    return np.where(bits[one.offset : one.offset + len(one)] == 1, numbers, -1)
