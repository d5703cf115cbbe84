"""How many lines a record takes in a text table, told in another way than the product does."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from batch_jobs.table import Addition, Table

LINE_BREAK = re.compile(r"\r\n|\r|\n")


def lines_of(cells: Sequence[str]) -> int:
    return 1 + sum(len(LINE_BREAK.findall(cell)) for cell in cells)


def additions_to(table: Table, ours: Sequence[Sequence[str]]) -> Iterator[Addition]:
    """Our cells with the lines that each row takes; where there are too few or too many of them, too."""
    lines = [lines_of(row.cells) for row in table.rows()]
    for number, cells in enumerate(ours):
        yield Addition(cells, lines[number] if number < len(lines) else 1)
