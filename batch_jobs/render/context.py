"""The context of a row: which cells a prompt shows as data, in which order and form, and how much of them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, NamedTuple

Order = Literal["given", "file", "alphabetical"]
PLACE = re.compile(r"\{(number|name|value)\}")
CUT = "…"
TAG = "data_points"


@dataclass(frozen=True, slots=True)
class ContextRules:
    """How a data case's rows are shown.

    Attributes:
        all_columns: start from all columns of the file; else from the mandatory ones.
        include: further columns.
        exclude: columns that are left out.
        order: as given (the mandatory ones as config.json has them, then `include`), as in the file, or by name.
        template: of a line, with {number}, {name} and {value}.
        max_cell_chars: of a cell; what is more is cut off and marked.
        max_chars: of all lines together; what is more is cut off and marked.
    """

    all_columns: bool = False
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    order: Order = "given"
    template: str = "{number}: {name}: {value}"
    max_cell_chars: int | None = None
    max_chars: int | None = None

    @property
    def cuts(self) -> bool:
        """Whether anything is ever cut off."""
        return self.max_cell_chars is not None or self.max_chars is not None


MANDATORY = ContextRules()


class Context(NamedTuple):
    """A row's context.

    Attributes:
        cut: characters that were left out.
    """

    text: str
    cut: int


def context_of(rules: ContextRules, mandatory: Mapping[str, str], row: Mapping[str, str]) -> Context:
    """Show a row: its cells as lines, in a tag that no cell can close.

    Args:
        rules: which cells, and how.
        mandatory: the mandatory columns, in config order.
        row: column name -> cell, in file order.
    """
    cut, lines = 0, list[str]()
    for number, name in enumerate(columns_of(rules, tuple(mandatory), tuple(row)), 1):
        value, less = _cut(row[name], rules.max_cell_chars)
        cut += less
        values = {"number": str(number), "name": name, "value": value}
        lines.append(_filled(rules.template, values))
    text, less = _cut(as_data("\n".join(lines), TAG), rules.max_chars)
    return Context(f"<{TAG}>\n{text}\n</{TAG}>", cut + less)


@lru_cache(maxsize=8)
def columns_of(rules: ContextRules, mandatory: tuple[str, ...], columns: tuple[str, ...]) -> tuple[str, ...]:
    """The columns that are shown, in order; the same for every row of a file."""
    chosen = dict.fromkeys([*(columns if rules.all_columns else mandatory), *rules.include])
    shown = [name for name in chosen if name not in rules.exclude]
    if rules.order == "alphabetical":
        shown.sort()
    elif rules.order == "file":
        shown.sort(key=columns.index)
    return tuple(shown)


def _filled(template: str, values: Mapping[str, str]) -> str:
    return PLACE.sub(lambda found: values[found[1]], template)


def _cut(text: str, limit: int | None) -> tuple[str, int]:
    if limit is None or len(text) <= limit:
        return text, 0
    return text[:limit] + CUT, len(text) - limit


def as_data(text: str, tag: str) -> str:
    """Leave a text as it is, except that it can't close the tag it stands in."""
    return re.sub(rf"<(?=[^\w<>]*{tag})", "&lt;", text, flags=re.IGNORECASE)
